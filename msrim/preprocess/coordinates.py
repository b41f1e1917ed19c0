"""Where a voxel lies in the brain: distance maps and the six coordinate channels of AnaConv."""

from __future__ import annotations

import edt
import numpy as np

from msrim.image import Volume, same_grid
from msrim.transform import mean_scaling

# MNI x, y, z and the distance to the MNI origin reach about 100 mm in a brain; distances to CSF and to the brain's
# boundary reach about 25 mm and 60 mm. Divided by these the channels are of order 1, as network inputs should be.
COORDINATE_SCALE_MM = (100.0, 100.0, 100.0, 100.0, 25.0, 25.0)


def distance_to_boundary(mask: Volume) -> np.ndarray:
    """Distance from every voxel centre to the nearest voxel centre on the other side of a mask's boundary.

    Parameters
    ----------
    mask : Volume of bool

    Returns
    -------
    (X, Y, Z) float32, mm
        Unsigned, exact and Euclidean. Of an empty or a full mask, which have no boundary, the diagonal of the grid.

    Examples
    --------
    >>> line = Volume(np.array([True, True, False, False]).reshape(4, 1, 1), np.eye(4))
    >>> distance_to_boundary(line).ravel().tolist()
    [2.0, 1.0, 1.0, 2.0]
    """
    inside = mask.data.astype(np.uint8)
    if inside.min() == inside.max():
        return _diagonal(mask)
    # Labels 1 and 2: one pass measures from each to the nearest voxel of the other.
    return edt.edt(inside + 1, anisotropy=tuple(mask.spacing))


def anatomical_coordinates(grid: Volume, *, mni_from_world: np.ndarray, csf: Volume, brain: Volume) -> np.ndarray:
    """The six coordinate channels of AnaConv.

    Parameters
    ----------
    grid : Volume
        Only its shape and affine are used.
    mni_from_world : (4, 4) float
        Affine from the world of ``grid`` to MNI152, RAS mm.
    csf : Volume of bool
        CSF-filled structures, on ``grid``.
    brain : Volume of bool
        Brain, on ``grid``.

    Returns
    -------
    (6, X, Y, Z) float32
        MNI x, y, z, distance to the MNI origin, distance to the boundary of ``csf``, distance to the boundary of
        ``brain``, each in mm divided by its entry of COORDINATE_SCALE_MM.

    Raises
    ------
    ValueError
        A mask does not lie on ``grid``.

    Notes
    -----
    Zhang et al., ALL-Net, NeuroImage: Clinical, 2021, the AnaConv layer. The two distances are measured in the
    subject, and given in mm of a brain of the template's size.

    Examples
    --------
    >>> mask = Volume(np.indices((4, 4, 4))[0] > 1, np.diag([50.0, 50.0, 50.0, 1.0]))
    >>> anatomical_coordinates(mask, mni_from_world=np.eye(4), csf=mask, brain=mask)[:, 2, 0, 0].tolist()
    [1.0, 0.0, 0.0, 1.0, 2.0, 2.0]
    """
    if not (same_grid(csf, grid) and same_grid(brain, grid)):
        raise ValueError("the CSF and brain masks must lie on the grid of the coordinates")
    channels = np.empty((6, *grid.shape), np.float32)
    mni_from_voxel = mni_from_world @ grid.affine
    i, j, k = np.ogrid[tuple(slice(n) for n in grid.shape)]
    for channel, (a, b, c, shift) in zip(channels[:3], mni_from_voxel[:3], strict=True):
        channel[:] = (a * i + shift).astype(np.float32) + (b * j).astype(np.float32) + (c * k).astype(np.float32)
    np.sqrt(np.square(channels[:3]).sum(axis=0), out=channels[3])
    scaling = mean_scaling(mni_from_world)
    channels[4] = scaling * distance_to_boundary(csf)
    channels[5] = scaling * distance_to_boundary(brain)
    channels /= np.array(COORDINATE_SCALE_MM, np.float32)[:, None, None, None]
    return channels


def _diagonal(grid: Volume) -> np.ndarray:
    return np.full(grid.shape, np.linalg.norm(grid.spacing * grid.shape), np.float32)
