"""Where rim lesions lie: a brain's tissues and the places in it."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from edt import edt
from scipy.ndimage import gaussian_filter

from msrim.image import Volume
from msrim.simulation.head import MEAN_SCALE, Head
from msrim.simulation.rims import RADIUS_MM, RimLesion, ShapeBank, TracedShape, draw_lesion, draw_shape, traced_shape
from msrim.simulation.shapes import Blob
from msrim.transform import apply_transform

GAP_MM = 0.3
SMALLEST_TRACED_MM3 = 20
# Deep grey nuclei on the template: middle and radii in mm, both sides; iron relative to the globus pallidus.
NUCLEI = (
    ((20, -2, -2), (5, 8, 5), 1.0),  # globus pallidus
    ((27, 2, 1), (6, 14, 9), 0.5),  # putamen
    ((13, 12, 9), (5, 9, 10), 0.45),  # caudate
    ((10, -16, -11), (6, 5, 4), 0.9),  # substantia nigra and red nucleus
    ((13, -19, 7), (9, 13, 8), 0.15),  # thalamus
)


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
    """

    maps: dict[str, Volume]
    places: np.ndarray
    chances: np.ndarray
    directions: np.ndarray


def make_brain(head: Head) -> Brain:
    """The brain of a head; a cohort's patients share one, before each gets a size and a pose of its own."""
    x, y, z = head.mni
    iron = np.zeros(head.white.shape, np.float32)
    for (a, b, c), (u, v, w), amount in NUCLEI:
        nucleus = ((np.abs(x) - a) / u) ** 2 + ((y - b) / v) ** 2 + ((z - c) / w) ** 2 < 1
        iron[nucleus & (head.csf < 0.3)] = amount
    box = tuple(slice(a - 2, b + 3) for a, b in zip(*_bounds(head.brain), strict=True))
    affine = head.affine.copy()
    affine[:3, 3] += [s.start for s in box]
    fractions = {"white": head.white, "grey": head.grey, "csf": head.csf, "iron": gaussian_filter(iron, 0.7)}
    fractions["ventricles"] = head.ventricles
    cut = {name: (data * head.brain)[box].astype(np.float32) for name, data in fractions.items()}
    from_ventricles = edt(~head.ventricles[box], parallel=1)
    from_outside = edt(head.brain[box], parallel=1)
    near = np.exp(-from_ventricles / 8) + 0.12
    allowed = (cut["white"] > 0.6) & (from_ventricles > 2) & (from_outside > 5)
    chances = np.cumsum(near[allowed]) / near[allowed].sum()
    directions = np.stack(np.gradient(gaussian_filter(from_ventricles, 2)))
    maps = {name: Volume(np.ascontiguousarray(data), affine) for name, data in cut.items()}
    return Brain(maps, np.argwhere(allowed), chances, directions.astype(np.float32))


def scatter_lesions(
    brain: Brain, *, rims: int, others: int, bank: ShapeBank | None, rng: np.random.Generator
) -> list[RimLesion]:
    """Lesions that don't overlap, in the brain's own space; large ones with rims choose their place first."""
    placed: list[RimLesion] = []
    affine = brain.maps["white"].affine
    for rim in [True] * rims + [False] * others:
        for _ in range(30):
            shape = _place_shape(brain, affine, rim=rim, bank=bank, rng=rng)
            if shape is not None and all(_apart(shape, other.shape) for other in placed):
                placed.append(draw_lesion(shape, rim=rim, rng=rng))
                break
    return [placed[i] for i in rng.permutation(len(placed))]


def _place_shape(
    brain: Brain, affine: np.ndarray, *, rim: bool, bank: ShapeBank | None, rng: np.random.Generator
) -> Blob | TracedShape | None:
    if bank is not None:
        return _in_white_matter(bank.draw(rim=rim, rng=rng), brain)
    voxel = brain.places[np.searchsorted(brain.chances, rng.random())]
    direction = brain.directions[:, *voxel] if rng.random() < 0.3 else None
    return draw_shape(apply_transform(affine, voxel), rim=rim, direction=direction, rng=rng)


def _in_white_matter(shape: TracedShape, brain: Brain) -> TracedShape | None:
    """A lesion of the bank moved from MNI space into the brain's, if that is where white matter is."""
    to_head = np.diag([MEAN_SCALE, MEAN_SCALE, MEAN_SCALE, 1.0])
    centre = apply_transform(to_head, shape.centre_mm)
    shift = np.eye(4)
    shift[:3, 3] = centre - shape.centre_mm
    white = brain.maps["white"]
    moved = TracedShape(centre, shape.radii_mm, shape.depth, shift @ shape.affine)
    voxels = (
        apply_transform(np.linalg.inv(white.affine) @ moved.affine, np.argwhere(shape.depth > 0)).round().astype(int)
    )
    inside = ((voxels >= 0) & (voxels < white.shape)).all(axis=1)
    return moved if white.data[tuple(voxels[inside].T)].sum() > 0.5 * len(voxels) else None


def _apart(one: Blob | TracedShape, other: Blob | TracedShape) -> bool:
    gap = np.linalg.norm(one.centre_mm - other.centre_mm) - one.radii_mm.mean() - other.radii_mm.mean()
    return bool(gap > GAP_MM)


def lesions_of(extent: Volume, *, rng: np.random.Generator) -> list[RimLesion]:
    """Lesions in the places and shapes of a map of fractions: of the larger ones about a third get a rim, one at least.

    Parameters
    ----------
    extent : Volume of float
        On a grid of 1 mm.
    rng : numpy.random.Generator
    """
    parts = cc3d.connected_components(extent.data > 0.5, connectivity=6)
    order = np.argsort(parts[parts > 0], kind="stable")
    sizes = np.bincount(parts[parts > 0])[1:]
    members = np.split(np.argwhere(parts)[order], np.cumsum(sizes)[:-1]) if len(sizes) else []
    shapes = [traced_shape(voxels, extent.affine) for voxels in members if len(voxels) > SMALLEST_TRACED_MM3]
    large = [np.sort(shape.radii_mm)[1] > RADIUS_MM[True][2] for shape in shapes]
    rims = np.array(large, dtype=bool) & (rng.random(len(shapes)) < 1 / 3)
    if any(large) and not rims.any():
        rims[large.index(True)] = True
    return [draw_lesion(shape, rim=bool(rim), rng=rng) for shape, rim in zip(shapes, rims, strict=True)]


def _bounds(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    voxels = np.argwhere(mask)
    return voxels.min(axis=0), voxels.max(axis=0)
