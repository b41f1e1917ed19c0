"""Training samples for lesion networks: crops of real patients, with lesions of other people painted into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex

import cc3d
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.utils.data import Dataset

from msrim.image import Volume
from msrim.labels import CSF, GREY_MATTER, WHITE_MATTER, HeadLabel
from msrim.lesions.bank import read_bank
from msrim.lesions.spheres import lesion_spheres
from msrim.training import synthesis
from msrim.training.contrasts import (
    CAP_CONTRAST,
    CHANGED_CONTRAST,
    CHANGED_CSF,
    CHANGED_GREY,
    DROPOUT,
    PAINTED_CONTRAST,
)
from msrim.training.painting import knots, painted_share

# Caps and bands around the ventricles are bright in healthy people too, in thick slices as bright as lesions: chance of
# a sample with such slices to have them, how deep they reach on average, and how deep at most. In three patients in
# whom experts marked such normal hyperintensities (MS3SEG), half of these lay within 1.7 to 2.7 mm of the ventricles,
# and half of the lesions farther away than 6 to 10 mm; their brightness was alike (medians 2.2 to 2.6, and 2.8 to 4.1).
CAPPED, CAP_MM, DEEPEST_CAP_MM = 0.5, (0.5, 5.0), 14.0
# Brightness and contrast that normalisation leaves unknown.
GAIN, OFFSET = (0.55, 1.7), 0.8
# How crops are stretched along each axis, and as a whole: the source voxels of a step.
STRETCH, ZOOM = (0.9, 1.1), (0.75, 1.35)
# How far a sample goes in these ranges, one as often as the other: nearly its own site's intensities, or any. With the
# second alone a network does not even learn its training patients: lesions that the change has hidden stay marked.
STRENGTHS = (0.2, 1.0)
# Chance that lesions are painted into a patient, and into a synthetic brain; that they are all of one patient's mask
# where there are masks, else this many maps at most; how far those are scaled along each axis.
PAINTED, PAINTED_SYNTHETIC, WHOLE, MAPS_AT_ONCE, MAP_SCALE = 0.5, 0.9, 0.6, 3, (0.85, 1.2)
# Share of the crops of a real patient without a lesion in their middle that show what is as bright as one: deeper in
# the brain than lesions begin, and this far from any, in millimetres.
BRIGHT_SHARE, BRIGHT, BRIGHT_DEPTH_MM, FROM_LESION_MM = 0.5, 2.0, 5.5, 3.0
# Share of the samples that come from synthetic brains, where there are any.
SYNTHETIC = 0.35
# Chance that a contrast other than the FLAIR lies beside it, as after a registration that failed a little, and by how
# many voxels along each axis at most.
MISALIGNED, MISALIGNMENT = 0.25, 2
# Chance of thick slices, along which axis, and how many voxels they are thick: a clinic's 2-D FLAIR has up to 8 mm.
SLICED, SLICED_AXIS, THICKNESS = 0.4, (0.15, 0.15, 0.7), (1.5, 8.0)


@dataclass(frozen=True, eq=False)
class Patient:
    """One visit on its working grid.

    Attributes
    ----------
    name : str
        The *patient's*: visits of one patient share it, so that they are never split between training and test.
    images : (C, X, Y, Z) tensor
        Normalised contrasts in the card's order; zeros where one is missing. Half precision does and saves memory.
    coordinates : (6, X, Y, Z) tensor
        The AnaConv channels.
    lesions, brain : (X, Y, Z) bool arrays
    labels : (X, Y, Z) uint8 array
        HEAD_LABELS.
    mni_from_voxel : (4, 4) float
    files : PatientFiles or None
        Where the arrays lie, if :func:`read_patient` has read them.
    """

    name: str
    images: Tensor
    coordinates: Tensor
    lesions: np.ndarray
    brain: np.ndarray
    labels: np.ndarray
    mni_from_voxel: np.ndarray
    files: PatientFiles | None = None

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """A worker process reads the files itself: arrays sent to it would lie in memory once more."""
        return super().__reduce_ex__(protocol) if self.files is None else (read_patient, (self.name, self.files))

    @cached_property
    def masks(self) -> Tensor:
        """Lesions, brain, and white matter; grey matter and CSF outside the lesions: (5, X, Y, Z) bool."""
        white, grey, csf = (np.isin(self.labels, labels) for labels in (WHITE_MATTER, GREY_MATTER, CSF))
        return torch.from_numpy(np.stack([self.lesions, self.brain, white, grey & ~self.lesions, csf & ~self.lesions]))

    @cached_property
    def ventricle_mm(self) -> Tensor:
        """Distance to the ventricles, (1, X, Y, Z) half precision, DEEPEST_CAP_MM at most."""
        elsewhere = self.labels != HeadLabel.VENTRICLES
        distance = distance_transform_edt(elsewhere) if not elsewhere.all() else np.full(elsewhere.shape, np.inf)
        return torch.from_numpy(np.minimum(distance, DEEPEST_CAP_MM)[None]).half()

    @cached_property
    def bright(self) -> np.ndarray:
        """Voxels as bright as lesions in the first contrast that are none, flat C-order indices."""
        near = distance_transform_edt(~self.lesions) <= FROM_LESION_MM if self.lesions.any() else self.lesions
        bright = (self.images[0] > BRIGHT).numpy() & (distance_transform_edt(self.brain) > BRIGHT_DEPTH_MM)
        return np.flatnonzero(bright & ~near)


@dataclass(frozen=True)
class PatientFiles:
    """What a :class:`Patient` holds and what is derived from that, a .npy file each."""

    images: Path
    coordinates: Path
    lesions: Path
    brain: Path
    labels: Path
    mni_from_voxel: Path
    masks: Path
    ventricle_mm: Path
    bright: Path


# Those that are tensors, and those that a patient derives from the others.
TENSORS, DERIVED = ("images", "coordinates", "masks", "ventricle_mm"), ("masks", "ventricle_mm", "bright")


def write_patient(patient: Patient) -> PatientFiles:
    """Write a patient's arrays into the current folder."""
    paths = {}
    for field in fields(PatientFiles):
        paths[field.name] = Path(f"{field.name}.npy")
        np.save(paths[field.name], np.asarray(getattr(patient, field.name)), allow_pickle=False)
    return PatientFiles(**paths)


def read_patient(name: str, files: PatientFiles) -> Patient:
    """The patient, with arrays that stay on the disk until a crop is taken: those of a trial fit in no memory."""
    arrays: dict[str, Any] = {
        field.name: np.load(getattr(files, field.name), mmap_mode="c", allow_pickle=False) for field in fields(files)
    }
    arrays |= {key: torch.from_numpy(arrays[key]) for key in TENSORS}
    derived = {key: arrays.pop(key) for key in DERIVED}
    patient = Patient(name, **arrays, files=files)
    # Where a cached property keeps what it was.
    vars(patient).update(derived)
    return patient


@dataclass(frozen=True, eq=False)
class LesionMap:
    """Lesions of another person in MNI space.

    Attributes
    ----------
    voxels : (N,) int array
        Those inside lesions, flat C-order indices.
    shape : (3,) int
    mni_from_voxel : (4, 4) float
    """

    voxels: np.ndarray
    shape: tuple[int, ...]
    mni_from_voxel: np.ndarray

    def any_place(self, rng: np.random.Generator) -> np.ndarray:
        """Middle of a voxel drawn at random: (3,) mm in MNI space."""
        voxel = np.array(np.unravel_index(rng.choice(self.voxels), self.shape))
        return self.mni_from_voxel[:3, :3] @ voxel + self.mni_from_voxel[:3, 3]

    def at(self, points: Tensor, mni_from_points: np.ndarray) -> Tensor:
        """Whether points (X, Y, Z, 3) lie in a lesion: (X, Y, Z) bool."""
        dense = torch.zeros(int(np.prod(self.shape)), dtype=torch.uint8)
        dense[torch.from_numpy(self.voxels)] = 1
        matrix = torch.from_numpy(np.linalg.inv(self.mni_from_voxel) @ mni_from_points).float()
        places = points @ matrix[:3, :3].T + matrix[:3, 3]
        return synthesis.sample_at(dense.reshape(1, *self.shape), places)[0] > 0.5


class LesionBank:
    """Lesion maps of other people in MNI space, to draw from.

    Parameters
    ----------
    path : Path
        See :func:`msrim.lesions.bank.read_bank`.
    masks : sequence of Volume
        All lesions of a patient each, in MNI space on grids of their own: heavy and confluent where they were.
    """

    def __init__(self, path: Path, masks: Sequence[Volume] = ()) -> None:
        self.maps = read_bank(path)
        classes = np.array(self.maps.classes)
        self.members = [np.flatnonzero(classes == label) for label in np.unique(classes)]
        maps = [LesionMap(np.flatnonzero(mask.data), mask.shape, mask.affine) for mask in masks]
        self.whole = [lesions for lesions in maps if len(lesions.voxels)]

    def draw(self, rng: np.random.Generator) -> list[LesionMap]:
        """A patient's mask or some maps, moved a little and mirrored at times.

        Classes of volume are equally likely, so heavy loads are not rare.
        """
        if self.whole and rng.random() < WHOLE:
            maps = [self.whole[rng.integers(len(self.whole))]]
        else:
            maps = [self._map(rng) for _ in range(rng.integers(1, MAPS_AT_ONCE + 1))]
        moved = np.eye(4)
        moved[:3, :3] = synthesis.random_affine(rng, max_angle_deg=5, scale=MAP_SCALE)
        return [replace(lesions, mni_from_voxel=moved @ lesions.mni_from_voxel) for lesions in maps]

    def _map(self, rng: np.random.Generator) -> LesionMap:
        members = self.members[rng.integers(len(self.members))]
        index = int(rng.choice(members))
        return LesionMap(self.maps.maps[index], self.maps.shape, self.maps.affine)


class LesionCrops(Dataset[tuple[Tensor, ...]]):
    """Endless random crops; sample ``i`` is a function of ``seed`` and ``i`` alone.

    Parameters
    ----------
    patients : list of Patient
        Drawn with equal chance per *patient*, then per visit.
    bank : LesionBank or None
        None paints nothing: real lesions alone.
    synthetic : list of Patient
        Brains made from label maps, nearly all without lesions: anatomy that the few real patients do not show.
    contrasts : sequence of str
        Order of the image channels.
    shape : (3,) int
        Of the crop, voxels.
    required : sequence of str
        Contrasts that are never withheld.
    intensity_range : (float, float) or None
        The images are cut to it.
    caps : bool
        Half of the crops get bright caps and bands around the ventricles, which are no lesions.
    """

    zoom = ZOOM

    def __init__(
        self,
        patients: list[Patient],
        bank: LesionBank | None,
        *,
        contrasts: Sequence[str],
        shape: Sequence[int],
        samples: int,
        seed: int = 0,
        synthetic: Sequence[Patient] = (),
        required: Sequence[str] = (),
        intensity_range: tuple[float, float] | None = None,
        caps: bool = False,
    ) -> None:
        names = sorted({patient.name for patient in patients})
        self.visits = [[patient for patient in patients if patient.name == name] for name in names]
        self.synthetic = list(synthetic)
        self.components = {visit: _voxels_by_lesion(visit.lesions) for visit in [*patients, *synthetic]}
        self.bank, self.contrasts = bank, tuple(contrasts)
        self.shape, self.samples, self.seed = tuple(shape), samples, seed
        self.intensity_range, self.caps = intensity_range, caps
        self.dropout = [0.0 if name in required else DROPOUT[name] for name in contrasts]

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """Input (C + 6, X, Y, Z), lesion mask and sphere mask (1, X, Y, Z), all float32."""
        patient, images, lesions, points, matrix = self.crop(index)
        coordinates = _moved_coordinates(synthesis.sample_at(patient.coordinates, points), matrix)
        spheres = torch.from_numpy(lesion_spheres(lesions.numpy(), np.ones(3)))
        return torch.cat([images, coordinates]), lesions[None].float(), spheres[None].float()

    def crop(self, index: int) -> tuple[Patient, Tensor, Tensor, Tensor, np.ndarray]:
        """A visit; images (C, X, Y, Z) and lesions (X, Y, Z) of a crop; its points and their matrix."""
        if not 0 <= index < self.samples:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, index))
        visits = self.visits[rng.integers(len(self.visits))]
        painted = PAINTED
        if self.synthetic and rng.random() < SYNTHETIC:
            visits, painted = self.synthetic, PAINTED_SYNTHETIC
        patient = visits[rng.integers(len(visits))]
        maps = self.bank.draw(rng) if self.bank is not None and rng.random() < painted else []
        matrix = synthesis.random_affine(rng, max_angle_deg=8, scale=STRETCH) * np.exp(rng.uniform(*np.log(self.zoom)))
        points = synthesis.sampling_points(
            rng, self.shape, centre=self._centre(patient, maps, rng), matrix=matrix, elastic_voxels=rng.uniform(0, 2)
        )
        images = synthesis.sample_at(patient.images, points)
        masks = synthesis.sample_at(patient.masks, points)
        lesions, brain, white = masks[:3] > 0.5
        grey, csf = masks[3:]
        present = images.flatten(1).abs().amax(1) > 0
        strength = rng.choice(STRENGTHS)
        marked = _soft(lesions)
        for change, share in ((CHANGED_GREY, grey), (CHANGED_CSF, csf), (CHANGED_CONTRAST, marked)):
            images += strength * self._drawn(rng, change) * share
        thickness = rng.uniform(*THICKNESS) if rng.random() < SLICED else 0.0
        if self.caps and rng.random() < CAPPED:
            tissue = brain & ~lesions & (csf < 0.5)
            images += self._caps(synthesis.sample_at(patient.ventricle_mm, points)[0], rng) * tissue
        if maps:
            painted = white & ~synthesis.dilate(lesions, 2) & lesions_at(points, maps, patient.mni_from_voxel)
            images += self._excess(painted, rng)
            lesions |= painted
        images = self._misaligned(self._scan(images, rng, strength=strength, thickness=thickness), rng)
        if self.intensity_range is not None:
            images = images.clamp(*self.intensity_range)
        keep = torch.tensor([rng.random() >= chance for chance in self.dropout]) & present
        return patient, images * keep[:, None, None, None] * brain, lesions, points, matrix

    def _centre(self, patient: Patient, maps: list[LesionMap], rng: np.random.Generator) -> np.ndarray:
        components, drawn = self.components[patient], rng.random()
        if maps and drawn < 0.3:
            voxel_from_mni = np.linalg.inv(patient.mni_from_voxel)
            place = voxel_from_mni[:3, :3] @ maps[0].any_place(rng) + voxel_from_mni[:3, 3]
            return np.clip(place, 0, np.array(patient.brain.shape) - 1)
        if components and drawn < 0.7:
            # A lesion first, then a voxel of it: small lesions are seen as often as large ones.
            voxels = components[rng.integers(len(components))]
            return voxels[rng.integers(len(voxels))] + rng.uniform(-0.35, 0.35, 3) * self.shape
        if components and len(patient.bright) and rng.random() < BRIGHT_SHARE:
            return np.array(np.unravel_index(rng.choice(patient.bright), patient.brain.shape), float)
        while True:
            voxel = rng.integers(patient.brain.shape)
            if patient.brain[tuple(voxel)]:
                return voxel.astype(float)

    def _drawn(self, rng: np.random.Generator, ranges: dict[str, tuple[float, float]]) -> Tensor:
        """A value for each contrast: (C, 1, 1, 1)."""
        return torch.tensor([rng.uniform(*ranges[name]) for name in self.contrasts])[:, None, None, None].float()

    def _excess(self, painted: Tensor, rng: np.random.Generator) -> Tensor:
        """What painted lesions (X, Y, Z) add to each contrast: (C, X, Y, Z)."""
        share = painted_share(painted, rng)
        return self._drawn(rng, PAINTED_CONTRAST) * share

    def _caps(self, distance: Tensor, rng: np.random.Generator) -> Tensor:
        """What caps and bands around the ventricles add, by the distance (X, Y, Z) to these: (C, X, Y, Z)."""
        varied = synthesis.smooth_field(rng, distance.shape, channels=1, points=knots(distance, 12), spread=0.8)[0]
        depth = (rng.uniform(*CAP_MM) * varied.exp()).clamp(max=DEEPEST_CAP_MM - 2)
        edge = rng.uniform(1.0, 3.0)
        return self._drawn(rng, CAP_CONTRAST) * ((depth - distance) / edge + 0.5).clamp(0, 1)

    def _misaligned(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Shift some contrasts other than the FLAIR by a few voxels."""
        for index, contrast in enumerate(self.contrasts):
            if contrast != "FLAIR" and rng.random() < MISALIGNED:
                images[index] = synthesis.shifted(images[index], rng.integers(-MISALIGNMENT, MISALIGNMENT + 1, 3))
        return images

    def _scan(self, images: Tensor, rng: np.random.Generator, *, strength: float, thickness: float) -> Tensor:
        size = images.shape[1:]
        shape = (len(images), 1, 1, 1)
        low, high = np.log(GAIN[0]), np.log(GAIN[1])
        gain = torch.from_numpy(strength * rng.uniform(low, high, shape)).exp().float()
        images = images * gain + torch.from_numpy(strength * rng.uniform(-OFFSET, OFFSET, shape)).float()
        images += synthesis.smooth_field(
            rng, size, channels=len(images), points=knots(images[0], 32), spread=rng.uniform(0, 0.35)
        )
        sharpness = rng.random()
        if sharpness < 0.5:
            images = synthesis.blur(images, sigma_voxels=rng.uniform(0, 0.8, 3))
        elif sharpness < 0.7:
            blurred = synthesis.blur(images, sigma_voxels=(0.8, 0.8, 0.0))
            images = images + rng.uniform(0.2, 1.0) * (images - blurred)
        if thickness:
            images = synthesis.thick_slices(images, axis=int(rng.choice(3, p=SLICED_AXIS)), thickness=thickness)
        return synthesis.add_noise(rng, images, spread=rng.uniform(0, 0.4))


def lesions_at(points: Tensor, maps: Sequence[LesionMap], mni_from_points: np.ndarray) -> Tensor:
    """Whether points (X, Y, Z, 3) lie in a lesion of any of the maps: (X, Y, Z) bool."""
    return torch.stack([lesions.at(points, mni_from_points) for lesions in maps]).any(0)


def _moved_coordinates(coordinates: Tensor, matrix: np.ndarray) -> Tensor:
    """Coordinates belong to the anatomy and move with it; mirrors swap the sides, and zooming stretches distances."""
    moved = coordinates.clone()
    if np.linalg.det(matrix) < 0:
        moved[0] *= -1
    moved[4:] /= float(np.abs(np.linalg.det(matrix)) ** (1 / 3))
    return moved


def _voxels_by_lesion(mask: np.ndarray) -> list[np.ndarray]:
    labels = cc3d.connected_components(mask, connectivity=26)
    where = np.argwhere(labels)
    order = np.argsort(labels[labels > 0], kind="stable")
    counts = np.bincount(labels[labels > 0])[1:]
    return np.split(where[order], np.cumsum(counts)[:-1]) if len(counts) else []


def _soft(mask: Tensor) -> Tensor:
    return synthesis.blur(mask[None].float(), sigma_voxels=(0.6, 0.6, 0.6))
