"""A threshold that rises where the lesions found are faint and the network is in doubt of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit

from msrim.image import Volume

# Between the thresholds tried, as 0.5, 0.62, 0.73, 0.82, 0.88, 0.92, 0.95 are.
LOGIT_STEP = 0.5
# Fewer lesion voxels show no outline that could be measured.
MIN_LESION_MM3 = 50.0
# Standard deviations of the tissue: false lesions in simulated heads without any have 0.4 to 0.6 at every threshold,
# lesions of five patients, 3 mm slices among them, 0.7 to 1.8 at a good one.
LESION_STEP = 0.75
# False lesions are faint and, unlike true ones as faint, gone at odds little higher: of their volume less than half is
# left at odds e^2 = 7.4 times as high.
DOUBT_STEPS = round(2 / LOGIT_STEP)
DOUBT_SHARE = 0.5


def mean_edge_contrast(probability: Volume, image: Volume, *, brain: Volume, levels: Sequence[float]) -> np.ndarray:
    """Mean step of the intensity, from outside to inside, across the outline that each threshold draws.

    Parameters
    ----------
    probability, image : Volume of float32
        On the same grid.
    brain : Volume of bool
        Only faces between two voxels of the brain count.
    levels : sequence of float
        Ascending.

    Returns
    -------
    (len(levels),) float64
        Mean over the faces between a voxel of at least the level and one below it; nan where there is none. In the
        units of ``image``.

    Examples
    --------
    >>> line = np.array([0.1, 0.1, 0.6, 0.9, 0.9, 0.1]).reshape(6, 1, 1)
    >>> flair = np.array([1.0, 1.0, 2.0, 5.0, 5.0, 1.0]).reshape(6, 1, 1)
    >>> everywhere = Volume(np.ones((6, 1, 1), bool), np.eye(4))
    >>> mean_edge_contrast(everywhere.like(line), everywhere.like(flair), brain=everywhere, levels=(0.5, 0.7)).tolist()
    [2.5, 3.5]
    """
    inside = brain.data.astype(bool)
    # How many levels a voxel reaches: a face is crossed by those that one of its two voxels reaches and the other not.
    reached = np.searchsorted(np.asarray(levels), probability.data, side="right")
    steps, faces = np.zeros(len(levels) + 1), np.zeros(len(levels) + 1)
    for axis in range(3):
        low, high = (np.moveaxis(reached, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        crossed = low != high
        for part in (slice(None, -1), slice(1, None)):
            crossed &= np.moveaxis(inside, axis, 0)[part]
        rise = np.diff(np.moveaxis(image.data, axis, 0), axis=0)[crossed].astype(np.float64)
        low, high = low[crossed], high[crossed]
        rise *= np.sign(high - low)
        for sums, weights in ((steps, rise), (faces, np.ones_like(rise))):
            sums += np.bincount(np.minimum(low, high), weights, len(sums))
            sums -= np.bincount(np.maximum(low, high), weights, len(sums))
    steps, faces = np.cumsum(steps)[:-1], np.cumsum(faces)[:-1]
    return np.divide(steps, faces, out=np.full(len(levels), np.nan), where=faces > 0)


def undoubted_threshold(probability: Volume, flair: Volume, *, brain: Volume, default: float, highest: float) -> float:
    """The default threshold, or a higher one where what it finds is faint and the network is in doubt of it.

    In a head without lesions a network marks bright cortex here and there. The FLAIR hardly rises across the outlines
    of such marks, and most of their volume is gone at odds little higher. Then the threshold rises until the outlines
    are as sharp as those of lesions, to ``highest`` if they never are.

    Parameters
    ----------
    probability, flair : Volume of float32
        On the same grid; the FLAIR as :func:`msrim.preprocess.normalise.normalise_intensity` gives it.
    brain : Volume of bool
    default : float
        The result where nothing is in doubt, and where too little is lesion to show an outline.
    highest : float
        Above the default.

    Notes
    -----
    A search in both directions for the threshold with the sharpest outlines was given up: on ten patients of a site
    that no network had seen it cost 0.04 to 0.06 of Dice and 0.11 of lesion F1 against one threshold for all.

    Examples
    --------
    >>> radius = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)
    >>> everywhere = Volume(np.ones((24, 24, 24), bool), np.eye(4))
    >>> answer = everywhere.like(1 / (1 + np.exp(radius - 6)))
    >>> for contrast in (3.0, 0.1):
    ...     flair = everywhere.like(contrast * (radius < 6))
    ...     print(undoubted_threshold(answer, flair, brain=everywhere, default=0.5, highest=0.999))
    0.5
    0.9985
    """
    steps = int(np.floor((logit(highest) - logit(default)) / LOGIT_STEP))
    levels = expit(logit(default) + LOGIT_STEP * np.arange(steps + 1))
    values = np.sort(probability.data[brain.data.astype(bool) & (probability.data >= levels[0])])
    volume = values.size - np.searchsorted(values, levels)
    if volume[0] * probability.voxel_volume_mm3 < MIN_LESION_MM3:
        return default
    step = np.fmax(mean_edge_contrast(probability, flair, brain=brain, levels=levels), 0)
    if step[0] >= LESION_STEP or volume[min(DOUBT_STEPS, steps)] >= DOUBT_SHARE * volume[0]:
        return default
    clear = np.flatnonzero((step >= LESION_STEP) & (volume * probability.voxel_volume_mm3 >= MIN_LESION_MM3))
    return round(float(levels[clear[0] if clear.size else -1]), 4)
