"""How well new lesions are found between two visits: the measures of CoactSeg's paper and of the MSSEG-2 challenge."""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np

from msrim.evaluation.metrics import segmentation_metrics
from msrim.image import Volume, same_grid
from msrim.preprocess.match import match_intensities

# Smaller lesions are left out of the lesion-wise measures, in the paper and in the challenge.
PAPER_MIN_VOXELS = 11
CHALLENGE_MIN_MM3 = 3.0
# Commowick et al. 2018: the share of a lesion that must be covered; the share of that cover whose predicted lesions,
# the largest parts first, are checked; the share of such a predicted lesion that may lie outside of lesions.
COVERED, CHECKED, OUTSIDE = 0.10, 0.65, 0.70


def change_metrics(truth: Volume, prediction: Volume) -> dict[str, Any]:
    """Compare two masks of new lesions on one grid.

    Parameters
    ----------
    truth, prediction : Volume
        New tissue where not zero.

    Returns
    -------
    dict
        Ready for JSON: ``dice``, ``jaccard``, ``hd95_mm``, ``asd_mm`` and volumes as
        :func:`msrim.evaluation.metrics.segmentation_metrics` has them; under ``paper`` and ``challenge`` what
        :func:`lesion_detection` gives for lesions of 11 voxels and of 3 mm3 or more. Where truth has no new lesion,
        ``false_lesions`` and ``false_volume_mm3`` are the only measures of a case.

    Raises
    ------
    ValueError
        The grids differ.

    Notes
    -----
    Wu et al. 2023 (CoactSeg), section 4; Commowick et al. 2021, MSSEG-2 challenge proceedings.
    """
    found = segmentation_metrics(truth, prediction)
    volume = truth.voxel_volume_mm3
    challenge = lesion_detection(truth, prediction, min_voxels=int(np.ceil(CHALLENGE_MIN_MM3 / volume - 1e-3)))
    return {
        **{name: found[name] for name in ("dice", "jaccard", "hd95_mm", "asd_mm")},
        **{name: found[name] for name in ("truth_volume_mm3", "prediction_volume_mm3")},
        "paper": lesion_detection(truth, prediction, min_voxels=PAPER_MIN_VOXELS),
        "challenge": challenge,
        "false_lesions": challenge["prediction_lesions"] - challenge["true_positives"],
        "false_volume_mm3": int(np.count_nonzero((prediction.data != 0) & (truth.data == 0))) * volume,
    }


def lesion_detection(truth: Volume, prediction: Volume, *, min_voxels: int) -> dict[str, Any]:
    """Lesion-wise recall, precision and F1 with the challenge's matching rule.

    A lesion counts as detected if the prediction covers a tenth of it, and if the predicted lesions that make up 65 %
    of that cover, the largest parts first, each lie outside of lesions by 70 % of their volume at most. Precision is
    the same with truth and prediction exchanged.

    Parameters
    ----------
    truth, prediction : Volume
        Lesions are 26-connected components.
    min_voxels : int
        Smaller components are left out of both masks.

    Returns
    -------
    dict
        ``lesions`` and how many of them are ``detected``; ``prediction_lesions`` and how many of them are
        ``true_positives``; ``recall``, ``precision`` and ``f1``. Neither mask has a lesion: all three 1. Only one has:
        what would be 0/0 is None, and ``f1`` is 0.

    Notes
    -----
    Commowick et al., Sci. Rep. 8, 2018, doi:10.1038/s41598-018-31911-7, section "Detection metrics".

    Examples
    --------
    >>> truth = Volume(np.array([[[1, 1, 1, 0, 0, 1]]]), np.eye(4))
    >>> lesion_detection(truth, truth.like(np.array([[[0, 1, 1, 1, 0, 0]]])), min_voxels=1)["recall"]
    0.5
    """
    if not same_grid(truth, prediction):
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} lie on different grids")
    lesions, predicted = (_components(volume.data != 0, min_voxels) for volume in (truth, prediction))
    detected, true_positives = _detected(lesions, predicted), _detected(predicted, lesions)
    true_count, predicted_count = int(lesions.max(initial=0)), int(predicted.max(initial=0))
    recall = detected / true_count if true_count else None
    precision = true_positives / predicted_count if predicted_count else None
    f1 = 2 * recall * precision / (recall + precision) if recall and precision else 0.0
    if not true_count and not predicted_count:
        recall = precision = f1 = 1.0
    return {
        "lesions": true_count,
        "detected": detected,
        "prediction_lesions": predicted_count,
        "true_positives": true_positives,
        "recall": recall,
        "precision": precision,
        "f1": f1,
    }


def split_change(change: Volume, baseline: Volume, followup: Volume, *, brain: Volume) -> tuple[Volume, Volume]:
    """Separate tissue that grew from tissue that shrank in an expert's mask that marks both.

    Parameters
    ----------
    change : Volume of bool
    baseline, followup : Volume of float
        FLAIRs on the same grid.
    brain : Volume of bool

    Returns
    -------
    (Volume of bool, Volume of bool)
        Components that are brighter at follow-up, after intensities were matched, and the others.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> one = Volume(rng.normal(50, 5, (20, 20, 20)).astype(np.float32), np.eye(4))
    >>> other = one.like(one.data.copy())
    >>> other.data[2:5, 2:5, 2:5] += 30
    >>> mask = one.like(other.data != one.data)
    >>> grown, shrunk = split_change(mask, one, other, brain=one.like(np.ones(one.shape, bool)))
    >>> int(grown.data.sum()), int(shrunk.data.sum())
    (27, 0)
    """
    before, after = match_intensities(baseline, followup, brain=brain, lesions=change)
    parts = cc3d.connected_components(change.data.astype(np.uint8), connectivity=26)
    inside = brain.data.astype(bool) & change.data.astype(bool)
    total = np.bincount(parts[inside], weights=(after.data - before.data)[inside], minlength=int(parts.max()) + 1)
    grown = (total > 0)[parts] & (parts > 0)
    return change.like(grown), change.like((parts > 0) & ~grown)


def _components(mask: np.ndarray, min_voxels: int) -> np.ndarray:
    return cc3d.connected_components(
        cc3d.dust(mask.astype(np.uint8), threshold=min_voxels, connectivity=26), connectivity=26
    )


def _detected(lesions: np.ndarray, predicted: np.ndarray) -> int:
    """How many of the numbered lesions the numbered predicted lesions detect."""
    shared = np.zeros((int(lesions.max(initial=0)) + 1, int(predicted.max(initial=0)) + 1), np.int64)
    np.add.at(shared, (lesions.ravel(), predicted.ravel()), 1)
    sizes, predicted_sizes = shared.sum(axis=1), shared.sum(axis=0)
    outside = shared[0] / np.maximum(predicted_sizes, 1)
    count = 0
    for lesion in range(1, len(shared)):
        cover = shared[lesion, 1:]
        covered = cover.sum()
        if not covered or covered < COVERED * sizes[lesion]:
            continue
        order = np.argsort(-cover, kind="stable")
        checked = order[: np.searchsorted(np.cumsum(cover[order]), CHECKED * covered) + 1]
        count += bool((outside[1:][checked] <= OUTSIDE).all())
    return count
