"""Cleaning of masks."""

from __future__ import annotations

import cc3d
import edt
import numpy as np

from msrim.image import Volume


def clean_mask(mask: Volume, *, opening_mm: float, closing_mm: float, largest_only: bool = False) -> Volume:
    """Opening, closing and hole filling by a ball, in millimetres on any voxel size.

    Parameters
    ----------
    mask : Volume of bool
    opening_mm : float
        Radius of the ball that opens: specks and bridges thinner than its diameter go.
    closing_mm : float
        Radius of the ball that closes: gaps thinner than its diameter fill.
    largest_only : bool
        Keep only the largest component after opening, for a brain.

    Returns
    -------
    Volume of bool

    Examples
    --------
    >>> data = np.zeros((12, 12, 12), bool)
    >>> data[2:9, 2:9, 2:9] = True
    >>> data[5, 5, 5], data[11, 11, 11] = False, True
    >>> cleaned = clean_mask(Volume(data, np.eye(4)), opening_mm=1, closing_mm=1).data
    >>> bool(cleaned[5, 5, 5]), bool(cleaned[11, 11, 11])
    (True, False)
    """
    spacing = mask.spacing
    cleaned = mask.data.astype(bool)
    # Most of a head's volume is air: work in the box that the mask and its closing need.
    box = _box_around(cleaned, margin=np.ceil(closing_mm / spacing).astype(int) + 1)
    opened = _dilated(_eroded(cleaned[box], spacing, opening_mm), spacing, opening_mm)
    if largest_only and opened.any():
        opened = cc3d.largest_k(opened, k=1, connectivity=6) > 0
    closed = _eroded(_dilated(opened, spacing, closing_mm), spacing, closing_mm)
    cleaned[box] = _without_holes(closed)
    return mask.like(cleaned)


def grown_mask(mask: Volume, *, by_mm: float) -> Volume:
    """Everything within a distance of a mask.

    Examples
    --------
    >>> point = np.zeros((5, 5, 5), bool)
    >>> point[2, 2, 2] = True
    >>> int(grown_mask(Volume(point, np.eye(4)), by_mm=1).data.sum())
    7
    """
    return mask.like(_dilated(mask.data.astype(bool), mask.spacing, by_mm))


def _box_around(mask: np.ndarray, *, margin: np.ndarray) -> tuple[slice, ...]:
    occupied = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(
        slice(max(0, o[0] - m), o[-1] + 1 + m) if len(o) else slice(0, n)
        for o, m, n in zip(occupied, margin, mask.shape, strict=True)
    )


def _eroded(mask: np.ndarray, spacing: np.ndarray, radius_mm: float) -> np.ndarray:
    # edt measures to the centre of the nearest voxel outside, and to nothing where there is none.
    return mask if mask.all() else edt.edt(mask, anisotropy=tuple(spacing)) > radius_mm


def _dilated(mask: np.ndarray, spacing: np.ndarray, radius_mm: float) -> np.ndarray:
    return ~_eroded(~mask, spacing, radius_mm)


def _without_holes(mask: np.ndarray) -> np.ndarray:
    """Fill what the image's border cannot reach through face neighbours."""
    background = cc3d.connected_components(~mask, connectivity=6)
    faces = [background.take(i, axis=axis) for axis in range(3) for i in (0, -1)]
    outside = np.unique(np.concatenate([face.ravel() for face in faces]))
    return ~np.isin(background, outside[outside > 0])
