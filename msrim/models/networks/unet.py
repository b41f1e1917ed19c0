"""A plain 3-D U-Net that returns features, the backbone of the packaged networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """Two convolutions, 3x3x3 or within the axial plane 3x3x1, each with normalisation and leaky ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Callable[[int], nn.Module],
        stride: int = 1,
        in_plane: bool = False,
    ) -> None:
        kernel, padding = ((3, 3, 1), (1, 1, 0)) if in_plane else (3, 1)
        super().__init__(
            nn.Conv3d(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False),
            norm(out_channels),
            nn.LeakyReLU(0.01, inplace=True),
            nn.Conv3d(out_channels, out_channels, kernel, padding=padding, bias=False),
            norm(out_channels),
            nn.LeakyReLU(0.01, inplace=True),
        )


class UNet(nn.Module):
    """Encoder and decoder with skip connections (Cicek et al. 2016, doi:10.1007/978-3-319-46723-8_49).

    Parameters
    ----------
    in_channels : int
    widths : sequence of int
        Channels at each level, finest first; every level halves the resolution.
    norm : callable
        Makes the normalisation layer for a number of channels.
    in_plane : int
        Levels, from the finest, whose convolutions stay within the axial plane. Context along the third axis comes from
        the coarser levels; thick slices have no finer one, and the finest level costs a third.

    Notes
    -----
    Maps (N, C, X, Y, Z) to (N, widths[0], X, Y, Z); the sides must be multiples of ``2 ** (len(widths) - 1)``.

    Examples
    --------
    >>> UNet(1, widths=(4, 8), norm=nn.BatchNorm3d)(torch.zeros(1, 1, 8, 8, 8)).shape
    torch.Size([1, 4, 8, 8, 8])
    """

    def __init__(
        self, in_channels: int, *, widths: Sequence[int], norm: Callable[[int], nn.Module], in_plane: int = 0
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            ConvBlock(previous, width, norm=norm, stride=1 if level == 0 else 2, in_plane=level < in_plane)
            for level, (previous, width) in enumerate(zip([in_channels, *widths], widths, strict=False))
        )
        coarse_to_fine = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.upsample = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, 2, stride=2) for coarse, fine in coarse_to_fine)
        levels = range(len(widths) - 2, -1, -1)
        self.decoder = nn.ModuleList(
            ConvBlock(2 * fine, fine, norm=norm, in_plane=level < in_plane)
            for level, (_, fine) in zip(levels, coarse_to_fine, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        skips.pop()
        for upsample, block in zip(self.upsample, self.decoder, strict=True):
            x = block(torch.cat([upsample(x), skips.pop()], dim=1))
        return x
