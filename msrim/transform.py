"""Linear transforms between scanner spaces: plain 4x4 matrices in RAS millimetres.

A transform is named by its target and its source space, so that chains read as maths: ``mni_from_t1 @ t1_from_flair``.
ITK's conventions (LPS, and the map that *pulls* fixed points to the moving image) exist in its text files alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from msrim.errors import InputError
from msrim.files import written_atomically

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def apply_transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points through a 4x4 matrix.

    Parameters
    ----------
    matrix : (4, 4) float
    points : (..., 3) float, mm

    Returns
    -------
    (..., 3) float, mm

    Examples
    --------
    >>> apply_transform(np.diag([2.0, 1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0])).tolist()
    [2.0, 2.0, 3.0]
    """
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def rigid_part(matrix: np.ndarray) -> np.ndarray:
    """Rotation and translation closest to an affine, keeping the image of the origin's neighbourhood in place.

    The rotation is the orthogonal polar factor of the linear part.

    Parameters
    ----------
    matrix : (4, 4) float
        An affine without reflection.

    Examples
    --------
    >>> rigid_part(np.diag([1.2, 0.9, 1.1, 1.0])).tolist() == np.eye(4).tolist()
    True
    """
    left, _, right = np.linalg.svd(matrix[:3, :3])
    rigid = np.eye(4)
    rigid[:3, :3] = left @ right
    rigid[:3, 3] = matrix[:3, 3]
    return rigid


def mean_scaling(matrix: np.ndarray) -> float:
    """By how much an affine enlarges lengths, on average over directions: the cube root of its determinant.

    Parameters
    ----------
    matrix : (4, 4) float

    Examples
    --------
    >>> round(mean_scaling(np.diag([2.0, -4.0, 1.0, 1.0])), 6)
    2.0
    """
    return float(np.cbrt(abs(np.linalg.det(matrix[:3, :3]))))


def itk_from_ras(matrix: np.ndarray) -> sitk.AffineTransform:
    """The ITK transform that resamples the *source* of ``matrix`` onto its target.

    Parameters
    ----------
    matrix : (4, 4) float
        ``fixed_from_moving`` in RAS mm.
    """
    pull = LPS_FROM_RAS @ np.linalg.inv(matrix) @ LPS_FROM_RAS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(pull[:3, :3].ravel().tolist())
    transform.SetTranslation(pull[:3, 3].tolist())
    return transform


def ras_from_itk(transform: sitk.Transform) -> np.ndarray:
    """``fixed_from_moving`` in RAS mm of a linear ITK transform, the inverse of :func:`itk_from_ras`."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    pull = np.eye(4)
    pull[:3, :3] = np.stack([np.array(transform.TransformPoint(tuple(e))) - origin for e in np.eye(3)], axis=1)
    pull[:3, 3] = origin
    return LPS_FROM_RAS @ np.linalg.inv(pull) @ LPS_FROM_RAS


def write_transform(matrix: np.ndarray, path: Path) -> Path:
    """Write ``fixed_from_moving`` as an ITK text file, the ``*_xfm.txt`` of BIDS derivatives.

    The file can be used as it is by ``SimpleITK.Resample(moving, fixed, transform)`` and ``antsApplyTransforms``.
    """
    with written_atomically(path) as temporary:
        sitk.WriteTransform(itk_from_ras(matrix), str(temporary))
    return path


def read_transform(path: Path) -> np.ndarray:
    """Read an ITK text file of a linear transform as ``fixed_from_moving`` in RAS mm.

    Raises
    ------
    InputError
        The file is missing or holds no linear ITK transform.
    """
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: not an ITK transform file; give the *_xfm.txt that msrim or ANTs wrote") from error
    if not transform.IsLinear() or transform.GetDimension() != 3:
        raise InputError(f"{path}: the transform is not linear in 3-D; only rigid and affine transforms can be used")
    try:
        matrix = ras_from_itk(transform)
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"{path}: the transform flattens space; give the *_xfm.txt that msrim or ANTs wrote"
        ) from error
    if not np.isfinite(matrix).all():
        raise InputError(f"{path}: the transform holds NaN or infinite numbers; write it again")
    return matrix
