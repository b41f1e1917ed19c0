"""Training samples for the head network: synthetic scans of any contrast from label maps of whole heads.

After SynthSeg (Billot et al. 2023, doi:10.1016/j.media.2023.102789): the contrast is drawn anew for each sample, so the
network learns shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from msrim.image import bounding_box, read_volume, to_ras
from msrim.models.inference import scale_intensities
from msrim.training import synthesis
from msrim.training.contrasts import SIGNAL, TISSUES

# FreeSurfer values of the label maps by the head label that the network learns for them.
FREESURFER_OF_HEAD_LABEL = {
    1: (24, 30, 62, 85),
    2: (4, 5, 14, 15, 43, 44, 72, 136, 137, 163, 164),
    3: (3, 42, 17, 18, 53, 54),
    4: (10, 11, 12, 13, 26, 49, 50, 51, 52, 58),
    5: (2, 41, 25, 57, 28, 60),
    6: (8, 47),
    7: (7, 46),
    8: (16,),
}
BELOW_CEREBRUM = (6, 7, 8)
# Contrasts of which the head network learns; lesion networks may know more.
HEAD_CONTRASTS = ("T1w", "T2w", "FLAIR")
PADDING = 16


def load_head(path: Path) -> np.ndarray:
    """Tissue index (position in TISSUES plus 1, 0 is air) of a label map, cropped to the head, RAS: (X, Y, Z) uint8.

    Values that TISSUES does not name become soft tissue.
    """
    labels = to_ras(read_volume(path)).data.astype(np.int16)
    lookup = np.full(600, 1 + TISSUES.index((507,)), np.uint8)
    lookup[0] = 0
    for index, values in enumerate(TISSUES, start=1):
        lookup[list(values)] = index
    tissues = lookup[labels]
    return np.pad(tissues[bounding_box(tissues > 0)], PADDING)


def head_label_of_tissue() -> Tensor:
    """Head label of each tissue index: (len(TISSUES) + 1,) int64."""
    table = torch.zeros(len(TISSUES) + 1, dtype=torch.int64)
    for index, values in enumerate(TISSUES, start=1):
        table[index] = next((label for label, members in FREESURFER_OF_HEAD_LABEL.items() if values[0] in members), 0)
    return table


class SyntheticHeads(Dataset[tuple[Tensor, ...]]):
    """Endless random scans; sample ``i`` is a function of ``seed`` and ``i`` alone.

    Parameters
    ----------
    paths : list of Path
        Whole-head label maps with FreeSurfer values.
    shape : (3,) int
        Of the crop, voxels of 1 mm.
    samples : int
        Length of the epoch.
    """

    def __init__(self, paths: list[Path], *, shape: Sequence[int], samples: int, seed: int = 0) -> None:
        self.heads = [load_head(path) for path in paths]
        self.shape, self.samples, self.seed = tuple(shape), samples, seed
        self.label_of_tissue = head_label_of_tissue()
        self.low_parts = [
            np.argwhere(np.isin(self.label_of_tissue.numpy()[head], BELOW_CEREBRUM))[::20] for head in self.heads
        ]

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, X, Y, Z) in about [0, 1], zero but for one contrast, and labels (X, Y, Z) int64."""
        if not 0 <= index < self.samples:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, index))
        tissues = self._posed(int(rng.integers(len(self.heads))), rng)
        labels = self.label_of_tissue[tissues]
        contrast = rng.choice(len(HEAD_CONTRASTS), p=(0.4, 0.2, 0.4))
        image = paint(tissues, labels, contrast=HEAD_CONTRASTS[contrast], rng=rng)
        if rng.random() < 0.25:
            image = strip_skull(image, labels, rng)
        channels = torch.zeros(len(HEAD_CONTRASTS), *labels.shape)
        channels[contrast] = scan(image, rng)[0]
        return channels, labels

    def _posed(self, index: int, rng: np.random.Generator) -> Tensor:
        head, low = self.heads[index], self.low_parts[index]
        matrix = synthesis.random_affine(rng, max_angle_deg=22, scale=(0.85, 1.2))
        half = np.array(self.shape) / 2
        centre = [rng.uniform(min(h, n / 2), max(n - h, n / 2)) for n, h in zip(head.shape, half, strict=True)]
        # The label maps reach down the neck: look at the brain more often than at the jaw, and often at cerebellum and
        # brainstem, a tenth of its volume.
        where = rng.random()
        if where < 0.35 and len(low):
            centre = low[rng.integers(len(low))] + rng.uniform(-half / 2, half / 2)
        elif where < 0.75:
            centre[2] = rng.uniform(head.shape[2] - 150, head.shape[2] - half[2])
        points = synthesis.sampling_points(
            rng, self.shape, centre=np.array(centre), matrix=matrix, elastic_voxels=rng.uniform(0, 4)
        )
        return synthesis.sample_at(torch.from_numpy(head)[None].float(), points, nearest=True)[0].long()


def paint(tissues: Tensor, labels: Tensor, *, contrast: str, rng: np.random.Generator, lesions: bool = True) -> Tensor:
    """Draw every tissue's intensity near that of the contrast, and a texture: (1, X, Y, Z).

    With ``lesions``, most samples have white matter of some other intensity.
    """
    count = len(TISSUES)
    means = np.array(SIGNAL[contrast]) + rng.normal(0, 0.05, count)
    means = np.concatenate([[rng.choice([0, rng.uniform(0, 0.1)])], np.clip(means, 0, 1.2)])
    spreads = np.concatenate([[0.01], rng.uniform(0.01, 0.06, count)])
    image = torch.from_numpy(means).float()[tissues]
    spread = torch.from_numpy(spreads).float()[tissues]
    image = synthesis.add_noise(rng, image[None], spread=spread[None])
    size = tissues.shape
    # Muscle, fat and vessels differ within one label, and so does white matter with age.
    image += 1.5 * spread * synthesis.smooth_field(rng, size, channels=1, points=int(rng.integers(8, 24)), spread=1)
    if lesions and rng.random() < 0.7:
        # White matter of any other intensity stays white matter.
        field = synthesis.smooth_field(rng, size, channels=1, points=int(rng.integers(8, 32)), spread=1)
        lesion = (labels == 5) & (field[0] > rng.uniform(1.2, 2.2))
        image[0, lesion] = float(np.clip(means[1 + TISSUES.index((2, 41))] + rng.uniform(-0.4, 0.6), 0, 1.3))
    return image


def strip_skull(image: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
    """Brain extraction: everything outside zero, with or without the outer CSF."""
    keep = labels > (1 if rng.random() < 0.4 else 0)
    return image * (synthesis.dilate(keep, 1) if rng.random() < 0.5 else keep)[None]


def scan(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur, slice, bias, noise, cut the field of view and scale the intensities: (1, X, Y, Z) in about [0, 1]."""
    size = image.shape[1:]
    image = synthesis.blur(image, sigma_voxels=rng.uniform(0.3, 0.9, 3))
    image = image * synthesis.bias_field(rng, size, strength=rng.uniform(0, 0.18))
    if rng.random() < 0.5:
        axis = int(rng.choice(3, p=(0.1, 0.1, 0.8)))
        image = synthesis.thick_slices(image, axis=axis, thickness=rng.uniform(1.5, 6))
    image = synthesis.add_noise(rng, image, spread=rng.uniform(0, 0.035)).clamp(min=0)
    if rng.random() < 0.3:
        cut = int(rng.integers(0, size[2] // 3))
        if rng.random() < 0.5:
            image[..., :cut] = 0
        else:
            image[..., size[2] - cut :] = 0
    return torch.from_numpy(scale_intensities(image.numpy())) ** float(np.exp(rng.normal(0, 0.25)))
