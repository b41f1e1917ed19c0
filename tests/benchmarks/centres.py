"""Confluent lesions apart by their centres in a lesion probability map, the published alternative to sphere peaks.

Dworkin et al. 2018 (doi:10.3174/ajnr.A5556): a lesion's centre is where the probability falls off in every direction.
"""

from __future__ import annotations

import cc3d
import numpy as np
from scipy import ndimage

from msrim.errors import InputError
from msrim.image import Volume, same_grid
from msrim.lesions.split import CONNECTIVITY, label_lesions, largest_first

# Of the Gaussian whose second derivatives are taken; the map's finest grain is the voxel's and no lesion's.
SCALE_MM = 1.0
# Smaller groups of voxels are noise, not centres: ten voxels of 1 mm in the paper.
MIN_CENTRE_MM3 = 10.0


def hessian_centres(mask: Volume, *, probability: Volume) -> np.ndarray:
    """Number the places in a mask from which the probability falls off in every direction.

    A voxel belongs to a centre if all three eigenvalues of the probability's Hessian (in mm) are negative there;
    26-connected groups of at least 10 mm3 are centres.

    Parameters
    ----------
    mask : Volume of bool
    probability : Volume of float in 0..1
        Of lesion.

    Returns
    -------
    (X, Y, Z) int32
        0 elsewhere, 1..n in the centres.

    Raises
    ------
    InputError
        The two grids differ.

    Examples
    --------
    >>> x, y, z = np.indices((25, 9, 9)) - 4
    >>> two = np.exp(-((abs(x - 8) - 5) ** 2 + y**2 + z**2) / 9)
    >>> int(hessian_centres(Volume(two > 0.3, np.eye(4)), probability=Volume(two, np.eye(4))).max())
    2
    """
    if not same_grid(mask, probability):
        raise InputError(f"lesion mask {mask.shape} and probability {probability.shape} lie on different grids")
    spacing = mask.spacing
    hessian = np.empty((np.count_nonzero(mask.data), 3, 3))
    smooth = probability.data.astype(np.float32)
    for a in range(3):
        for b in range(a, 3):
            order = [0, 0, 0]
            order[a] += 1
            order[b] += 1
            second = ndimage.gaussian_filter(smooth, SCALE_MM / spacing, order=order, mode="nearest")[mask.data]
            hessian[:, a, b] = hessian[:, b, a] = second / (spacing[a] * spacing[b])
    falling = np.zeros(mask.shape, dtype=np.uint8)
    falling[mask.data] = np.linalg.eigvalsh(hessian)[:, -1] < 0
    min_voxels = max(1, int(np.ceil(MIN_CENTRE_MM3 / mask.voxel_volume_mm3)))
    groups = cc3d.dust(falling, threshold=min_voxels, connectivity=CONNECTIVITY)
    return cc3d.connected_components(groups, connectivity=CONNECTIVITY).astype(np.int32)


def split_at_centres(mask: Volume, *, probability: Volume) -> Volume:
    """Number the lesions of a mask, each voxel going to the nearest centre of its connected component.

    Parameters
    ----------
    mask : Volume of bool
    probability : Volume of float in 0..1
        Of lesion, not of the sphere head.

    Returns
    -------
    Volume of int32
        1..n by descending volume; a component without a centre is one lesion.

    Raises
    ------
    InputError
        The two grids differ.
    """
    centres = hessian_centres(mask, probability=probability)
    parts = label_lesions(mask.data)
    used = parts.max()
    for lesion, box in enumerate(ndimage.find_objects(parts), start=1):
        component = parts[box] == lesion
        own = centres[box] * component
        if not own.any():
            continue
        nearest = ndimage.distance_transform_edt(
            own == 0, sampling=mask.spacing, return_distances=False, return_indices=True
        )
        parts[box][component] = used + own[tuple(nearest)][component]
    return mask.like(largest_first(parts))
