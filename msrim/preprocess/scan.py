"""Sampling by a scanner of something that is drawn on a fine grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from msrim.image import Volume, resample
from msrim.transform import apply_transform


def as_scanned(drawn: Volume, scan: Volume, *, scan_from_drawn: np.ndarray) -> Volume:
    """Blur by the voxels of a scan, sample on them, and interpolate back.

    A voxel of 3 mm averages over what a drawing of 1 mm keeps apart; a small lesion loses its contrast to it.

    Parameters
    ----------
    drawn : Volume of float
        Blurred by what the scan's voxels are wider than its own.
    scan : Volume
        Only its shape and affine are used.
    scan_from_drawn : (4, 4) float
        From the world of ``drawn`` to that of the scan.

    Returns
    -------
    Volume of float32
        On the grid of ``drawn``; 0 where the scan does not reach.

    Examples
    --------
    >>> line = np.zeros((9, 9, 9), np.float32)
    >>> line[4, 4] = 1
    >>> sheet = Volume(line, np.eye(4))
    >>> slices = Volume(np.zeros((9, 9, 3)), np.diag([1.0, 1.0, 3.0, 1.0]))
    >>> as_scanned(sheet, slices, scan_from_drawn=np.eye(4)).data[4, 4, 3].round(3)
    np.float32(1.0)
    """
    seen = scanned(drawn, scan, scan_from_drawn=scan_from_drawn)
    return resample(seen, drawn, target_from_source=np.linalg.inv(scan_from_drawn))


def scanned(
    drawn: Volume,
    scan: Volume,
    *,
    scan_from_drawn: np.ndarray,
    pull: Callable[[np.ndarray], np.ndarray] | None = None,
    cubic: bool = False,
) -> Volume:
    """Blur by the voxels of a scan, and sample on them: on the grid of ``scan``; parameters as :func:`as_scanned`.

    With ``pull`` what is drawn has been deformed since: of places (..., 3) in its world, in mm, where they lay before.
    ``cubic`` is for what is drawn on voxels as wide as the scan's: between them, lines would blur it a second time, and
    a cubic spline does so hardly.
    """
    axes = drawn.affine[:3, :3] / drawn.spacing
    widths = extents_mm(axes, np.linalg.inv(scan_from_drawn) @ scan.affine)
    # A voxel averages over its width like a box, whose variance is a twelfth of the width's square.
    sigma = np.sqrt(np.maximum(widths**2 - drawn.spacing**2, 0) / 12) / drawn.spacing
    blurred = drawn.like(ndimage.gaussian_filter(drawn.data.astype(np.float32), sigma, truncate=3.0))
    if pull is None:
        return resample(blurred, scan, target_from_source=scan_from_drawn, cubic=cubic)
    order = 3 if cubic else 1
    spline = ndimage.spline_filter(blurred.data, order, output=np.float32) if cubic else blurred.data
    image = np.empty(scan.shape, np.float32)
    for index in range(scan.shape[2]):
        voxels = np.stack(np.meshgrid(*map(np.arange, scan.shape[:2]), [index], indexing="ij"), axis=-1)
        before = pull(apply_transform(np.linalg.inv(scan_from_drawn) @ scan.affine, voxels))
        at = apply_transform(np.linalg.inv(drawn.affine), before)
        where = np.moveaxis(at, -1, 0)
        image[..., index] = ndimage.map_coordinates(spline, where, order=order, prefilter=False)[..., 0]
    return scan.like(image)


def extents_mm(axes: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """How far a voxel's width reaches along each of three directions, the columns of ``axes``: (3,) float, mm."""
    return np.linalg.norm(axes.T @ affine[:3, :3], axis=1)
