"""The background around a head, and images whose values do not begin at 0 there."""

from __future__ import annotations

import warnings

import numpy as np

from msrim.errors import Doubt, Remark
from msrim.image import Volume

# Of 99 of 100 voxels; beyond, sums of squares leave what float32 can hold.
ORDINARY = (1e-3, 1e7)
# Of the voxels on an image's six faces; noise has no such value.
BACKGROUND_SHARE = 0.5
# Splines that resampled an image leave faint negative rings around edges, in fewer voxels than this.
FAINT, NEGATIVE_SHARE = 0.05, 0.1
# ... and no such values as these, as a share of the brightest.
WRAPPED = 0.4
# Arteries and fat are a few times as bright as 999 of 1,000 voxels.
SPIKE = 50


def background_of(data: np.ndarray) -> float | None:
    """The one value around a head or brain, None where there is noise.

    Parameters
    ----------
    data : (X, Y, Z) array

    Examples
    --------
    >>> brain = np.pad(np.random.default_rng(0).random((4, 4, 4)), 2, constant_values=-1)
    >>> background_of(brain), background_of(np.random.default_rng(0).random((4, 4, 4)))
    (-1.0, None)
    """
    faces = [np.moveaxis(data, axis, 0)[edge].ravel() for axis in range(data.ndim) for edge in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    most = counts.argmax()
    return float(values[most]) if counts[most] >= BACKGROUND_SHARE * counts.sum() else None


def rest_on_zero(volume: Volume, *, name: object, brain_extracted: bool = False) -> Volume:
    """The image with a background of 0 and a head or brain above it, as every later step takes for granted.

    Images that are so already come back as they are, scaled where their values are tiny or huge. Z-scored and otherwise
    shifted ones are moved up, and a :class:`msrim.errors.Remark` warns of it: by their background where nothing is
    darker, so that what was an offset is gone; else by their darkest values.

    Parameters
    ----------
    volume : Volume
        A head, or a brain alone.
    name : object
        Its name for messages.
    brain_extracted : bool
        It is a brain alone: whatever differs from the background is brain, so that even a faint offset counts.

    Examples
    --------
    >>> brain = Volume(np.pad(np.random.default_rng(0).random((4, 4, 4)) + 1, 2), np.eye(4))
    >>> scored = brain.like((brain.data - brain.data.mean()) / brain.data.std())
    >>> bool(np.array_equal(rest_on_zero(scored, name="FLAIR.nii").data > 0, brain.data > 0))
    True
    """
    volume = _without_spikes(volume, name=name)
    highest = np.percentile(np.abs(volume.data), 99)
    if highest and not ORDINARY[0] <= highest <= ORDINARY[1]:
        volume = volume.like((volume.data.astype(np.float64) * (1000 / highest)).astype(np.float32))
    data, background = volume.data, background_of(volume.data)
    around = np.zeros(data.shape, bool) if background is None else data == background
    seen = data[~around]
    strength = np.percentile(np.abs(seen), 99) if seen.size else 0.0
    below = np.mean(seen < -FAINT * strength) if strength else 0.0
    offset = 0.0 if background is None else abs(background)
    if offset <= (0.0 if brain_extracted else FAINT * strength) and below < NEGATIVE_SHARE:
        if count := np.count_nonzero(seen < -WRAPPED * strength):
            warnings.warn(
                f"{name}: {count} voxels are as far below 0 as others are above it: the brightest have become negative "
                "where numbers of 16 bit ended, or they are no part of the image; export it again",
                Doubt,
                stacklevel=2,
            )
        return volume
    darkest, dark, brightest = np.percentile(seen, (0.1, 2, 99.9))
    if background is not None and background < dark:
        moved, what = data - background, f"its background is {background:g} and not 0"
    else:
        moved, what = data - darkest, f"{100 * below:.0f} % of its values are below 0"
        if background is not None and below < NEGATIVE_SHARE:
            what = f"its background is {background:g}, brighter than what is darkest in the head"
    # However dark, what is not background stays above it.
    moved = np.where(around, 0, np.maximum(moved, 1e-3 * (brightest - darkest)))
    warnings.warn(f"{name}: {what}; its values were moved", Remark, stacklevel=2)
    return volume.like(moved.astype(np.float32))


def _without_spikes(volume: Volume, *, name: object) -> Volume:
    """The image without single voxels that are so bright that nothing else could be told apart beside them."""
    size = np.abs(volume.data)
    ordinary = np.percentile(size, 99.9)
    spikes = size > SPIKE * ordinary
    if not ordinary or not spikes.any():
        return volume
    warnings.warn(
        f"{name}: {np.count_nonzero(spikes)} voxels are over {SPIKE} times as bright as all others and were cut",
        Remark,
        stacklevel=3,
    )
    return volume.like(np.where(spikes, np.sign(volume.data) * ordinary, volume.data).astype(volume.data.dtype))
