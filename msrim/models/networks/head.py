"""The head network: brain and tissue labels from one image of any contrast and resolution.

Trained on synthesised contrasts alone (SynthSeg, Billot et al. 2023, doi:10.1016/j.media.2023.102789), so a T1w with
1 mm voxels and a FLAIR with 5 mm slices are the same to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from msrim.labels import HeadLabel
from msrim.models.networks.unet import UNet


class HeadNet(nn.Module):
    """A U-Net that works on 2 mm blocks and predicts every 1 mm voxel.

    Folding 2x2x2 voxels into channels before the U-Net, and unfolding its prediction, costs an eighth of a network at
    full resolution and keeps the boundaries sharper than upsampling a 2 mm prediction would.

    Parameters
    ----------
    contrasts : int
        Image channels, one a contrast; those that are missing are zero.
    widths : sequence of int
        Channels of the U-Net's levels, at 2, 4, 8, ... mm.

    Notes
    -----
    Maps (N, contrasts, X, Y, Z) to logits (N, 9, X, Y, Z); the sides must be multiples of ``2 ** len(widths)``.
    """

    def __init__(self, contrasts: int = 3, widths: Sequence[int] = (16, 32, 64, 96)) -> None:
        super().__init__()
        # Statistics of the instance: every scanner has a contrast of its own.
        self.unet = UNet(8 * contrasts, widths=widths, norm=partial(nn.InstanceNorm3d, affine=True))
        self.classify = nn.Conv3d(widths[0], len(HeadLabel), 1)
        self.refine = nn.Conv3d(widths[0], 8 * len(HeadLabel), 1)
        for parameter in self.refine.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        features = self.unet(fold_blocks(image))
        # A block's class is learned once for its eight voxels; refine models their differences.
        return F.interpolate(self.classify(features), scale_factor=2.0) + unfold_blocks(self.refine(features))


def fold_blocks(x: Tensor) -> Tensor:
    """(N, C, X, Y, Z) to (N, 8 C, X/2, Y/2, Z/2): each 2x2x2 block of voxels becomes channels."""
    n, c, *size = x.shape
    x = x.reshape(n, c, size[0] // 2, 2, size[1] // 2, 2, size[2] // 2, 2)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, 8 * c, *(side // 2 for side in size))


def unfold_blocks(x: Tensor) -> Tensor:
    """The inverse of :func:`fold_blocks`."""
    n, c, *size = x.shape
    x = x.reshape(n, c // 8, 2, 2, 2, *size)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(n, c // 8, *(2 * side for side in size))
