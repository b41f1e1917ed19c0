"""Whether two images show the same brain: its sulci are a person's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from msrim.image import Volume, grid_around, resample

# Sulci: finer than the first, scans differ by their resolution; coarser than the second, by coil and brightness.
FINE_MM, COARSE_MM = 2.0, 8.0
# FLAIRs of one person reach 0.86 to 0.98 registered to one another (five pairs of visits, slices of 1 to 6.5 mm), and
# 0.82 to 0.93 in MNI152 (four pairs). Those of two people reach 0.48 (three pairs) and 0.51 (101 pairs, twelve people).
SAME_BRAIN = 0.65
# Beside the brain's surface masks decide what is seen.
EDGE_MM = 4.0
# Grid in MNI152 on which brains are compared: spacing, and the lowest and highest corner in mm.
MNI_SPACING_MM = 2.0
MNI_BOX_MM = ((-72.0, -104.0, -40.0), (72.0, 72.0, 76.0))


def sulci(image: np.ndarray, brain: np.ndarray, *, spacing: np.ndarray) -> np.ndarray:
    """What an image shows between FINE_MM and COARSE_MM, as if nothing were outside the brain.

    Parameters
    ----------
    image : (X, Y, Z) float
    brain : (X, Y, Z) bool
    spacing : (3,) float, mm

    Returns
    -------
    (X, Y, Z) float32
    """
    inside = np.where(brain, image, 0).astype(np.float32)
    weight = brain.astype(np.float32)

    def smoothed(width_mm: float) -> np.ndarray:
        sigma = width_mm / np.asarray(spacing)
        return ndimage.gaussian_filter(inside, sigma) / np.maximum(ndimage.gaussian_filter(weight, sigma), 0.05)

    return smoothed(FINE_MM) - smoothed(COARSE_MM)


def likeness(one: np.ndarray, other: np.ndarray, brain: np.ndarray, *, spacing: np.ndarray) -> float:
    """Correlation of the sulci of two registered images of one contrast, below the surface of the brain.

    Parameters
    ----------
    one, other : (X, Y, Z) float
    brain : (X, Y, Z) bool
        What both images show.
    spacing : (3,) float, mm

    Returns
    -------
    float
        Of one person, above SAME_BRAIN; 0 where there is nothing to compare.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(size=(40, 40, 40))
    >>> round(likeness(image, 3 * image + 7, np.ones(image.shape, bool), spacing=np.ones(3)), 3)
    1.0
    """
    core = _core(brain, spacing=spacing)
    a, b = (sulci(image, brain, spacing=spacing)[core] for image in (one, other))
    if a.size < 2 or not (a.std() > 0 and b.std() > 0):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def on_template(image: Volume, brain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sulci and brain of an image on a grid in MNI152 that is the same for all.

    Parameters
    ----------
    image : Volume of float
        In MNI152, on whatever grid.
    brain : (X, Y, Z) bool
        On that grid.

    Returns
    -------
    (A, B, C) float32, (A, B, C) bool
    """
    low, high = (np.array(corner) for corner in MNI_BOX_MM)
    grid = grid_around(high - low, low, spacing_mm=MNI_SPACING_MM)
    inside = resample(image.like(brain.astype(np.float32)), grid).data > 0.5
    return sulci(resample(image, grid).data, inside, spacing=grid.spacing), inside


def same_brains(seen: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[tuple[str, str, float]]:
    """Pairs of names whose images, each as :func:`on_template` has it, show the same brain, and their likeness.

    All pairs are compared at once, each below the surface of both brains.
    """
    if len(seen) < 2:
        return []
    names = sorted(seen)
    cores = [_core(seen[name][1], spacing=np.full(3, MNI_SPACING_MM)) for name in names]
    shown = np.stack([np.where(core, seen[name][0], 0).ravel() for name, core in zip(names, cores, strict=True)])
    inside = np.stack([core.ravel() for core in cores]).astype(np.float32)
    # [one, other]: voxels of both; over these, sums of one's values, of their squares, and of the products.
    count = np.maximum(inside @ inside.T, 1)
    total, squares, products = shown @ inside.T, shown**2 @ inside.T, shown @ shown.T
    spread = squares - total**2 / count
    scale = np.sqrt(np.maximum(spread * spread.T, 0))
    alike = np.divide(products - total * total.T / count, scale, out=np.zeros_like(scale), where=scale > 0)
    pairs = np.argwhere(np.triu(alike > SAME_BRAIN, k=1))
    return [(names[one], names[other], float(alike[one, other])) for one, other in pairs]


def same_brain(one: str, other: str, alike: float) -> str:
    """Half a sentence that tells what :func:`same_brains` found.

    Examples
    --------
    >>> same_brain("sub-1", "sub-2", 0.913)
    'sub-1 and sub-2 show the same brain (their sulci correlate at 0.91)'
    """
    return f"{one} and {other} show the same brain (their sulci correlate at {alike:.2f})"


def _core(brain: np.ndarray, *, spacing: np.ndarray) -> np.ndarray:
    """The brain below its surface."""
    return ndimage.binary_erosion(brain, iterations=max(1, round(EDGE_MM / float(np.min(spacing)))))
