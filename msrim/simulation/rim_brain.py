"""Where rim lesions lie: a brain's tissues, the places in it, and the air around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
from edt import edt
from scipy.ndimage import gaussian_filter

from msrim.errors import InputError
from msrim.image import Volume, bounding_box, read_volume, to_ras
from msrim.simulation.head import OUTSIDE, Head
from msrim.simulation.rim_shapes import (
    PATCH_MM,
    SMALLEST_TRACED_MM3,
    TracedShape,
    draw_radius_mm,
    made_shape,
    traced_voxels,
)
from msrim.simulation.rims import Dials, RimLesion, draw_kind, draw_lesion, is_large
from msrim.transform import apply_transform

GAP_MM = 0.5
TRIES = 40
# Share of small lesions that are made where there is a bank: its lesions are sheets more often than other people's are.
MADE_SHARE = 0.4
# Deep grey nuclei on the template: middle and radii in mm, both sides; iron relative to the globus pallidus.
NUCLEI = (
    ((20, -2, -2), (5, 8, 5), 1.0),  # globus pallidus
    ((27, 2, 1), (6, 14, 9), 0.5),  # putamen
    ((13, 12, 9), (5, 9, 10), 0.45),  # caudate
    ((10, -16, -11), (6, 5, 4), 0.9),  # substantia nigra and red nucleus
    ((13, -19, 7), (9, 13, 8), 0.15),  # thalamus
)
# FreeSurfer values of label maps; what is left of the brain's hull is CSF.
WHITE = (2, 41, 7, 46, 16, 25, 28, 57, 60, 85, 30, 62)
GREY = (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 18, 53, 54, 26, 58)
LATERAL_VENTRICLES = (4, 43)
OTHER_CSF = (5, 14, 15, 44, 72, 31, 63, 136, 137, 163, 164)
IRON = {13: 1.0, 52: 1.0, 12: 0.5, 51: 0.5, 11: 0.45, 50: 0.45, 28: 0.2, 60: 0.2, 10: 0.15, 49: 0.15}
CHIASM = 85
SULCI_MM = 9
# Susceptibility of what is not soft tissue, less that of soft tissue, ppm.
AIR_PPM, BONE_PPM = 9.4, -2.0
BONE = 515
# Sinuses, which the label maps do not show: from the chiasm to the middle, radii, mm; both sides where it is off zero.
SINUSES = (
    ((0, 12, -23), (12, 11, 8)),  # sphenoid sinus
    ((6, 42, -22), (6, 20, 9)),  # ethmoid cells
    ((12, 62, 0), (11, 6, 11)),  # frontal sinus
    ((50, -38, -28), (9, 10, 13)),  # mastoid cells
)
LEAST_BONE_MM = 7.0
TEMPLATE_MM = np.array([[-72.0, 72.0], [-107.0, 74.0], [-65.0, 83.0]])  # the brain of the bank's space


@dataclass(frozen=True, eq=False)
class Brain:
    """Tissues of one brain, on a grid of 1 mm: fractions, lesions' places, and which way veins run.

    Attributes
    ----------
    maps : dict of str to Volume of float32
        Fractions "white", "grey", "csf"; "iron" of the nuclei; "ventricles".
    places : (N, 3) int
        Voxels of white matter.
    chances : (N,) float
        Of a lesion at this place or one before it, ascending to 1.
    directions : (3, X, Y, Z) float32
        Away from the ventricles.
    outside : Volume of float32, ppm, or None
        Susceptibility of air and bone less that of soft tissue, over the whole head on a coarser grid.
    from_mni : (4, 4) float
        From the bank's space to the brain's own, about.
    """

    maps: dict[str, Volume]
    places: np.ndarray
    chances: np.ndarray
    directions: np.ndarray
    outside: Volume | None = None
    from_mni: np.ndarray | None = None


def make_brain(head: Head) -> Brain:
    """The brain of a made head."""
    x, y, z = head.mni
    iron = np.zeros(head.white.shape, np.float32)
    for (a, b, c), (u, v, w), amount in NUCLEI:
        nucleus = ((np.abs(x) - a) / u) ** 2 + ((y - b) / v) ** 2 + ((z - c) / w) ** 2 < 1
        iron[nucleus & (head.csf < 0.3)] = amount
    tissue = {"white": head.white, "grey": head.grey, "csf": head.csf, "iron": gaussian_filter(iron, 0.7)}
    outside = np.zeros(head.outside.shape, np.float32)
    beyond = (1 - head.white - head.grey - head.csf) > 0.5
    outside[beyond & (head.outside == OUTSIDE.index("air"))] = AIR_PPM
    outside[beyond & (head.outside == OUTSIDE.index("bone"))] = BONE_PPM
    return _brain(tissue, head.brain, head.ventricles, head.affine, _halved(Volume(outside, head.affine)))


def read_brain(path: Path) -> Brain:
    """The brain of a whole-head label map with FreeSurfer values, on a grid of about 1 mm.

    Raises
    ------
    InputError
        The file is no such map.
    """
    volume = to_ras(read_volume(path))
    labels = volume.data.astype(np.int16)
    white, grey = np.isin(labels, WHITE), np.isin(labels, GREY)
    ventricles = np.isin(labels, LATERAL_VENTRICLES)
    if not (white.any() and grey.any() and ventricles.any() and (labels == CHIASM).any()):
        raise InputError(f"{path}: lacks white or grey matter, ventricles or chiasm; give label maps of whole heads")
    outside = np.where(labels == 0, np.float32(AIR_PPM), 0)
    outside[labels == BONE] = BONE_PPM
    chiasm = np.argwhere(labels == CHIASM).mean(axis=0)
    away = [(np.arange(n) - c).reshape([-1 if k == axis else 1 for k in range(3)])
            for axis, (n, c) in enumerate(zip(labels.shape, chiasm, strict=True))]  # fmt: skip
    away[0] = np.abs(away[0])
    for middle, radii in SINUSES:
        sinus = sum(((a - m) / r) ** 2 for a, m, r in zip(away, middle, radii, strict=True)) < 1
        outside[sinus] = AIR_PPM
    solid = white | grey | ventricles | np.isin(labels, OTHER_CSF)
    box = bounding_box(solid, margin=SULCI_MM + 3)
    white, grey, ventricles, solid = white[box], grey[box], ventricles[box], solid[box]
    # As brain extraction has it: sulci and fissures are inside.
    brain = edt(edt(~np.pad(solid, 1), parallel=1) < SULCI_MM, parallel=1)[1:-1, 1:-1, 1:-1] > SULCI_MM
    brain |= solid
    outside[box][edt(~brain, parallel=1) < LEAST_BONE_MM] = 0
    iron = np.zeros(brain.shape, np.float32)
    for value, amount in IRON.items():
        iron[labels[box] == value] = amount
    tissue = {name: gaussian_filter(part.astype(np.float32), 0.6) for name, part in (("white", white), ("grey", grey))}
    tissue["csf"] = np.clip(1 - tissue["white"] - tissue["grey"], 0, 1)
    tissue["iron"] = gaussian_filter(iron, 0.7)
    affine = volume.affine.copy()
    affine[:3, 3] = apply_transform(volume.affine, np.array([s.start for s in box]))
    return _brain(tissue, brain, ventricles, affine, _halved(Volume(outside, volume.affine)))


def _brain(
    tissue: dict[str, np.ndarray], brain: np.ndarray, ventricles: np.ndarray, affine: np.ndarray, outside: Volume
) -> Brain:
    box = bounding_box(brain, margin=2)
    moved = affine.copy()
    moved[:3, 3] = apply_transform(affine, np.array([s.start for s in box]))
    cut = {name: (data * brain)[box].astype(np.float32) for name, data in tissue.items()}
    cut["ventricles"] = ventricles[box].astype(np.float32)
    from_ventricles = edt(~ventricles[box], parallel=1)
    from_outside = edt(np.pad(brain[box], 1), parallel=1)[1:-1, 1:-1, 1:-1]
    near = np.exp(-from_ventricles / 8) + 0.12
    allowed = (cut["white"] > 0.6) & (from_ventricles > 2) & (from_outside > 6)
    chances = np.cumsum(near[allowed]) / near[allowed].sum()
    directions = np.stack(np.gradient(gaussian_filter(from_ventricles, 2)))
    maps = {name: Volume(np.ascontiguousarray(data), moved) for name, data in cut.items()}
    ends = apply_transform(affine, np.array([[side.start, side.stop - 1] for side in bounding_box(brain)]).T)
    stretch = np.abs(ends[1] - ends[0]) / np.ptp(TEMPLATE_MM, axis=1)
    from_mni = np.diag([*stretch, 1.0])
    from_mni[:3, 3] = ends.mean(axis=0) - stretch * TEMPLATE_MM.mean(axis=1)
    return Brain(maps, np.argwhere(allowed), chances, directions.astype(np.float32), outside, from_mni)


def _halved(volume: Volume) -> Volume:
    """Every two voxels along each axis as one, blurred: a field of sharp edges would ring all through the brain."""
    shape = tuple(n // 2 * 2 for n in volume.shape)
    whole = volume.data[tuple(slice(n) for n in shape)]
    data = whole.reshape(shape[0] // 2, 2, shape[1] // 2, 2, shape[2] // 2, 2).mean(axis=(1, 3, 5))
    affine = volume.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = apply_transform(volume.affine, np.full(3, 0.5))
    return Volume(gaussian_filter(data, 1.0), affine)


def scatter_lesions(
    brain: Brain,
    *,
    rims: int,
    others: int,
    bank: list[TracedShape] | None,
    dials: Dials,
    rng: np.random.Generator,
) -> list[RimLesion]:
    """Lesions that do not touch, in the brain's own space; large ones choose their place first.

    Parameters
    ----------
    brain : Brain
    rims, others : int
        Lesions wanted; one that finds no place in TRIES trials is left out.
    bank : list of TracedShape or None
        Of the bank's space; gives places for all and shapes for small ones, each once.
    dials : Dials
    rng : numpy.random.Generator
    """
    left = None if bank is None else list(bank)
    kinds = ["rim"] * rims + [draw_kind(rng) for _ in range(others)]
    placed: list[RimLesion] = []
    for kind in sorted(kinds, key=is_large, reverse=True):
        for _ in range(TRIES):
            shape = _place_shape(brain, kind, left, rng)
            free = shape.fits(PATCH_MM) and all(_apart(shape, other.shape) for other in placed)
            lesion = None
            if free and _in_white_matter(shape, brain):
                lesion = draw_lesion(shape, kind, dials=dials, rng=rng)
            if lesion is not None:
                placed.append(lesion)
                break
    return [placed[i] for i in rng.permutation(len(placed))]


def _place_shape(brain: Brain, kind: str, bank: list[TracedShape] | None, rng: np.random.Generator) -> TracedShape:
    affine = brain.maps["white"].affine
    if bank and not is_large(kind) and rng.random() > MADE_SHARE:
        radius = draw_radius_mm(large=False, rng=rng)
        radii = np.array([shape.mean_radius_mm for shape in bank])
        close = np.flatnonzero(np.abs(radii / radius - 1) < 0.1)
        chosen = int(rng.choice(close)) if len(close) else int(np.abs(radii / radius - 1).argmin())
        shape = bank.pop(chosen)
        return shape.moved(apply_transform(_from_mni(brain), shape.centre_mm))
    voxel = brain.places[np.searchsorted(brain.chances, rng.random())]
    if bank:
        # Where the bank has a lesion, or as near to it as there is white matter.
        wanted = apply_transform(_from_mni(brain), bank[rng.integers(len(bank))].centre_mm + rng.normal(0, 4, 3))
        away = np.abs(brain.places - apply_transform(np.linalg.inv(affine), wanted)).sum(axis=1)
        voxel = brain.places[away.argmin()]
    centre = apply_transform(affine, voxel)
    direction = brain.directions[:, *voxel] if kind == "finger" or rng.random() < 0.3 else None
    return made_shape(large=is_large(kind), direction=direction, rng=rng).moved(centre)


def _from_mni(brain: Brain) -> np.ndarray:
    if brain.from_mni is None:
        raise ValueError("a bank's lesions need to know where the brain lies in MNI space")
    return brain.from_mni


def _in_white_matter(shape: TracedShape, brain: Brain) -> bool:
    """Whether most of a lesion is where white matter is."""
    white = brain.maps["white"]
    points = apply_transform(shape.affine, np.argwhere(shape.inside))
    voxels = apply_transform(np.linalg.inv(white.affine), points).round().astype(int)
    inside = ((voxels >= 0) & (voxels < white.shape)).all(axis=1)
    return bool(white.data[tuple(voxels[inside].T)].sum() > 0.6 * len(voxels))


def _apart(one: TracedShape, other: TracedShape) -> bool:
    gap = np.linalg.norm(one.centre_mm - other.centre_mm) - one.radii_mm.mean() - other.radii_mm.mean()
    return bool(gap > GAP_MM)


def lesions_of(extent: Volume, *, dials: Dials, rng: np.random.Generator) -> list[RimLesion]:
    """Lesions in the places and shapes of a map of fractions: those with the most room for it get a rim.

    Parameters
    ----------
    extent : Volume of float
        On a grid of 1 mm.
    dials : Dials
    rng : numpy.random.Generator

    Returns
    -------
    list of RimLesion
        A third of those that have room for a rim have one; at least one has, if there is room in any.
    """
    parts = cc3d.connected_components(extent.data > 0.5, connectivity=6)
    order = np.argsort(parts[parts > 0], kind="stable")
    sizes = np.bincount(parts[parts > 0])[1:]
    members = np.split(np.argwhere(parts)[order], np.cumsum(sizes)[:-1]) if len(sizes) else []
    shapes = [traced_voxels(voxels, extent.affine) for voxels in members if len(voxels) > SMALLEST_TRACED_MM3]
    wanted = rng.random(len(shapes)) < 1 / 3
    roomiest = max(range(len(shapes)), key=lambda index: shapes[index].inscribed_mm, default=None)
    lesions = []
    for index, shape in enumerate(shapes):
        lesion = draw_lesion(shape, "rim", dials=dials, rng=rng) if wanted[index] or index == roomiest else None
        plain = "plain" if rng.random() < 0.7 else "finger"
        lesion = lesion or draw_lesion(shape, plain, dials=dials, rng=rng)
        if lesion is None:
            raise ValueError("only a lesion with a rim may find no room")
        lesions.append(lesion)
    return lesions
