"""ALL-Net on a 2.5-D U-Net whose features are measured against the brain that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msrim.models.networks.allnet import COORDINATES, Head
from msrim.models.networks.tiramisu import SLICES_AT_ONCE, stacked_slices


class BrainNorm(nn.Module):
    """Instance normalisation of every axial slice by the mean and deviation inside the brain.

    Batch norm keeps what the training scanners' images looked like, and a sharper or darker one is then read wrongly;
    plain instance norm (Ulyanov et al. 2016, arXiv:1607.08022) also measures the background, of which a crop has less
    than a whole slice.

    Parameters
    ----------
    channels : int

    Examples
    --------
    A brighter image of more contrast is the same to it.

    >>> x, inside = torch.linspace(0, 9, 128).reshape(1, 2, 8, 8, 1), torch.ones(1, 1, 8, 8, 1)
    >>> norm = BrainNorm(2)
    >>> torch.allclose(norm(x, inside), norm(300 * x + 5, inside), atol=0.02)
    True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        # Every second row and column tells mean and deviation as well, for a quarter of the work.
        with torch.autocast(x.device.type, enabled=False):
            some = inside[:, :, ::2, ::2]
            seen = x[:, :, ::2, ::2].float() * some
            # A few voxels of brain at the vertex have no deviation worth the name.
            count = some.sum((2, 3), keepdim=True).clamp(min=16)
            mean = seen.sum((2, 3), keepdim=True) / count
            variance = (seen.square().sum((2, 3), keepdim=True) / count - mean.square()).clamp(min=0)
            scale = self.weight[:, None, None, None] * torch.rsqrt(variance + 1e-3)
            shift = self.bias[:, None, None, None] - mean * scale
            return x * scale.to(x.dtype) + shift.to(x.dtype)


class SliceBlock(nn.Module):
    """Two 3x3 convolutions within the axial plane, each with normalisation by the brain and leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolve = nn.ModuleList(
            nn.Conv3d(channels, out_channels, (3, 3, 1), padding=(1, 1, 0), bias=False)
            for channels in (in_channels, out_channels)
        )
        self.norm = nn.ModuleList(BrainNorm(out_channels) for _ in self.convolve)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        for convolve, norm in zip(self.convolve, self.norm, strict=True):
            x = F.leaky_relu(norm(convolve(x), inside), 0.01)
        return x


class SliceUNet(nn.Module):
    """A 2-D U-Net, slice by slice: (N, C, X, Y, Z) to (N, widths[0], X, Y, Z).

    X and Y must be multiples of ``2 ** (len(widths) - 1)``. The brain is where an input is not zero.
    """

    def __init__(self, in_channels: int, *, widths: Sequence[int]) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(SliceBlock(before, width) for before, width in pairwise([in_channels, *widths]))
        coarse_to_fine = list(pairwise(reversed(widths)))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, (2, 2, 1), stride=(2, 2, 1)) for coarse, fine in coarse_to_fine
        )
        self.decoder = nn.ModuleList(SliceBlock(2 * fine, fine) for _, fine in coarse_to_fine)

    def forward(self, x: Tensor) -> Tensor:
        inside = [(x != 0).any(1, keepdim=True).float()]
        skips = []
        for level, block in enumerate(self.encoder):
            if level:
                x = F.max_pool3d(x, (2, 2, 1))
                inside.append(F.max_pool3d(inside[-1], (2, 2, 1)))
            x = block(x, inside[-1])
            skips.append(x)
        for upsample, block in zip(self.upsample, self.decoder, strict=True):
            skips.pop()
            inside.pop()
            x = block(torch.cat([upsample(x), skips[-1]], dim=1), inside[-1])
        return x


class SliceAllNet(nn.Module):
    """2.5-D U-Net over stacks of axial slices, then ALL-Net's two AnaConv heads, all of it without batch norm.

    Parameters
    ----------
    contrasts : int
        Image channels, zero outside the brain; a missing contrast is zero everywhere.
    widths : sequence of int
        Channels of the U-Net's levels, finest first.
    stack : int
        Slices that are seen together, odd.
    head_width : int
        Channels inside each head.
    anaconv : bool
        Whether the heads know the coordinates.

    Notes
    -----
    Maps (N, contrasts + 6, X, Y, Z), images before coordinates, to logits (N, 2, X, Y, Z): lesion, sphere. X and Y must
    be multiples of ``2 ** (len(widths) - 1)``.
    """

    def __init__(
        self,
        contrasts: int = 3,
        widths: Sequence[int] = (24, 48, 96, 128),
        stack: int = 3,
        head_width: int = 8,
        anaconv: bool = True,
    ) -> None:
        super().__init__()
        self.stack = stack
        self.backbone = SliceUNet(contrasts * stack, widths=widths)
        self.lesion = Head(widths[0], head_width, anaconv=anaconv, sliced=True)
        self.sphere = Head(widths[0], head_width, anaconv=anaconv, sliced=True)

    def forward(self, x: Tensor) -> Tensor:
        image, coordinates = x[:, :-COORDINATES], x[:, -COORDINATES:]
        stacks = stacked_slices(image, self.stack, ends="replicate")
        # Slices are independent; a few at once bound the memory of a whole brain.
        at_once = x.shape[-1] if self.training else SLICES_AT_ONCE
        parts = zip(stacks.split(at_once, dim=-1), coordinates.split(at_once, dim=-1), strict=True)
        return torch.cat([self._logits(stack, around) for stack, around in parts], dim=-1)

    def _logits(self, stacks: Tensor, coordinates: Tensor) -> Tensor:
        features = self.backbone(stacks)
        return torch.cat([self.lesion(features, coordinates), self.sphere(features, coordinates)], dim=1)
