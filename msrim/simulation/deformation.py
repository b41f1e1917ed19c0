"""Displacements of known effect: lesions that expand, and ventricles that widen at the expense of the tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from msrim.image import Volume, bounding_box
from msrim.labels import CSF, HeadLabel

# How far beyond a lesion that expands its surroundings give way, near enough for them to lose volume; and what share of
# the lesion expands fully, percent of its voxels.
PUSHED_MM, EXPANDED = 4.0, 97.0
# The tissue's displacement falls to a third over so much beyond the ventricles, fast enough for the tissue beside their
# curved walls to lose volume as well; from this depth on to nothing towards the outer CSF, so that the ventricles alone
# gain; and to nothing towards the middle of the ventricles.
FADING_MM, SURFACE_MM, MIDDLE_MM = 5.0, 8.0, 4.0
SMOOTHING_MM = 2.0
# More would fold the image where ventricles are narrow.
MOST_MM = 2.5


@dataclass(frozen=True, eq=False)
class Pull:
    """Where a place of the follow-up lay at baseline.

    Attributes
    ----------
    voxels : (3, X, Y, Z) float32
        What is added to each voxel's index.
    affine : (4, 4) float
        World from voxel.
    """

    voxels: np.ndarray
    affine: np.ndarray

    def __call__(self, points_mm: np.ndarray) -> np.ndarray:
        """Places at baseline of places at follow-up, (..., 3) mm."""
        at = np.moveaxis((points_mm - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T, -1, 0)
        moved = [ndimage.map_coordinates(part, at, order=1, mode="nearest") for part in self.voxels]
        return points_mm + np.stack(moved, axis=-1) @ self.affine[:3, :3].T

    def sampled(self, image: np.ndarray, *, order: int = 1) -> np.ndarray:
        """An image on the same voxels as it looks at follow-up: (X, Y, Z)."""
        at = np.indices(image.shape, dtype=np.float32) + self.voxels
        return ndimage.map_coordinates(image, at, order=order, mode="nearest")

    def ratio(self, image: np.ndarray) -> float:
        """Volume of what an image (X, Y, Z) of shares shows, at follow-up by baseline."""
        # No place moves farther.
        margin = int(np.ceil(np.abs(self.voxels).max())) + 1
        box = bounding_box(image, margin=margin)
        shares = image[box].astype(np.float32)
        pulled = Pull(self.voxels[(slice(None), *box)], self.affine).sampled(shares)
        return float(pulled.sum(dtype=np.float64) / shares.sum(dtype=np.float64))


def growth(grid: Volume, lesions: Sequence[np.ndarray], ratios: Sequence[float]) -> Pull:
    """Lesions that expand about their middles and push away what is around them.

    Parameters
    ----------
    grid : Volume
        Of cubic voxels; only its shape and affine are used.
    lesions : sequence of (N, 3) int
        Voxels of each.
    ratios : sequence of float
        Volume at follow-up by that at baseline of the ellipsoid that holds the lesion; parts that reach out of it grow
        less.
    """
    spacing = float(grid.spacing.mean())
    voxels = np.zeros((3, *grid.shape), np.float32)
    for points, ratio in zip(lesions, ratios, strict=True):
        centre, pushed = points.mean(axis=0), PUSHED_MM / spacing
        # A voxel's own variance along an axis is a twelfth.
        shape = np.linalg.inv(np.cov(points.T) + np.eye(3) / 12)
        gauge = np.percentile(np.sqrt(np.einsum("ni,ij,nj->n", points - centre, shape, points - centre)), EXPANDED)
        reach = np.abs(points - centre).max() * np.cbrt(ratio) + pushed
        low = np.maximum(np.floor(centre - reach), 0).astype(int)
        high = np.minimum(np.ceil(centre + reach) + 1, grid.shape).astype(int)
        away = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij")) - centre[:, None, None, None]
        distance = np.maximum(np.linalg.norm(away, axis=0), 1e-9)
        # Out to the faces of its outermost voxels.
        gauge *= 1 + 0.5 / np.cbrt(3 * len(points) / (4 * np.pi))
        # Of the ellipsoid in a voxel's direction.
        radius = gauge * distance / np.maximum(np.sqrt(np.einsum("i...,ij,j...->...", away, shape, away)), 1e-9)
        grown = radius * np.cbrt(ratio)
        beyond = (grown - radius) * np.clip(1 - (distance - grown) / pushed, 0, 1) ** 2
        inwards = np.where(distance <= grown, distance * (1 - radius / grown), beyond)
        box = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
        voxels[box] -= away / distance * inwards
    return Pull(voxels, grid.affine)


def atrophy(labels: Volume, *, loss_percent: float) -> Pull:
    """Ventricles that widen, so that the tissue loses volume.

    Parameters
    ----------
    labels : Volume of int
        HEAD_LABELS, on cubic voxels.
    loss_percent : float
        Of grey and white matter, above 0; met but for a few hundredths, and less of it where the ventricles would have
        to widen by more than MOST_MM. :meth:`Pull.ratio` tells what was reached.

    Returns
    -------
    Pull
        Without any displacement where no ventricle is seen.
    """
    ventricles = labels.data == HeadLabel.VENTRICLES
    tissue = tissue_share(labels)
    if not ventricles.any() or not tissue.any():
        return Pull(np.zeros((3, *labels.shape), np.float32), labels.affine)
    spacing = labels.spacing
    outside, inside = (ndimage.distance_transform_edt(mask, sampling=spacing) for mask in (~ventricles, ventricles))
    signed = (outside - inside).astype(np.float32)
    depth = ndimage.distance_transform_edt(ventricles | (tissue > 0), sampling=spacing)
    size = np.where(signed > 0, np.exp(-signed / FADING_MM), np.clip(1 + signed / MIDDLE_MM, 0, 1))
    outwards = np.stack(np.gradient(ndimage.gaussian_filter(signed, SMOOTHING_MM / spacing)))
    outwards /= np.maximum(np.linalg.norm(outwards, axis=0), 1e-3)
    # By one millimetre at most.
    unit = np.stack([ndimage.gaussian_filter(-part * size, SMOOTHING_MM / spacing) for part in outwards])
    unit = (unit * np.clip(depth / SURFACE_MM, 0, 1) / spacing[:, None, None, None]).astype(np.float32)
    reached = 1.0
    for _ in range(3):
        lost = 100 * (1 - Pull(reached * unit, labels.affine).ratio(tissue))
        if lost <= 0:
            break
        reached = min(reached * loss_percent / lost, MOST_MM)
    return Pull(reached * unit, labels.affine)


def tissue_share(labels: Volume) -> np.ndarray:
    """Where grey and white matter are: (X, Y, Z) float32, 0 or 1."""
    return (~np.isin(labels.data, [HeadLabel.BACKGROUND, *CSF])).astype(np.float32)


def together(pulls: Sequence[Pull]) -> Pull:
    """Displacements on one grid at once."""
    return Pull(np.sum([pull.voxels for pull in pulls], axis=0), pulls[0].affine)
