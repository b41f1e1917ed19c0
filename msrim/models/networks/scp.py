"""SCP: a classifier whose weights depend on where a pixel lies, and its comparators (Zhang et al. 2023, IJCAI).

The paper prints neither the backbone's widths nor those of the function from position to weights, but the ratios of its
Table 1 pin them: a U-Net of five levels, two convolutions with batch norm a level, transposed convolutions on the way
up, its widths ``channels / 16`` to ``channels``, and ``channels / 2`` hidden units. Parameters, operations and memory
beside the paper's: `python -m tests.benchmarks.scp_cost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

LEVELS = 5
# Pixels to order 1. A constant, not the image's size: the same distance to an edge is the same number in every image.
PIXELS = 100.0
# First logit of everything where there is a bias: most pixels are no lesion.
PRIOR_LOGIT = -2.0


class SCP(nn.Module):
    """A U-Net that works within axial slices, with one of four heads.

    Parameters
    ----------
    head : str
        ``scp``: weights from the position of a pixel (Eq. 13). ``base``: the same weights everywhere (Eq. 2).
        ``base-f``: that with the position joined to the input. ``base-b``: that with the position joined before the
        last convolution.
    channels : int
        Of the deepest level, N_c in the paper: 128, 256 or 512; a multiple of 16.
    in_channels : int
        Image channels.
    plane : (2,) int
        Pixels of the slices that it is trained and used on, cut or padded around their middle (:func:`fit_to_plane`):
        a position is a distance to their edges. Multiples of 16.
    bias : bool
        Of the ``scp`` head's shared classifier. The paper goes without: its input, a z-score, has no offset. Where
        lesions are rare all weights may then turn negative, and no logit rises above zero.

    Notes
    -----
    Maps (N, C, X, Y, Z) to logits (N, 1, X, Y, Z), and a single slice (N, C, X, Y) to (N, 1, X, Y). No kernel reaches
    into another slice. X and Y must be multiples of 16.

    Examples
    --------
    >>> SCP(channels=32, in_channels=2)(torch.zeros(1, 2, 16, 32)).shape
    torch.Size([1, 1, 16, 32])
    """

    def __init__(
        self,
        head: Literal["scp", "base", "base-f", "base-b"] = "scp",
        channels: int = 256,
        in_channels: int = 3,
        plane: Sequence[int] = (160, 224),
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.plane = tuple(plane)
        features = channels // 2 ** (LEVELS - 1)
        self.position_in_input = head == "base-f"
        self.backbone = Backbone(in_channels + 4 * self.position_in_input, channels)
        if head == "scp":
            self.head: nn.Module = CovariantHead(features, channels // 2, bias=bias)
        elif head == "base-b":
            self.head = CoordinateHead(features)
        else:
            self.head = nn.Conv3d(features, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return self(x[..., None])[..., 0]
        return self.head(self.backbone(_with_position(x) if self.position_in_input else x))


def four_distances(x: Tensor) -> Tensor:
    """Distance of every pixel to the four edges of its slice, S of Eq. 5, in hundreds of pixels: (1, 4, X, Y, 1).

    Examples
    --------
    >>> (100 * four_distances(torch.zeros(1, 1, 2, 3, 1))[0, :, 1, 2, 0]).int().tolist()
    [1, 2, 1, 1]
    """
    height, width = x.shape[2:4]
    i, j = torch.meshgrid(torch.arange(height, device=x.device), torch.arange(width, device=x.device), indexing="ij")
    return torch.stack([i, j, height - i, width - j])[None, ..., None].to(x.dtype) / PIXELS


class CoordinateHead(nn.Sequential):
    """A coordinate convolution (Liu et al. 2018), then the classifier."""

    def __init__(self, features: int) -> None:
        super().__init__(
            nn.Conv3d(features + 4, features, 1, bias=False),
            nn.BatchNorm3d(features),
            nn.ReLU(inplace=True),
            nn.Conv3d(features, 1, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(_with_position(features))


class CovariantHead(nn.Module):
    """Weights as a smooth function of the position, plus shared ones: ``Y = (W(S) + w_r)^T X`` (Eq. 12 and 13)."""

    def __init__(self, features: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weights_of = nn.Sequential(
            nn.Conv3d(4, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden, features, 1),
        )
        self.shared = nn.Conv3d(features, 1, 1, bias=bias)
        if bias:
            nn.init.constant_(self.shared.get_parameter("bias"), PRIOR_LOGIT)

    def forward(self, features: Tensor) -> Tensor:
        # One set of weights for the whole batch and all slices: they are of one size.
        weights = self.weights_of(four_distances(features))
        return (weights * features).sum(1, keepdim=True) + self.shared(features)


def _with_position(x: Tensor) -> Tensor:
    return torch.cat([x, four_distances(x).expand(len(x), -1, -1, -1, x.shape[-1])], dim=1)


class Backbone(nn.Module):
    """U-Net of five levels that halve the resolution, ``channels / 16`` features at full resolution out."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        widths = [channels // 2 ** (LEVELS - 1 - level) for level in range(LEVELS)]
        self.encoder = nn.ModuleList(map(_two_convolutions, [in_channels, *widths[:-1]], widths))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose3d(2 * fine, fine, (2, 2, 1), stride=(2, 2, 1)) for fine in widths[-2::-1]
        )
        self.decoder = nn.ModuleList(_two_convolutions(2 * fine, fine) for fine in widths[-2::-1])

    def forward(self, x: Tensor) -> Tensor:
        skips = [x := self.encoder[0](x)]
        for block in self.encoder[1:]:
            skips.append(x := block(nn.functional.max_pool3d(x, (2, 2, 1))))
        skips.pop()
        for upsample, block in zip(self.upsample, self.decoder, strict=True):
            x = block(torch.cat([upsample(x), skips.pop()], dim=1))
        return x


def _two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (in_channels, out_channels):
        layers += [
            nn.Conv3d(before, out_channels, (3, 3, 1), padding=(1, 1, 0), bias=False),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
