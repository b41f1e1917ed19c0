"""SynthStrip: distance to the surface of the brain, from one image of any contrast and resolution.

The network and its weights are those of Hoopes et al. 2022 (doi:10.1016/j.neuroimage.2022.119474), which learned from
synthesised contrasts. `python -m msrim.models.convert_synthstrip` made the packaged weights from the published ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, conv_transpose3d, interpolate, max_pool3d

ENCODER = (16, 32, 64, 64, 64, 64, 64)
DECODER = (64, 64, 64, 64, 32, 16)


class SynthStrip(nn.Module):
    """A 3-D U-Net without normalisation layers: two convolutions with leaky ReLU per level.

    Parameters
    ----------
    encoder, decoder : sequence of int
        Channels per level, finest first and coarsest first.

    Notes
    -----
    Maps (N, 1, X, Y, Z), intensities in [0, 1] on a 1 mm grid in LIA order, to (N, 1, X, Y, Z): the signed distance to
    the surface of the brain in mm, negative inside. The published network takes sides that are multiples of 64 alone.
    Here any side will do: a half block at the end of a level is pooled as it is.

    Examples
    --------
    >>> SynthStrip(encoder=(2, 4), decoder=(2,))(torch.zeros(1, 1, 4, 4, 2)).shape
    torch.Size([1, 1, 4, 4, 2])
    """

    def __init__(self, encoder: Sequence[int] = ENCODER, decoder: Sequence[int] = DECODER) -> None:
        super().__init__()
        skips = list(encoder[-2::-1])
        self.encoder = nn.ModuleList(map(_two_convolutions, [1, *encoder[:-1]], encoder))
        self.decoder = nn.ModuleList(
            _two_convolutions(below + skip, width)
            for below, skip, width in zip([encoder[-1], *decoder[:-1]], skips, decoder, strict=True)
        )
        self.distance = nn.Conv3d(decoder[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else max_pool3d(x, 2, ceil_mode=True))
            skips.append(x)
        skips.pop()
        for block in cast(Iterable[nn.Sequential], self.decoder):
            x = block[1:](convolve_upsampled(cast(nn.Conv3d, block[0]), x, skips.pop()))
        return self.distance(x)


def convolve_upsampled(convolution: nn.Conv3d, coarse: Tensor, skip: Tensor) -> Tensor:
    """A 3x3x3 convolution of coarse features, every voxel doubled along each side, before those of a skip connection.

    Three taps along a side see two coarse voxels, one of them twice. With the weights of these two taps summed it is a
    transposed convolution of the coarse features, 8 products for 27. On two cores without bfloat16 the finest level
    takes half as long, and neither the doubled features nor the joined ones are ever held.

    Parameters
    ----------
    convolution : Conv3d
        Padding 1.
    coarse : (N, C, X, Y, Z) Tensor
    skip : (N, D, up to 2 X, up to 2 Y, up to 2 Z) Tensor

    Returns
    -------
    (N, K, as the skip) Tensor
    """
    of_coarse, of_skip = convolution.weight.split([coarse.shape[1], skip.shape[1]], dim=1)
    if skip.shape[2:] != tuple(2 * side for side in coarse.shape[2:]):
        # Half a block at the end: the padding begins within it.
        height, width, depth = skip.shape[2:]
        doubled = interpolate(coarse, scale_factor=2.0, mode="nearest")[:, :, :height, :width, :depth]
        return convolution(torch.cat([doubled, skip], dim=1))
    result = conv3d(skip, of_skip, convolution.bias, padding=1)
    for axis in (2, 3, 4):
        before, same, after = of_coarse.unbind(axis)
        of_coarse = torch.stack([after, same + after, before + same, before], axis)
    return result.add_(conv_transpose3d(coarse, of_coarse.transpose(0, 1), stride=2, padding=1))


def _two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (in_channels, out_channels):
        layers += [nn.Conv3d(before, out_channels, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers)
