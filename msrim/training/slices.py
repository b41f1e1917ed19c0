"""Training samples for slice networks (SCP): single axial slices of whole scans, of any part of the body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from msrim.models.inference import fit_to_plane, z_scored
from msrim.training.lesions import LesionBank, LesionCrops, LesionMap, Patient

# Chance that a slice is drawn from those that show a lesion; most slices of most scans show none.
WITH_LESION = 0.5
# Slices of a slab, millimetres that its middle moves in the plane at most.
SLAB, MAX_SHIFT_VOXELS = 4, 5.0


class LesionSlices(Dataset[tuple[Tensor, ...]]):
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


class LesionSlabs(LesionCrops):
    """Endless slabs of a few axial slices of brains, varied and painted like the crops.

    In the plane they are whole and keep their size: a slice network that knows places must see them where they are.

    Parameters
    ----------
    patients, bank, **drawn
        As :class:`LesionCrops` takes them, but for the shape.
    plane : (2,) int
    """

    zoom = (1.0, 1.0)

    def __init__(self, patients: list[Patient], bank: LesionBank | None, *, plane: Sequence[int], **drawn: Any) -> None:
        super().__init__(patients, bank, shape=(*plane, SLAB), **drawn)
        visits = [visit for own in [*self.visits, self.synthetic] for visit in own]
        self.moments = {visit: _moments(cut_images(visit, self.intensity_range), plane) for visit in visits}

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Input (C, X, Y, SLAB) and lesions (1, X, Y, SLAB), float32."""
        visit, images, lesions, _, _ = self.crop(index)
        mean, deviation = self.moments[visit]
        present = images.flatten(1).abs().amax(1)[:, None, None, None] > 0
        # As z_scored does it with the whole scan, of which a slab knows nothing.
        return (images - mean) / deviation * present, lesions[None].float()

    def _centre(self, patient: Patient, maps: list[LesionMap], rng: np.random.Generator) -> np.ndarray:
        middle = (np.array(patient.brain.shape) - 1) / 2
        shift = rng.uniform(-MAX_SHIFT_VOXELS, MAX_SHIFT_VOXELS, 2)
        return np.array([*(middle[:2] + shift), super()._centre(patient, maps, rng)[2]])


def cut_images(visit: Patient, intensity_range: tuple[float, float] | None) -> Tensor:
    """A visit's images as :func:`msrim.models.inference.find_lesions` gives them to a network: (C, X, Y, Z)."""
    if intensity_range is None:
        return visit.images
    return visit.images.clamp(*intensity_range) * torch.from_numpy(visit.brain)


def _moments(images: Tensor, plane: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each contrast over the plane, (C, 1, 1, 1) each; 1 for a constant one."""
    values = torch.from_numpy(fit_to_plane(images.numpy(), plane)).float().flatten(1)
    deviation = values.std(1)
    mean, deviation = values.mean(1), deviation.where(deviation > 0, 1)
    return mean[:, None, None, None], deviation[:, None, None, None]
