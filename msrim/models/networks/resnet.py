"""ResNet-18 in three dimensions (He et al. 2016, doi:10.1109/CVPR.2016.90), the backbone of the rim networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ConvNormReLU(nn.Sequential):
    """Convolution that keeps the size, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions around which the input takes a short way."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm3d(out_channels),
        )
        self.short: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.short = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm3d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.convs(x) + self.short(x))


class ResNet18(nn.Module):
    """Stem 7x7x7 of stride 2, max-pooling, four stages of two blocks, mean over space.

    Parameters
    ----------
    in_channels : int
    widths : sequence of int
        Channels of the stages; the first is the stem's too.
    strides : sequence of int
        Of the stages.

    Notes
    -----
    Maps (N, in_channels, X, Y, Z) to features (N, widths[-1]).
    """

    def __init__(
        self, in_channels: int, *, widths: Sequence[int] = (64, 128, 256, 512), strides: Sequence[int] = (1, 2, 2, 1)
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, widths[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm3d(widths[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, stride=2, padding=1),
        )
        stages = []
        for before, width, stride in zip([widths[0], *widths], widths, strides, strict=False):
            stages += [ResidualBlock(before, width, stride), ResidualBlock(width, width, 1)]
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x)).flatten(2).mean(2)
