"""Curves of a probability map over all thresholds: precision and recall of voxels, ROC of lesions.

Curves are of a cohort: counts are summed over its scans before any ratio is taken, so that a scan weighs as much as it
has lesions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from msrim.evaluation.metrics import lesions_touching
from msrim.image import Volume

# Probabilities are counted in steps of a thousandth; a network's fourth decimal means nothing.
BINS = 1000
LESION_THRESHOLDS = np.round(np.arange(0.05, 1.0, 0.05), 2)


@dataclass(frozen=True, eq=False)
class Curve:
    """Points of a curve and the area under it.

    Attributes
    ----------
    x, y : (n,) float
        Recall and precision, or LFPR and LTPR.
    thresholds : (n,) float
        On the probability, falling.
    area : float
    """

    x: np.ndarray
    y: np.ndarray
    thresholds: np.ndarray
    area: float


def precision_recall_curve(scans: Iterable[tuple[Volume, Volume]]) -> Curve | None:
    """Voxel-wise precision over recall.

    Parameters
    ----------
    scans : iterable of (Volume of bool, Volume of float in 0..1)
        Truth and probability.

    Returns
    -------
    Curve or None
        The area is the average precision, the sum of each step in recall times the precision there. None without a
        voxel of truth.

    Examples
    --------
    >>> truth = Volume(np.array([[[True, True, False, False]]]), np.eye(4))
    >>> precision_recall_curve([(truth, truth.like(np.array([[[0.9, 0.2, 0.6, 0.1]]])))]).area
    0.8333333333333333
    """
    inside, outside = np.zeros((2, BINS + 1), dtype=np.int64)
    for truth, probability in scans:
        steps = np.rint(probability.data * BINS).astype(np.int64)
        inside += np.bincount(steps[truth.data], minlength=BINS + 1)
        outside += np.bincount(steps[~truth.data], minlength=BINS + 1)
    if not inside.any():
        return None
    thresholds = np.arange(BINS, -1, -1) / BINS
    true_positives, false_positives = np.cumsum(inside[::-1]), np.cumsum(outside[::-1])
    called = true_positives + false_positives
    some = called > 0
    recall, precision = true_positives[some] / true_positives[-1], true_positives[some] / called[some]
    area = np.sum(np.diff(recall, prepend=0) * precision)
    return Curve(recall, precision, thresholds[some], float(area))


def lesion_roc_curve(scans: Iterable[tuple[Volume, Volume]], *, min_volume_mm3: float = 0.0) -> Curve | None:
    """Lesion-wise true positive rate over lesion-wise false positive rate (Zhang et al. 2021, ALL-Net, Fig. 5).

    Parameters
    ----------
    scans : iterable of (Volume of bool, Volume of float in 0..1)
    min_volume_mm3 : float
        Smaller components count neither as lesions nor as false ones.

    Returns
    -------
    Curve or None
        At thresholds 0.95, 0.90, ... 0.05. Neither rate need grow as the threshold falls, because lesions merge, in the
        end to one that touches every true lesion. The area is therefore that under the highest LTPR over the highest
        LFPR down to each threshold: a low one is not credited with fewer false lesions than those above it. Without
        any prediction LFPR is 0. None without a true lesion.

    Examples
    --------
    >>> truth = Volume(np.array([[[True, False, False, False]]]), np.eye(4))
    >>> lesion_roc_curve([(truth, truth.like(np.array([[[0.9, 0.2, 0.6, 0.1]]])))]).area
    1.0
    """
    counts = np.zeros((LESION_THRESHOLDS.size, 4), dtype=np.int64)
    for truth, probability in scans:
        for row, threshold in zip(counts, LESION_THRESHOLDS, strict=True):
            found = probability.data >= threshold
            min_voxels = min_volume_mm3 / truth.voxel_volume_mm3
            row += (
                *lesions_touching(truth.data, found, min_voxels=min_voxels),
                *lesions_touching(found, truth.data, min_voxels=min_voxels),
            )
    lesions, detected, predicted, true_positives = counts[::-1].T
    if not lesions.any():
        return None
    ltpr, lfpr = detected / lesions, (predicted - true_positives) / np.maximum(predicted, 1)
    area = np.sum(np.maximum.accumulate(ltpr) * np.diff(np.maximum.accumulate(lfpr), append=1.0))
    return Curve(lfpr, ltpr, LESION_THRESHOLDS[::-1], float(area))
