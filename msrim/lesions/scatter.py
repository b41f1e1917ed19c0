"""Places and shapes for lesions of given volumes, apart from one another and from the real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cc3d
import edt
import numpy as np
from scipy import ndimage

from msrim.image import Volume

# A lesion's middle radius by its shortest, and its longest by its middle one. In the maps of `msrim.lesions.places` the
# axes of lesions have ratios of 1.10 to 2.42 (middle by shortest; median 1.44) and 1.56 to 5.93 (longest by shortest;
# 2.61), with bumps and what cuts them.
MIDDLE, LONGEST = (1.0, 1.9), (1.1, 2.5)
# How rough the surface is: standard deviation of the distance to the centre, as a share of it, and the size of its
# bumps in radii.
ROUGHNESS, BUMPS = 0.12, 0.5
# White matter is this deep at a lesion's centre, in radii of a ball of its volume: lesions touch the cortex and the
# ventricles, and are cut by them, but do not hang by a thread of white matter.
DEPTH = 0.6
# Farther than so many radii from its centre a lesion has grown along a sheet of white matter, and is drawn again.
REACH = 2.5
TRIES = 60


def scatter_lesions(
    allowed: Volume,
    volumes_mm3: Sequence[float],
    *,
    density: Callable[[float], np.ndarray],
    gap_mm: float,
    rng: np.random.Generator,
) -> Volume:
    """Draw lesions of given volumes inside a mask.

    Parameters
    ----------
    allowed : Volume of bool
        Where lesions may be.
    volumes_mm3 : sequence of float
        Each is met within half a voxel. One that finds no room is left out.
    density : callable
        Of a volume: how often the middle of such a lesion lies about each voxel, beside others; (X, Y, Z) float, see
        :func:`msrim.lesions.places.lesion_density`.
    gap_mm : float
        Least distance between two lesions.
    rng : Generator

    Returns
    -------
    Volume of int16
        Number k + 1 where the lesion of ``volumes_mm3[k]`` lies, 0 elsewhere. Each is one 26-connected rough ellipsoid,
        cut where the mask ends.

    Examples
    --------
    >>> everywhere = Volume(np.ones((30, 30, 30), bool), np.eye(4))
    >>> evenly = lambda volume_mm3: np.ones((30, 30, 30))
    >>> rng = np.random.default_rng(0)
    >>> found = scatter_lesions(everywhere, [100.0, 10.0], density=evenly, gap_mm=4.0, rng=rng)
    >>> np.bincount(found.data.ravel())[1:].tolist()
    [100, 10]
    """
    spacing, unit = allowed.spacing, allowed.voxel_volume_mm3
    free = allowed.data.astype(bool).copy()
    depth = edt.edt(np.ascontiguousarray(free), anisotropy=tuple(spacing), black_border=True)
    lesions = np.zeros(free.shape, np.int16)
    densities = {volume: density(volume) for volume in set(volumes_mm3)}
    # The largest first, while there is room.
    for index in sorted(range(len(volumes_mm3)), key=lambda k: -volumes_mm3[k]):
        radius = float(np.cbrt(3 * volumes_mm3[index] / (4 * np.pi)))
        chances = densities[volumes_mm3[index]]
        centres = np.flatnonzero(free & (depth >= DEPTH * radius) & (chances > 0))
        chances = chances.ravel()[centres].astype(np.float64)
        chances /= chances.sum()
        voxels = max(round(volumes_mm3[index] / unit), 1)
        for _ in range(TRIES if centres.size else 0):
            centre = np.array(np.unravel_index(rng.choice(centres, p=chances), free.shape))
            box = _box(centre, REACH * radius / spacing + 1, free.shape)
            grown = _grow(free[box], centre - [s.start for s in box], voxels, radius=radius, spacing=spacing, rng=rng)
            if grown is None:
                continue
            lesions[box][grown] = index + 1
            box = _box(centre, (REACH * radius + gap_mm) / spacing + 2, free.shape)
            distance = ndimage.distance_transform_edt(lesions[box] != index + 1, sampling=spacing)
            free[box] &= distance > gap_mm
            break
    return allowed.like(lesions)


def _box(centre: np.ndarray, reach_voxels: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    low, high = np.floor(centre - reach_voxels).astype(int), np.ceil(centre + reach_voxels).astype(int) + 1
    return tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(low, high, shape, strict=True))


def _grow(
    free: np.ndarray, centre: np.ndarray, voxels: int, *, radius: float, spacing: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """So many free voxels next to a centre, by their distance along random axes: (X, Y, Z) bool, None without room."""
    axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    middle = rng.uniform(*MIDDLE)
    radii = np.array([1, middle, middle * rng.uniform(*LONGEST)])
    radii /= np.cbrt(radii.prod())
    bumps = ndimage.gaussian_filter(rng.standard_normal(free.shape), BUMPS * radius / spacing)
    bumps /= max(float(bumps.std()), 1e-9)
    points = (np.moveaxis(np.indices(free.shape), 0, -1) - centre) * spacing
    distance = np.linalg.norm(points @ axes / radii, axis=-1) * (1 + ROUGHNESS * bumps)
    within = free & (np.linalg.norm(points, axis=-1) <= REACH * radius)
    if np.count_nonzero(within) < voxels:
        return None
    nearest = np.partition(distance[within], voxels - 1)[voxels - 1]
    grown = within & (distance <= nearest)
    parts = cc3d.connected_components(grown.astype(np.uint8), connectivity=26)
    return grown if parts.max() == 1 and np.count_nonzero(grown) == voxels else None
