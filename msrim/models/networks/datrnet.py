"""DA-TR-Net: rims found by votes along gradients (Zhang et al. 2023, doi:10.1007/978-3-031-43895-0_72)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msrim.models.networks.resnet import ConvNormReLU, ResNet18
from msrim.ops import rim_transform

RADII = (5, 7, 9, 11, 13, 15)
# Votes along a ray of N voxels add up to N times a value; the transform's output is brought back to order 1.
EPS = 1e-3


class DATRNet(nn.Module):
    """Convolutions, the rim transformation of their features, and ResNet-18 (Fig. 3).

    Parameters
    ----------
    images : int
        Image channels, the QSM first.
    features : int
        Channels of the layers before the ResNet.
    radii : sequence of int
        Reach of the votes in voxels: each gives a pair of maps (Table 2, the sets of N).
    pre_convs : int
        Number of 3x3x3 layers before the transformation; with 0 it sees the raw images.
    values, gradients : bool
        Whether V_u and V_s are made; with neither this is ResNet-18 on what comes before.
    widths : sequence of int
        Channels of the ResNet's stages.

    Notes
    -----
    Maps patches (N, images, X, Y, Z), Z across the slices, to logits (N,).

    Examples
    --------
    >>> DATRNet(features=4, widths=(4, 4, 4, 4)).eval()(torch.zeros(2, 2, 32, 32, 8)).shape
    torch.Size([2])
    """

    def __init__(
        self,
        images: int = 2,
        features: int = 24,
        radii: Sequence[int] = RADII,
        pre_convs: int = 6,
        values: bool = True,
        gradients: bool = True,
        widths: Sequence[int] = (64, 128, 256, 512),
    ) -> None:
        super().__init__()
        self.radii, self.values, self.gradients = tuple(radii), values, gradients
        self.pre_convs = nn.Sequential(
            *(ConvNormReLU(images if layer == 0 else features, features) for layer in range(pre_convs))
        )
        self.join = ConvNormReLU(images + features, features, 1) if pre_convs else nn.Identity()
        seen = features if pre_convs else images
        maps = (values + gradients) * len(self.radii)
        self.fuse: nn.Module = ConvNormReLU(seen * maps, features, 1) if maps else nn.Identity()
        self.backbone = ResNet18(features if maps else seen, widths=widths)
        self.classify = nn.Linear(widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        if len(self.pre_convs):
            x = self.join(torch.cat([self.pre_convs(images), images], dim=1))
        if self.values or self.gradients:
            x = self.fused(x)
        return self.classify(self.backbone(x))[:, 0]

    def votes(self, x: Tensor) -> list[Tensor]:
        """V_u and V_s, those that are made, each (N, C, len(radii), X, Y, Z)."""
        v_u, v_s = rim_transform(x, self.radii, eps=EPS)
        return [v for v, made in ((v_u, self.values), (v_s, self.gradients)) if made]

    def fused(self, x: Tensor) -> Tensor:
        """The fusing layer's output for the votes, each divided by its radius: (N, features, X, Y, Z).

        As products of matrices, for the votes are many: a convolution would copy them twice.
        """
        _, norm, relu = self.fuse.children()
        scale = torch.tensor(self.radii, dtype=x.dtype, device=x.device).repeat(x.shape[1])
        votes = [v.flatten(1, 2).flatten(2) for v in self.votes(x)]
        weights = self.fuse.get_parameter("0.weight").flatten(1).split([v.shape[1] for v in votes], dim=1)
        fused = sum((weight / scale) @ v for weight, v in zip(weights, votes, strict=True))
        return relu(norm(fused.unflatten(2, x.shape[2:])))
