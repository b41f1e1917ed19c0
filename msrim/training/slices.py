"""Training samples for slice networks (SCP): single axial slices of whole scans, of any part of the body."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from msrim.models.scp import fit_to_plane, z_scored

# Chance that a slice is drawn from those that show a lesion; most slices of most scans show none.
WITH_LESION = 0.5


class LesionSlices(Dataset):
    """Endless random slices; sample ``i`` is a function of ``seed`` and ``i`` alone.

    Parameters
    ----------
    scans : sequence of ((C, X, Y, Z) float32 array, (X, Y, Z) bool array)
        Images and lesions on one grid, axial slices along the last axis.
    plane : (2,) int
        Size of the samples.
    """

    def __init__(
        self, scans: Sequence[tuple[np.ndarray, np.ndarray]], *, plane: Sequence[int], samples: int, seed: int = 0
    ) -> None:
        self.scans = [(z_scored(fit_to_plane(image, plane)), fit_to_plane(mask, plane)) for image, mask in scans]
        self.lesions = [np.flatnonzero(mask.any(axis=(0, 1))) for _, mask in self.scans]
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Input (C, X, Y, 1) and lesions (1, X, Y, 1), float32."""
        if not 0 <= index < self.samples:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, index))
        number = rng.integers(len(self.scans))
        image, mask = self.scans[number]
        lesions = self.lesions[number]
        chosen = rng.choice(lesions) if lesions.size and rng.random() < WITH_LESION else rng.integers(mask.shape[-1])
        slices = [torch.from_numpy(data[..., chosen : chosen + 1].astype(np.float32)) for data in (image, mask[None])]
        return slices[0], slices[1]
