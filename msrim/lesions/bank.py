"""Banks of lesion maps: lesions of other people in MNI space, one file for hundreds of maps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from msrim.files import read_arrays


@dataclass(frozen=True, eq=False)
class Bank:
    """Lesion maps on one grid in MNI space.

    Attributes
    ----------
    maps : tuple of (N,) int64 arrays
        Voxels inside lesions, flat C-order indices; one array for each map.
    classes : tuple of str
        The class of lesion volume of each map, such as ``100-500``.
    shape : (3,) int
    affine : (4, 4) float
        MNI from voxel, RAS mm.
    """

    maps: tuple[np.ndarray, ...]
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    affine: np.ndarray


def read_bank(path: Path) -> Bank:
    """Read a bank.

    Parameters
    ----------
    path : Path
        An ``.npz`` file with ``voxels`` (flat C-order indices of all maps, one map after the other), ``offsets`` (where
        each map begins, and the end), ``names`` (``<volume class>/<id>``), ``shape`` and ``affine``.

    Raises
    ------
    InputError
        The file is missing or damaged, or lacks one of these arrays.
    """
    voxels, offsets, names, shape, affine = read_arrays(path, "voxels", "offsets", "names", "shape", "affine")
    flat = voxels.astype(np.int64)
    return Bank(
        maps=tuple(flat[start:stop] for start, stop in pairwise(offsets.tolist())),
        classes=tuple(str(name).split("/")[0] for name in names),
        shape=tuple(int(n) for n in shape),
        affine=affine,
    )
