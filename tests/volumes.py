"""Small volumes in every pose in which scanners store them, for the tests of all rooms."""

from __future__ import annotations

import numpy as np

from msrim.image import Volume

# Columns are the directions of the stored axes in RAS.
RAS = np.eye(3)
LAS = np.diag([-1.0, 1.0, 1.0])
LPS = np.diag([-1.0, -1.0, 1.0])
# Sagittal slices: the first stored axis runs backwards, the second up, the third to the left.
PIL = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
ORIENTATIONS = {"RAS": RAS, "LAS": LAS, "LPS": LPS, "PIL": PIL}
SPACINGS_MM = {"1mm": (1.0, 1.0, 1.0), "3mm": (0.9, 1.1, 3.0)}


def rotation(*, x_deg: float = 0.0, y_deg: float = 0.0, z_deg: float = 0.0) -> np.ndarray:
    """Rotation about x, then y, then z: (3, 3)."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians([x_deg, y_deg, z_deg])):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    return matrix


OBLIQUE = rotation(x_deg=12, y_deg=-7, z_deg=4)


def pose(
    orientation: np.ndarray, spacing_mm: tuple[float, float, float], *, origin_mm=(-20.0, 15.0, 7.0)
) -> np.ndarray:
    """Affine of a grid: (4, 4)."""
    affine = np.eye(4)
    affine[:3, :3] = orientation * np.array(spacing_mm)
    affine[:3, 3] = origin_mm
    return affine


def poses() -> dict[str, np.ndarray]:
    """Orientations, straight and oblique, times spacings: affines by name."""
    return {
        f"{name}-{tilt}-{size}": pose(turn @ orientation, spacing)
        for name, orientation in ORIENTATIONS.items()
        for tilt, turn in {"straight": np.eye(3), "oblique": OBLIQUE}.items()
        for size, spacing in SPACINGS_MM.items()
    }


def plane_wave(points_mm: np.ndarray) -> np.ndarray:
    """A linear field over space, which linear interpolation gives back exactly. (..., 3) to (...)."""
    return 100 + points_mm @ np.array([0.5, -0.8, 1.3])


def centres(volume_shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Voxel centres: (X, Y, Z, 3), RAS mm."""
    index = np.stack(np.meshgrid(*map(np.arange, volume_shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def wave_volume(affine: np.ndarray, shape: tuple[int, int, int] = (14, 16, 12)) -> Volume:
    """The plane wave sampled on a grid."""
    return Volume(plane_wave(centres(shape, affine)).astype(np.float32), affine)
