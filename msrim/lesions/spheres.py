"""The target of the lesion-wise loss: every lesion, large or small, as a sphere of one size."""

from __future__ import annotations

import cc3d
import numpy as np

SPHERE_DIAMETER_MM = 10.0


def lesion_spheres(mask: np.ndarray, spacing: np.ndarray, *, diameter_mm: float = SPHERE_DIAMETER_MM) -> np.ndarray:
    """Replace each lesion by a sphere at its centre of mass.

    Lesions are 26-connected components; overlapping spheres merge. A voxel belongs to a sphere if its centre does.
    Of a lesion cut by the array's border, as in a training crop, only the part inside counts for the centre.

    Parameters
    ----------
    mask : (X, Y, Z) bool
    spacing : (3,) float, mm
    diameter_mm : float

    Returns
    -------
    (X, Y, Z) bool

    Notes
    -----
    Zhang et al. 2021 (ALL-Net), section 2.4: spheres of 10 mm; the result hardly depends on it from 8 to 20 mm.

    Examples
    --------
    >>> mask = np.zeros((5, 1, 1), dtype=bool)
    >>> mask[2] = True
    >>> lesion_spheres(mask, (1.0, 1.0, 1.0), diameter_mm=2.0).ravel().astype(int).tolist()
    [0, 1, 1, 1, 0]
    """
    spacing = np.asarray(spacing, dtype=float)
    spheres = np.zeros(mask.shape, dtype=bool)
    labels = cc3d.connected_components(mask.astype(np.uint8), connectivity=26)
    voxels = np.nonzero(labels)
    lesion = labels[voxels]
    sums = np.stack([np.bincount(lesion, weights=axis)[1:] for axis in voxels], axis=1)
    radius = diameter_mm / 2
    for centre in sums / np.bincount(lesion)[1:, None]:
        low = np.maximum(np.ceil(centre - radius / spacing), 0).astype(int)
        high = np.minimum(np.floor(centre + radius / spacing) + 1, mask.shape).astype(int)
        x, y, z = (((np.arange(a, b) - c) * s) ** 2 for a, b, c, s in zip(low, high, centre, spacing, strict=True))
        spheres[tuple(map(slice, low, high))] |= x[:, None, None] + y[:, None] + z <= radius**2
    return spheres
