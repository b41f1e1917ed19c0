"""ALL-Net on the 2.5-D Tiramisu backbone, as in its ISBI-2015 experiment.

The Tiramisu is a densely connected 2-D U-Net (FC-DenseNet, Jegou et al. 2017, arXiv:1611.09326); 2.5-D means that it
sees a slice together with its neighbours (Zhang et al. 2019, doi:10.1007/978-3-030-32248-9_38).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msrim.models.networks.allnet import COORDINATES, AnaConvHead

# Slices that go through the network at once outside training; bounds the memory of a whole brain.
SLICES_AT_ONCE = 8


class TiramisuAllNet(nn.Module):
    """Tiramisu over stacks of axial slices, then ALL-Net's two AnaConv heads.

    Parameters
    ----------
    contrasts : int
        Image channels; a missing contrast is a channel of zeros.
    layers : sequence of int
        Convolutions of each dense block, finest first, the bottleneck last. (4, 4, 4, 4, 4, 4) is FC-DenseNet56.
    growth : int
        Channels that a layer adds.
    first : int
        Channels before the first block.
    stack : int
        Slices that are seen together, odd.
    head_width : int
        Channels inside each head.
    anaconv : bool
        Whether the heads know the coordinates.

    Notes
    -----
    Maps (N, contrasts + 6, X, Y, Z), images before coordinates, to logits (N, 2, X, Y, Z): lesion, sphere. X and Y must
    be at least ``2 ** (len(layers) - 1)``.
    """

    def __init__(
        self,
        contrasts: int = 3,
        layers: Sequence[int] = (4, 4, 4, 4, 4),
        growth: int = 12,
        first: int = 48,
        stack: int = 3,
        head_width: int = 8,
        anaconv: bool = True,
    ) -> None:
        super().__init__()
        self.stack = stack
        self.backbone = Tiramisu(contrasts * stack, layers=layers, growth=growth, first=first)
        self.lesion = AnaConvHead(self.backbone.out_channels, head_width, anaconv=anaconv)
        self.sphere = AnaConvHead(self.backbone.out_channels, head_width, anaconv=anaconv)

    def forward(self, x: Tensor) -> Tensor:
        image, coordinates = x[:, :-COORDINATES], x[:, -COORDINATES:]
        stacks = stacked_slices(image, self.stack)
        # Batch norm must see a training batch whole; otherwise slices are independent.
        parts = [stacks] if self.training else stacks.split(SLICES_AT_ONCE, dim=-1)
        features = torch.cat([self.backbone(part) for part in parts], dim=-1)
        return torch.cat([self.lesion(features, coordinates), self.sphere(features, coordinates)], dim=1)


def stacked_slices(volume: Tensor, stack: int) -> Tensor:
    """Every axial slice with its neighbours as channels; zeros beyond the first and the last.

    Parameters
    ----------
    volume : (N, C, X, Y, Z)
    stack : int
        Odd.

    Returns
    -------
    (N, C * stack, X, Y, Z)

    Examples
    --------
    >>> stacked_slices(torch.arange(1.0, 4.0).reshape(1, 1, 1, 1, 3), 3)[0, :, 0, 0].T.tolist()
    [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 0.0]]
    """
    windows = F.pad(volume, (stack // 2, stack // 2, 0, 0, 0, 0)).unfold(-1, stack, 1)
    # (N, C, X, Y, Z, stack)
    return windows.movedim(-1, 2).flatten(1, 2)


class Tiramisu(nn.Module):
    """FC-DenseNet without its classifier, slice by slice: (N, C, X, Y, Z) to (N, out_channels, X, Y, Z)."""

    def __init__(self, in_channels: int, *, layers: Sequence[int], growth: int, first: int) -> None:
        super().__init__()
        *down, bottleneck = layers
        self.first = _in_plane(in_channels, first, 3)
        self.down, self.pool, skips = nn.ModuleList(), nn.ModuleList(), []
        width = first
        for count in down:
            self.down.append(DenseBlock(width, count, growth))
            width += count * growth
            skips.append(width)
            # Transition down: the 1x1 convolution keeps the width.
            self.pool.append(nn.Sequential(_norm_relu_conv(width, width, 1), nn.MaxPool3d((2, 2, 1))))
        self.bottleneck = DenseBlock(width, bottleneck, growth)
        self.transition, self.up = nn.ModuleList(), nn.ModuleList()
        new = bottleneck * growth
        for count, skip in zip(down[::-1], skips[::-1], strict=True):
            # Only what the last block has added goes up, or the width would explode.
            self.transition.append(nn.ConvTranspose3d(new, new, (3, 3, 1), stride=(2, 2, 1)))
            self.up.append(DenseBlock(new + skip, count, growth))
            self.out_channels = new + skip + count * growth
            new = count * growth

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        skips = []
        for block, pool in zip(self.down, self.pool, strict=True):
            x = torch.cat([x, block(x)], dim=1)
            skips.append(x)
            x = pool(x)
        new = self.bottleneck(x)
        for transition, block in zip(self.transition, self.up, strict=True):
            skip = skips.pop()
            # The transposed convolution makes one row and column too many, and sides may have been odd.
            raised = transition(new)[:, :, : skip.shape[2], : skip.shape[3]]
            x = torch.cat([raised, skip], dim=1)
            new = block(x)
        return torch.cat([x, new], dim=1)


class DenseBlock(nn.Module):
    """Layers that each see all before them; returns the features that they add, (N, layers * growth, X, Y, Z)."""

    def __init__(self, in_channels: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_norm_relu_conv(in_channels + i * growth, growth, 3) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        added: list[Tensor] = []
        for layer in self.layers:
            added.append(layer(torch.cat([x, *added], dim=1)))
        return torch.cat(added, dim=1)


def _norm_relu_conv(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm3d(in_channels),
        nn.ReLU(inplace=True),
        _in_plane(in_channels, out_channels, kernel),
        nn.Dropout(0.2),
    )


def _in_plane(in_channels: int, out_channels: int, kernel: int) -> nn.Conv3d:
    return nn.Conv3d(in_channels, out_channels, (kernel, kernel, 1), padding=(kernel // 2, kernel // 2, 0))
