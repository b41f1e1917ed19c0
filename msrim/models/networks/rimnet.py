"""RimNet: one VGG branch per image, fused (Barquero et al. 2020, doi:10.1016/j.nicl.2020.102412).

The comparator of QSMRim-Net's paper: QSM and FLAIR as inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msrim.models.networks.resnet import ConvNormReLU


class Branches(nn.ModuleList):
    """A VGG branch for each image: (N, images, X, Y, Z) to their joined features (N, images * widths[-1]).

    A branch's block is two 3x3x3 layers and a max-pooling; the later ones pool in the plane alone, for slices are few.
    """

    def __init__(self, images: int, widths: Sequence[int]) -> None:
        super().__init__(_branch(widths) for _ in range(images))

    def forward(self, images: Tensor) -> Tensor:
        features = [branch(image[:, None]) for branch, image in zip(self, images.unbind(1), strict=True)]
        return torch.cat(features, dim=1).amax((2, 3, 4))


class RimNet(nn.Module):
    """Each image goes through convolutions of its own; their features meet in the fully connected layers.

    Parameters
    ----------
    images : int
    widths : sequence of int
        Channels of a branch's blocks.
    hidden : int
        Width of the fully connected layer.
    dropout : float

    Notes
    -----
    Maps patches (N, images, X, Y, Z) to logits (N,).

    Examples
    --------
    >>> RimNet(widths=(2, 2, 2, 2)).eval()(torch.zeros(3, 2, 32, 32, 16)).shape
    torch.Size([3])
    """

    def __init__(
        self, images: int = 2, widths: Sequence[int] = (32, 64, 128, 128), hidden: int = 256, dropout: float = 0.3
    ) -> None:
        super().__init__()
        self.branches = Branches(images, widths)
        self.classify = nn.Sequential(
            nn.Linear(images * widths[-1], hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.branches(images))[:, 0]


def _branch(widths: Sequence[int]) -> nn.Sequential:
    layers = []
    for level, (before, width) in enumerate(zip([1, *widths], widths, strict=False)):
        pool = nn.MaxPool3d(2 if level < 2 else (2, 2, 1))
        layers += [ConvNormReLU(before, width), ConvNormReLU(width, width), pool]
    return nn.Sequential(*layers)
