"""The shapes of simulated lesions: made ones, and those of other people's lesions from a bank of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cc3d
import numpy as np
from edt import edt
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from msrim.lesions.bank import read_bank
from msrim.simulation.shapes import random_blob

# The largest rim+ lesion of Zhang et al. 2022 takes up 15 x 20 x 5 voxels of 0.75 x 0.75 x 3 mm.
LARGEST_RIM_MM = (11.25, 15.0, 15.0)
# Every lesion must fit into it: the networks' patch, less the margin by which an outline may be drawn too large.
PATCH_MM = (21.0, 21.0, 20.0)
# Median and log-deviation of the radius in the plane, and its bounds, in mm: lesions as large as rims are, and others.
RADIUS_MM = {True: (4.9, 0.18, 3.6, 7.2), False: (2.7, 0.4, 1.4, 8.0)}
GRID_MM = 0.5
SMALLEST_TRACED_MM3 = 20
SAME_MM, SAME_SIZE = 2.0, 0.15


@dataclass(frozen=True)
class TracedShape:
    """The shape of a lesion, as a mask and as distances to its surface.

    Attributes
    ----------
    centre_mm, radii_mm : (3,) float
        Middle and half-widths of the box around it.
    inside : (X, Y, Z) bool
        With some room around it.
    affine : (4, 4) float
        Of ``inside``: equal edges along the axes.
    """

    centre_mm: np.ndarray
    radii_mm: np.ndarray
    inside: np.ndarray
    affine: np.ndarray

    @cached_property
    def depth(self) -> np.ndarray:
        """Signed distance to its surface, positive inside: (X, Y, Z) float32, mm."""
        # Most shapes that are drawn find no place, and this is what takes time.
        spacing = float(np.linalg.norm(self.affine[:3, 0]))
        depth = edt(self.inside, parallel=1) - edt(~self.inside, parallel=1)
        # Half a voxel from the last centre inside to the surface.
        return (spacing * (depth - 0.5 * np.sign(depth))).astype(np.float32)

    @cached_property
    def mean_radius_mm(self) -> float:
        """Radius of a sphere of the same volume."""
        volume = np.count_nonzero(self.inside) * abs(np.linalg.det(self.affine[:3, :3]))
        return float((3 * volume / (4 * np.pi)) ** (1 / 3))

    @property
    def inscribed_mm(self) -> float:
        """Radius of the largest sphere inside."""
        return float(self.depth.max())

    def depth_mm(self, points_mm: np.ndarray) -> np.ndarray:
        """How far inside the surface points lie, (...) float32; negative outside."""
        inverse = np.linalg.inv(self.affine)
        voxels = np.moveaxis(points_mm @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
        return map_coordinates(self.depth, voxels, order=1, mode="nearest", output=np.float32)

    def moved(self, centre_mm: np.ndarray) -> TracedShape:
        """The same shape elsewhere."""
        affine = self.affine.copy()
        affine[:3, 3] += centre_mm - self.centre_mm
        return TracedShape(np.asarray(centre_mm, float), self.radii_mm, self.inside, affine)

    def fits(self, box_mm: Sequence[float]) -> bool:
        """Whether it fits into a box with edges along the axes, which may be turned by 90 degrees in the plane."""
        return _fits(2 * self.radii_mm, box_mm)


def _fits(widths_mm: np.ndarray, box_mm: Sequence[float]) -> bool:
    return bool((np.sort(widths_mm[:2]) <= np.sort(box_mm[:2])).all() and widths_mm[2] <= box_mm[2])


def traced_voxels(voxels: np.ndarray, affine: np.ndarray, *, margin: int = 6) -> TracedShape:
    """The shape of a set of voxels (N, 3) of a grid of equal edges along the axes."""
    low = voxels.min(axis=0) - margin
    mask = np.zeros(np.ptp(voxels, axis=0) + 1 + 2 * margin, bool)
    mask[tuple((voxels - low).T)] = True
    to_world = affine.copy()
    to_world[:3, 3] = affine[:3, :3] @ low + affine[:3, 3]
    spacing = float(np.linalg.norm(affine[:3, 0]))
    corners = np.stack([voxels.min(axis=0), voxels.max(axis=0)]) @ affine[:3, :3].T + affine[:3, 3]
    return TracedShape(corners.mean(axis=0), np.abs(np.ptp(corners, axis=0)) / 2 + spacing / 2, mask, to_world)


def made_shape(*, large: bool, direction: np.ndarray | None = None, rng: np.random.Generator) -> TracedShape:
    """A made lesion about the origin, no larger than the largest published one with a rim.

    Parameters
    ----------
    large : bool
        As large as lesions with a rim are.
    direction : (3,) float, optional
        Along a venule, for Dawson's fingers; roundish without.
    rng : numpy.random.Generator
    """
    while True:
        stretch = rng.uniform(0.75, 1.3, 3)
        if direction is not None:
            stretch *= (1.4, 0.85, 0.85)
        blob = random_blob(
            np.zeros(3), draw_radius_mm(large=large, rng=rng) * stretch / stretch.prod() ** (1 / 3), rng=rng,
            direction=direction, roughness=rng.uniform(0.06, 0.16),
        )  # fmt: skip
        half = int(np.ceil((1.4 * blob.radii_mm.max() + 1) / GRID_MM))
        line = GRID_MM * np.arange(-half, half + 1)
        parts = cc3d.connected_components(blob.depth_on_grid(line, line, line) > 0, connectivity=6)
        if not parts.any():
            continue
        voxels = np.argwhere(parts == np.bincount(parts[parts > 0]).argmax())
        widths = GRID_MM * (np.ptp(voxels, axis=0) + 1)
        if _fits(widths, LARGEST_RIM_MM):
            return traced_voxels(voxels, np.diag([GRID_MM, GRID_MM, GRID_MM, 1.0])).moved(np.zeros(3))


def draw_radius_mm(*, large: bool, rng: np.random.Generator) -> float:
    """Radius in the plane of the slices."""
    median, deviation, low, high = RADIUS_MM[large]
    return float(np.clip(median * np.exp(deviation * rng.standard_normal()), low, high))


class ShapeBank:
    """Shapes and places of other people's lesions, in MNI space.

    Parameters
    ----------
    path : Path
        See :func:`msrim.lesions.bank.read_bank`.

    Notes
    -----
    A bank may hold the same lesion in more than one map. Each is kept once: of those within SAME_MM of each other and
    of about the same size the first. Lesions that do not fit a patch are left out.
    """

    def __init__(self, path: Path) -> None:
        bank, found = read_bank(path), []
        self.affine = bank.affine
        for flat in bank.maps:
            found += _connected(np.stack(np.unravel_index(flat, bank.shape), axis=-1))
        middles = np.array([(lesion.min(axis=0) + lesion.max(axis=0)) / 2 for lesion in found])
        sizes = np.array([len(lesion) for lesion in found])
        twins = cKDTree(middles).query_pairs(SAME_MM, output_type="ndarray")
        alike = np.abs(sizes[twins[:, 0]] / sizes[twins[:, 1]] - 1) < SAME_SIZE
        again = set(twins[alike].max(axis=1).tolist())
        self.voxels = [lesion for index, lesion in enumerate(found) if index not in again]

    def __len__(self) -> int:
        """Number of lesions."""
        return len(self.voxels)

    def shapes(self, lesions: Sequence[int]) -> list[TracedShape]:
        """Some of the lesions, where they were."""
        return [traced_voxels(self.voxels[index], self.affine) for index in lesions]


def _connected(voxels: np.ndarray) -> list[np.ndarray]:
    """The connected lesions of a map's voxels (N, 3), those that are neither too small nor larger than a patch."""
    low = voxels.min(axis=0)
    mask = np.zeros(np.ptp(voxels, axis=0) + 1, np.uint8)
    mask[tuple((voxels - low).T)] = 1
    parts = cc3d.connected_components(mask, connectivity=26)[tuple((voxels - low).T)]
    lesions = [voxels[parts == part] for part in range(1, parts.max() + 1)]
    least = SMALLEST_TRACED_MM3
    return [one for one in lesions if len(one) >= least and (np.ptp(one, axis=0) + 1 <= PATCH_MM).all()]
