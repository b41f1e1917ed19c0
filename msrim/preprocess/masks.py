"""Cleaning of masks, and of a network's predictions at their surface."""

from __future__ import annotations

import cc3d
import edt
import numpy as np
import SimpleITK as sitk

from msrim.image import Volume, bounding_box, from_sitk, to_sitk
from msrim.preprocess.background import background_of
from msrim.preprocess.coordinates import distance_to_boundary

# Volume of a brain with ventricles and sulci, ml, with room on both sides; heads begin above. Share of the field of
# view that such a brain fills at most.
BRAIN_ALONE_ML = (600.0, 2100.0)
MOST_OF_BRAIN_ALONE = 0.7
FAINTEST = 0.01


def clean_mask(
    mask: Volume,
    *,
    opening_mm: float,
    closing_mm: float,
    largest_only: bool = False,
    max_hole_mm3: float = np.inf,
) -> Volume:
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
    max_hole_mm3 : float, mm3
        Larger holes stay: those of CSF, which surrounds the brain.

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
    box = bounding_box(cleaned, margin=np.ceil(closing_mm / spacing).astype(int) + 1)
    opened = _dilated(_eroded(cleaned[box], spacing, opening_mm), spacing, opening_mm)
    if largest_only and opened.any():
        opened = cc3d.largest_k(opened, k=1, connectivity=6) > 0
    closed = _eroded(_dilated(opened, spacing, closing_mm), spacing, closing_mm)
    cleaned[box] = _without_holes(closed, max_voxels=max_hole_mm3 / mask.voxel_volume_mm3)
    return mask.like(cleaned)


def foreground(image: Volume) -> Volume:
    """Everything that differs from the background; everything where that is noise.

    Brain extraction blanks with zero, z-scoring then moves that value, and the brain may hold values below it. What
    differs by less than FAINTEST of the image's range is what resampling leaves around a blanked brain.

    Parameters
    ----------
    image : Volume

    Returns
    -------
    Volume of bool

    Examples
    --------
    >>> data = np.full((5, 5, 5), -1.5, np.float32)
    >>> data[1:4, 1:4, 1:4] = np.arange(-13, 14).reshape(3, 3, 3)
    >>> int(foreground(Volume(data, np.eye(4))).data.sum())
    27
    """
    background = background_of(image.data)
    if background is None:
        return image.like(np.ones(image.shape, bool))
    darkest, brightest = np.percentile(image.data, (0.5, 99.5))
    return image.like(np.abs(image.data - background) > FAINTEST * (brightest - darkest))


def is_brain_alone(image: Volume) -> bool:
    """Whether an image shows a brain without a head: all around it is one value, and what remains is no larger.

    Parameters
    ----------
    image : Volume

    Notes
    -----
    Air around a head is noise, or blanked by the scanner; then skull, fat and skin take the rest to
    BRAIN_ALONE_ML's upper end and beyond.
    """
    shown = foreground(image)
    if shown.data.mean() > MOST_OF_BRAIN_ALONE:
        return False
    volume_ml = np.count_nonzero(shown.data) * shown.voxel_volume_mm3 / 1000
    return bool(BRAIN_ALONE_ML[0] <= volume_ml <= BRAIN_ALONE_ML[1])


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


def blanked(volume: Volume, mask: Volume | None) -> Volume:
    """An image that is zero outside a mask on its grid; the image itself where there is no mask.

    Examples
    --------
    >>> line = Volume(np.array([3.0, 4.0]).reshape(2, 1, 1), np.eye(4))
    >>> blanked(line, line.like(line.data > 3)).data.ravel().tolist()
    [0.0, 4.0]
    """
    return volume if mask is None else volume.like(np.where(mask.data, volume.data, 0))


def remove_superficial(probability: Volume, brain: Volume, *, deeper_than_mm: float) -> Volume:
    """Remove components that keep to the surface of the brain; those that reach deeper stay whole.

    The threshold need not be known: whichever one is applied to the result, its 26-connected components are those of
    ``probability`` at the same threshold, except the ones without a voxel deep enough (greyscale reconstruction,
    Vincent 1993, doi:10.1109/83.217222).

    Parameters
    ----------
    probability : Volume of float32
        0 outside the brain.
    brain : Volume of bool
        On the same grid. A face where the field of view cuts the brain within the grid is surface as well.
    deeper_than_mm : float
        From the voxel's centre to that of the nearest voxel outside the brain.

    Returns
    -------
    Volume of float32
        The same wherever the brain is deep enough; at the surface at most as likely as the way from there goes on.

    Examples
    --------
    >>> line = np.array([0, 0.9, 0, 0, 0.5, 0.75, 0, 0, 0, 0], np.float32).reshape(10, 1, 1)
    >>> brain = Volume(np.arange(10).reshape(10, 1, 1) > 0, np.eye(4))
    >>> remove_superficial(Volume(line, np.eye(4)), brain, deeper_than_mm=4).data.ravel().tolist()
    [0.0, 0.0, 0.0, 0.0, 0.5, 0.75, 0.0, 0.0, 0.0, 0.0]
    """
    deep = np.where(distance_to_boundary(brain) > deeper_than_mm, probability.data, 0)
    kept = sitk.ReconstructionByDilation(to_sitk(probability.like(deep)), to_sitk(probability), fullyConnected=True)
    return probability.like(from_sitk(kept).data)


def hysteresis(probability: Volume, *, core_odds: float) -> Volume:
    """Hysteresis thresholding without fixing the threshold: components without a core are removed whole.

    Whichever threshold is applied to the result, its 26-connected components are those of ``probability`` at the same
    threshold, except the ones that nowhere reach ``core_odds`` times the odds of the threshold.

    Parameters
    ----------
    probability : Volume of float32
    core_odds : float
        More than 1.

    Returns
    -------
    Volume of float32
        The same at the margin of a lesion; its core is flattened to the highest threshold at which it stays.

    Examples
    --------
    >>> line = np.array([0, 0.5, 0.6, 0, 0.5, 0.96, 0], np.float32).reshape(7, 1, 1)
    >>> hysteresis(Volume(line, np.eye(4)), core_odds=9).data.ravel().round(2).astype(str).tolist()
    ['0.0', '0.14', '0.14', '0.0', '0.5', '0.73', '0.0']
    """
    # p / (1 - p) over core_odds, as a probability: without dividing by zero where p is 1.
    core = probability.data / (probability.data + core_odds * (1 - probability.data))
    kept = sitk.ReconstructionByDilation(to_sitk(probability.like(core)), to_sitk(probability), fullyConnected=True)
    return probability.like(from_sitk(kept).data)


def _eroded(mask: np.ndarray, spacing: np.ndarray, radius_mm: float) -> np.ndarray:
    # edt measures to the centre of the nearest voxel outside, and to nothing where there is none.
    return mask if mask.all() else edt.edt(mask, anisotropy=tuple(spacing)) > radius_mm


def _dilated(mask: np.ndarray, spacing: np.ndarray, radius_mm: float) -> np.ndarray:
    return ~_eroded(~mask, spacing, radius_mm)


def _without_holes(mask: np.ndarray, *, max_voxels: float) -> np.ndarray:
    """Fill what the image's border cannot reach through face neighbours, up to a size."""
    background = cc3d.connected_components(~mask, connectivity=6)
    faces = [background.take(i, axis=axis) for axis in range(3) for i in (0, -1)]
    outside = np.unique(np.concatenate([face.ravel() for face in faces]))
    large = np.flatnonzero(np.bincount(background.ravel()) > max_voxels)
    open_ = np.union1d(outside, large)
    return ~np.isin(background, open_[open_ > 0])
