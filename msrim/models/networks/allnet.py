"""ALL-Net: anatomical coordinates and a lesion-wise loss (Zhang et al. 2021, doi:10.1016/j.nicl.2021.102854)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msrim.models.networks.unet import UNet

COORDINATES = 6


def convolution(in_channels: int, out_channels: int, *, in_plane: bool) -> nn.Sequential:
    """3x3x3 convolution, or 3x3 in the axial plane, then batch norm and ReLU."""
    kernel, padding = ((3, 3, 1), (1, 1, 0)) if in_plane else (3, 1)
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel, padding=padding, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    )


class AnaConv(nn.Module):
    """Append the six anatomical coordinates to the features, then 3x3x3 convolution, batch norm and ReLU (section 2.3).

    Parameters
    ----------
    in_channels, out_channels : int
    coordinates : int
        How many of them are appended; with 0 it is the plain convolution that AnaConv is compared with.

    Examples
    --------
    >>> AnaConv(4, 8)(torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 6, 2, 2, 2)).shape
    torch.Size([1, 8, 2, 2, 2])
    """

    def __init__(self, in_channels: int, out_channels: int, *, coordinates: int = COORDINATES) -> None:
        super().__init__()
        self.count = coordinates
        self.fuse = convolution(in_channels + coordinates, out_channels, in_plane=False)

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        return self.fuse(torch.cat([features, coordinates[:, : self.count]], dim=1))


class AnaConvHead(nn.Module):
    """Features of its own, AnaConv, then a voxel-wise perceptron: one logit a voxel.

    Parameters
    ----------
    in_channels, width : int
    in_plane : bool
        Whether the features stay in the axial plane.
    anaconv : bool
        Whether the head knows the coordinates.
    """

    def __init__(self, in_channels: int, width: int, *, in_plane: bool = False, anaconv: bool = True) -> None:
        super().__init__()
        self.features = convolution(in_channels, width, in_plane=in_plane)
        self.anatomy = AnaConv(width, width, coordinates=COORDINATES if anaconv else 0)
        self.perceptron = nn.Sequential(
            nn.Conv3d(width, 2 * width, 1), nn.LeakyReLU(0.01, inplace=True), nn.Conv3d(2 * width, 1, 1)
        )
        # Lesions are rare: start there, or the first hundreds of steps go into learning it (Lin et al. 2017).
        nn.init.constant_(self.perceptron.get_parameter("2.bias"), -2.0)

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        return self.perceptron(self.anatomy(self.features(features), coordinates))


class AllNet(nn.Module):
    """3-D U-Net with two AnaConv heads: lesions, and the 10 mm spheres of LesLoss.

    Parameters
    ----------
    contrasts : int
        Image channels; a missing contrast is a channel of zeros.
    widths : sequence of int
        Channels of the U-Net's levels, finest first.
    head_width : int
        Channels inside each head.
    in_plane : int
        See :class:`msrim.models.networks.unet.UNet`; from 1 on the heads' features stay in the plane too, AnaConv's
        never do.
    anaconv : bool
        Whether the heads know the coordinates; not in the baseline of the paper's Table 4.

    Notes
    -----
    Maps (N, contrasts + 6, X, Y, Z), images before coordinates, to logits (N, 2, X, Y, Z): lesion, sphere.
    """

    def __init__(
        self,
        contrasts: int = 3,
        widths: Sequence[int] = (16, 32, 64, 96),
        head_width: int = 8,
        in_plane: int = 0,
        anaconv: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = UNet(contrasts, widths=widths, norm=nn.BatchNorm3d, in_plane=in_plane)
        self.lesion = AnaConvHead(widths[0], head_width, in_plane=in_plane > 0, anaconv=anaconv)
        self.sphere = AnaConvHead(widths[0], head_width, in_plane=in_plane > 0, anaconv=anaconv)

    def forward(self, x: Tensor) -> Tensor:
        image, coordinates = x[:, :-COORDINATES], x[:, -COORDINATES:]
        features = self.backbone(image)
        return torch.cat([self.lesion(features, coordinates), self.sphere(features, coordinates)], dim=1)
