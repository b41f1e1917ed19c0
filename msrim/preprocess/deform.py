"""The deformation between two visits that meet half way, and how much each place has grown by it.

Not SyN: it registers one way, so that two runs are needed for figures that are fair to both visits
(``tests.benchmarks.expansion`` has SyN and Greedy beside it).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from msrim.image import Volume

# Voxels of each level by those of the grid, and how many steps are taken there.
LEVELS, STEPS = (4, 2, 1), (30, 30, 30)
# Of each step's displacement, and of the whole of it after each step, voxels of the level. The second pulls back what
# images of unlike contrast ask for again and again; more of it takes from true growth (at 0.5 a sixth of it).
STEP_SIGMA, FIELD_SIGMA = 1.7, 0.3
# Of the images before the finest level, voxels.
IMAGE_SIGMA = 0.5
# Squares of gradient and difference, in noise levels, that are as much noise as sight: where there is no more, steps
# are half as long, so that flat ground is led by its surroundings.
HALF_FORCE = 4.0


def halfway_deformation(pairs: Sequence[tuple[Volume, Volume]], *, brain: Volume) -> np.ndarray:
    """Displacement that brings two visits together, half of it applied to either.

    Parameters
    ----------
    pairs : sequence of (Volume, Volume)
        Baseline and follow-up of each contrast, on one grid of cubic voxels, intensities matched.
    brain : Volume of bool
        On the grid; nothing outside moves the rest.

    Returns
    -------
    (3, X, Y, Z) float32, voxels
        ``u``, for which ``baseline(x - u / 2)`` looks like ``followup(x + u / 2)``. With the visits exchanged it is the
        same with the other sign, bit for bit.

    Notes
    -----
    Demons with symmetric forces (Thirion 1998, doi:10.1016/S1361-8415(98)80022-4; Vercauteren et al. 2009,
    doi:10.1016/j.neuroimage.2008.10.040), both images deformed; contrasts join by their noise.
    """
    inside = brain.data.astype(np.float32)
    scaled = []
    for baseline, followup in pairs:
        difference = (followup.data - baseline.data)[inside > 0]
        # The median of a normal variable's size is 0.6745 of its deviation.
        noise = max(float(np.median(np.abs(difference))) / 0.6745, 1e-6) if difference.size else 1.0
        scaled.append((baseline.data.astype(np.float32) / noise, followup.data.astype(np.float32) / noise))
    moved = np.zeros((3, *brain.shape), np.float32)
    for place, (level, steps) in enumerate(zip(LEVELS, STEPS, strict=True)):
        images = [tuple(_coarse(image, level) for image in pair) for pair in scaled]
        weight = inside[::level, ::level, ::level]
        start = np.zeros((3, *weight.shape), np.float32)
        moved = _refined(moved, weight.shape, LEVELS[place - 1] / level) if place else start
        for _ in range(steps):
            moved = moved + _step(images, moved, weight)
            moved = np.stack([ndimage.gaussian_filter(part, FIELD_SIGMA) for part in moved])
    return moved


def log_jacobian(displacement: np.ndarray) -> np.ndarray:
    """Logarithm of the volume at follow-up by that at baseline, on the grid half way: (X, Y, Z) float32.

    Parameters
    ----------
    displacement : (3, X, Y, Z) float, voxels
        Of :func:`halfway_deformation`.

    Examples
    --------
    >>> growth = log_jacobian(0.1 * np.indices((20, 20, 20)))
    >>> bool(abs(growth[10, 10, 10] - 3 * np.log(1.05 / 0.95)) < 1e-4)
    True
    """
    # Of the cubic spline through the voxels: differences of neighbours two voxels apart blur the edge of a lesion, and
    # take a tenth of its growth for that of its surroundings.
    gradient = np.stack(
        [np.stack([_slope(part / 2, axis) for axis in range(3)], axis=-1) for part in displacement.astype(np.float32)],
        axis=-2,
    )
    unity = np.eye(3, dtype=gradient.dtype)
    grown, shrunk = (np.maximum(np.linalg.det(unity + sign * gradient), 0.05) for sign in (1, -1))
    return (np.log(grown) - np.log(shrunk)).astype(np.float32)


def _slope(values: np.ndarray, axis: int) -> np.ndarray:
    """Derivative along an axis of the cubic spline through the voxels: (X, Y, Z) float32."""
    spline = ndimage.spline_filter1d(values, order=3, axis=axis, output=np.float32, mode="nearest")
    return ndimage.correlate1d(spline, [-0.5, 0.0, 0.5], axis=axis, mode="nearest")


def _coarse(image: np.ndarray, level: int) -> np.ndarray:
    sigma = level / 2 if level > 1 else IMAGE_SIGMA
    return ndimage.gaussian_filter(image, sigma)[::level, ::level, ::level]


def _refined(moved: np.ndarray, shape: tuple[int, ...], factor: float) -> np.ndarray:
    """A displacement on a finer grid, whose voxel ``k`` lies at ``k / factor`` of the coarse one."""
    points = np.indices(shape, dtype=np.float32) / factor
    finer = [ndimage.map_coordinates(part, points, order=1, mode="nearest") for part in moved]
    return (factor * np.stack(finer)).astype(np.float32)


def _step(images: Sequence[tuple[np.ndarray, ...]], moved: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Force of all contrasts together, smoothed: (3, X, Y, Z)."""
    at = np.indices(weight.shape, dtype=np.float32)
    pull, size = np.zeros_like(moved), np.zeros(weight.shape, np.float32)
    for baseline, followup in images:
        before = ndimage.map_coordinates(baseline, at - moved / 2, order=1, mode="nearest")
        after = ndimage.map_coordinates(followup, at + moved / 2, order=1, mode="nearest")
        difference = before - after
        gradient = np.stack(np.gradient((before + after) / 2))
        pull += difference * gradient
        size += (gradient**2).sum(axis=0) + difference**2
    pull *= weight / (size + HALF_FORCE)
    return np.stack([ndimage.gaussian_filter(part, STEP_SIGMA) for part in pull])
