"""CT as slice networks see it: in RAS order, cut to a window of Hounsfield units, at half the in-plane resolution."""

from __future__ import annotations

import numpy as np

from msrim.image import Volume, to_ras

# Hounsfield units that hold the liver (Zhang et al. 2023, section 4.2).
WINDOW_HU = (-200.0, 250.0)


def prepare_ct(volume: Volume) -> Volume:
    """A CT scan as the network is trained on it: 512 x 512 pixels become 256 x 256.

    Parameters
    ----------
    volume : Volume
        In Hounsfield units, in any orientation.

    Returns
    -------
    Volume of float32
        In RAS order, in the same world.
    """
    ordered = to_ras(volume)
    return halve_in_plane(ordered.like(np.clip(ordered.data, *WINDOW_HU)))


def halve_in_plane(volume: Volume) -> Volume:
    """The mean of every 2 x 2 pixels of a slice; a last odd row or column is left out.

    Examples
    --------
    >>> small = halve_in_plane(Volume(np.arange(8.0).reshape(2, 4, 1), np.eye(4)))
    >>> small.data.ravel().tolist(), small.spacing.tolist(), small.affine[:3, 3].tolist()
    ([2.5, 4.5], [2.0, 2.0, 1.0], [0.5, 0.5, 0.0])
    """
    x, y, z = (volume.shape[0] // 2, volume.shape[1] // 2, volume.shape[2])
    blocks = volume.data[: 2 * x, : 2 * y].reshape(x, 2, y, 2, z)
    fine_from_coarse = np.diag([2.0, 2.0, 1.0, 1.0])
    fine_from_coarse[:2, 3] = 0.5
    return Volume(blocks.mean(axis=(1, 3), dtype=np.float32), volume.affine @ fine_from_coarse)
