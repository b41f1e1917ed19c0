"""CoactSeg: all lesions of two visits and the new ones from one network (Wu et al. 2023, arXiv:2307.04513)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

# Names of the three inputs and the three heads, in their order.
INPUTS = ("baseline", "follow-up", "difference")
HEADS = ("all lesions at baseline", "all lesions at follow-up", "new lesions")
CLASSES = 2
# V-Net's convolutions a level, finest first (Milletari et al. 2016).
STAGES = (1, 2, 3, 3, 3)


class ConvBlock(nn.Sequential):
    """So many 3x3x3 convolutions, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stages: int) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, *[out_channels] * (stages - 1)):
            layers += [nn.Conv3d(channels, out_channels, 3, padding=1), nn.BatchNorm3d(out_channels), nn.ReLU()]
        super().__init__(*layers)


class Rescale(nn.Sequential):
    """Half or double the resolution by a convolution of side and stride 2, with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, up: bool) -> None:
        convolution = nn.ConvTranspose3d if up else nn.Conv3d
        super().__init__(convolution(in_channels, out_channels, 2, stride=2), nn.BatchNorm3d(out_channels), nn.ReLU())


class CoactSeg(nn.Module):
    """A V-Net with a head for all lesions at each visit and one for the new lesions.

    Skip connections add. Each head has a block of its own; the block of the new lesions is followed by another that
    sees (follow-up minus baseline, baseline, new) features joined.

    Parameters
    ----------
    width : int
        Channels of the finest level; 16 in the paper, which makes 9,484,502 parameters, 8 for a quarter of the cost.

    Notes
    -----
    Maps (N, 3, X, Y, Z), see INPUTS, to logits (N, 6, X, Y, Z): background and lesion of each of HEADS. The sides must
    be multiples of 16. Section 3.2 of the paper; what its Fig. 2 leaves open is pinned by the number of parameters.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(len(STAGES))]
        self.encoder = nn.ModuleList(
            ConvBlock(len(INPUTS) if level == 0 else channels, channels, stages=stages)
            for level, (channels, stages) in enumerate(zip(widths, STAGES, strict=True))
        )
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(Rescale(fine, coarse, up=False) for fine, coarse in steps)
        self.up = nn.ModuleList(Rescale(coarse, fine, up=True) for fine, coarse in reversed(steps))
        self.decoder = nn.ModuleList(
            ConvBlock(channels, channels, stages=stages)
            for channels, stages in zip(widths[-2:0:-1], STAGES[-2:0:-1], strict=True)
        )
        self.features = nn.ModuleList(ConvBlock(width, width, stages=1) for _ in HEADS)
        self.relate = ConvBlock(3 * width, width, stages=1)
        self.classify = nn.ModuleList(nn.Conv3d(width, CLASSES, 1) for _ in HEADS)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block, down in zip(self.encoder, self.down, strict=False):
            skips.append(block(x))
            x = down(skips[-1])
        x = self.encoder[-1](x)
        for up, block in zip(self.up, [*self.decoder, nn.Identity()], strict=True):
            x = block(up(x) + skips.pop())
        baseline, followup, new = (block(x) for block in self.features)
        related = self.relate(torch.cat([followup - baseline, baseline, new], dim=1))
        heads = zip(self.classify, (baseline, followup, related), strict=True)
        return torch.cat([classify(features) for classify, features in heads], dim=1)


def lesion_probabilities(logits: Tensor) -> Tensor:
    """Probability of lesion of each head: (N, 6, X, Y, Z) logits to (N, 3, X, Y, Z).

    Examples
    --------
    >>> lesion_probabilities(torch.zeros(1, 6, 1, 1, 1)).ravel().tolist()
    [0.5, 0.5, 0.5]
    """
    return torch.sigmoid(logits[:, 1::CLASSES] - logits[:, ::CLASSES])
