"""The threshold at which the outline of the lesions follows the image best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit

from msrim.image import Volume

# Between the thresholds tried, as 0.5, 0.62, 0.73, 0.82, 0.88, 0.92, 0.95 are.
LOGIT_STEP = 0.5
# Fewer lesion voxels show no outline that could be measured.
MIN_LESION_MM3 = 50.0
# Lesions are given up only for an outline that is sharper by more than this share, and gained for one as sharp as this.
SHARP_ENOUGH = 0.85
AS_SHARP = 0.99
# Standard deviations of the tissue. The threshold falls for such a step alone: false lesions in simulated heads without
# any have 0.4 to 0.6 at every threshold, lesions of five patients, 3 mm slices among them, 0.7 to 1.8 at a good one.
LESION_STEP = 0.75
# False lesions are faint and, unlike true ones as faint, gone at odds little higher: of their volume less than half is
# left at odds e^2 = 7.4 times as high.
DOUBT_STEPS = round(2 / LOGIT_STEP)
DOUBT_SHARE = 0.5


def boundary_step(probability: Volume, image: Volume, *, brain: Volume, levels: Sequence[float]) -> np.ndarray:
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
    >>> boundary_step(everywhere.like(line), everywhere.like(flair), brain=everywhere, levels=(0.5, 0.7)).tolist()
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


def sharpest_threshold(
    probability: Volume, flair: Volume, *, brain: Volume, within: tuple[float, float], default: float
) -> float:
    """The threshold whose outline follows edges of the FLAIR best, to be used in place of one for all patients.

    On a scanner unlike those of its training a network still ranks voxels well when it is much too bold or too timid
    with all of them. Lesions have edges, so the outline that a good threshold draws is crossed by a steep step of the
    FLAIR. From the default the threshold rises until the outline is nearly as sharp as the sharpest; then it falls to
    the sharpest outline below, and on as long as outlines stay as sharp as that, if they are as sharp as lesions are.
    Where it is fainter than lesions are and most of the volume is gone at odds little higher, the network is in doubt
    whether there are any: the threshold rises until the outline is as sharp as lesions are, to the end if it never is.

    Parameters
    ----------
    probability, flair : Volume of float32
        On the same grid; the FLAIR as :func:`msrim.preprocess.normalise.normalise_intensity` gives it.
    brain : Volume of bool
    within : (float, float)
        Lowest and highest threshold that may come out.
    default : float
        In that range: where the search begins, and what comes out where too little is lesion to show an outline.

    Examples
    --------
    >>> radius = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)
    >>> everywhere = Volume(np.ones((24, 24, 24), bool), np.eye(4))
    >>> timid = everywhere.like(1 / (1 + np.exp(radius - 3)))
    >>> flair = everywhere.like((radius < 6).astype(float))
    >>> threshold = sharpest_threshold(timid, flair, brain=everywhere, within=(0.001, 0.999), default=0.5)
    >>> bool(np.array_equal(timid.data >= threshold, flair.data > 0))
    True
    """
    low, high = (logit(end) - logit(default) for end in within)
    offsets = np.arange(np.ceil(low / LOGIT_STEP), np.floor(high / LOGIT_STEP) + 1)
    levels = expit(logit(default) + LOGIT_STEP * offsets)
    chosen = int(np.flatnonzero(offsets == 0)[0])
    least = MIN_LESION_MM3 / probability.voxel_volume_mm3
    values = np.sort(probability.data[brain.data.astype(bool) & (probability.data >= levels[0])])
    volume = values.size - np.searchsorted(values, levels)
    large_enough = volume >= least
    if not large_enough[chosen]:
        return default
    step = np.fmax(boundary_step(probability, flair, brain=brain, levels=levels[large_enough]), 0)
    while step[chosen] < SHARP_ENOUGH * step[chosen:].max():
        chosen += 1
    below = step[: chosen + 1]
    if below.max() >= LESION_STEP:
        chosen = int(below.argmax())
        while chosen > 0 and step[chosen - 1] >= max(AS_SHARP * below.max(), LESION_STEP):
            chosen -= 1
    left = volume[min(chosen + DOUBT_STEPS, len(levels) - 1)]
    if step[chosen] < LESION_STEP and left < DOUBT_SHARE * volume[chosen]:
        clear = chosen + np.flatnonzero(step[chosen:] >= LESION_STEP)
        chosen = clear[0] if clear.size else len(levels) - 1
    return round(float(levels[chosen]), 4)
