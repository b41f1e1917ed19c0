"""Classification of rims: the protocol of Zhang et al. 2022 (QSMRim-Net, sections 2.3 and 2.5) and 2023 (DA-TR-Net).

Conventions
-----------
A lesion counts as rim+ from a probability of the threshold on. Curves are made per fold, interpolated piecewise
constantly (the value of the last point at or before), averaged over the folds, and the areas are those of the averaged
curves. ``proc_auc`` is the area for false positive rates below 0.1, divided by 0.1. Folds without a lesion of either
kind have no curve. Without folds everything is one fold. A measure of 0/0 is None: leave it out of means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

MAX_FPR = 0.1
GRID = np.linspace(0, 1, 1001)
# Subjects of one stratum have about as many rim+ lesions: none, 1 to 3, 4 to 6, more (Fig. 3).
STRATA = (1, 4, 7)
RESAMPLES = 500


def stratified_folds(rims: np.ndarray, *, folds: int = 5, seed: int = 0) -> np.ndarray:
    """A fold for every subject, so that each fold has its share of the subjects with many rims.

    Parameters
    ----------
    rims : (subjects,) int
        Rim+ lesions of each subject.

    Returns
    -------
    (subjects,) int

    Examples
    --------
    >>> stratified_folds(np.array([0, 0, 2, 2, 9, 9]), folds=2).tolist()
    [0, 1, 0, 1, 0, 1]
    """
    rng = np.random.default_rng(seed)
    fold = np.empty(len(rims), int)
    stratum = np.searchsorted(STRATA, rims, side="right")
    given = 0
    for level in range(len(STRATA) + 1):
        members = rng.permutation(np.flatnonzero(stratum == level))
        # Dealt on from where the last stratum ended, so that fold sizes differ by one at most.
        fold[members] = (given + np.arange(len(members))) % folds
        given += len(members)
    return fold


def mean_roc(truth: np.ndarray, probability: np.ndarray, *, folds: np.ndarray) -> np.ndarray:
    """True positive rate at the false positive rates of GRID, averaged over the folds."""
    return _mean_curve(truth, probability, folds, _roc)


def mean_precision_recall(truth: np.ndarray, probability: np.ndarray, *, folds: np.ndarray) -> np.ndarray:
    """Precision at the recalls of GRID, averaged over the folds."""
    return _mean_curve(truth, probability, folds, _precision_recall)


def curve_areas(truth: np.ndarray, probability: np.ndarray, *, folds: np.ndarray | None = None) -> dict[str, Any]:
    """``roc_auc``, ``proc_auc`` and ``pr_auc`` of the averaged curves; None without lesions of both kinds.

    Parameters
    ----------
    truth : (lesions,) bool
    probability : (lesions,) float
    folds : (lesions,) int, optional

    Examples
    --------
    >>> curve_areas(np.array([0, 0, 1, 1]) > 0, np.array([0.1, 0.2, 0.8, 0.9]))
    {'roc_auc': 1.0, 'proc_auc': 1.0, 'pr_auc': 1.0}
    """
    folds = np.zeros(len(truth), int) if folds is None else folds
    if truth.all() or not truth.any():
        return {"roc_auc": None, "proc_auc": None, "pr_auc": None}
    roc = mean_roc(truth, probability, folds=folds)
    below = GRID < MAX_FPR
    return {
        # A step function's area is the mean of its values at the steps' left ends.
        "roc_auc": float(roc[:-1].mean()),
        "proc_auc": float(roc[below].mean()),
        "pr_auc": float(mean_precision_recall(truth, probability, folds=folds)[1:].mean()),
    }


def best_f1_threshold(truth: np.ndarray, probability: np.ndarray) -> float:
    """The probability from which on calling lesions rim+ gives the best F1.

    Examples
    --------
    >>> best_f1_threshold(np.array([0, 0, 1, 1]) > 0, np.array([0.1, 0.4, 0.3, 0.9]))
    0.3
    """
    precision, recall, thresholds = precision_recall_curve(truth, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1[:-1].argmax()])


def sensitive_threshold(truth: np.ndarray, probability: np.ndarray, *, sensitivity: float = 0.95) -> float:
    """The probability with the largest sensitivity that stays below 0.95 (section 4)."""
    _, recall, thresholds = precision_recall_curve(truth, probability)
    allowed = recall[:-1] < sensitivity
    return float(thresholds[allowed].min()) if allowed.any() else float(thresholds.max())


def decide(truth: np.ndarray, probability: np.ndarray, *, folds: np.ndarray) -> np.ndarray:
    """Rim+ or not, every fold by its own F1-best threshold as the papers do; optimistic, for it looks at the truth."""
    rim = np.zeros(len(truth), bool)
    for fold in np.unique(folds):
        inside = folds == fold
        if truth[inside].any():
            rim[inside] = probability[inside] >= best_f1_threshold(truth[inside], probability[inside])
    return rim


def majority(decisions: np.ndarray) -> np.ndarray:
    """Majority vote of the networks: (networks, lesions) bool to (lesions,) bool; a tie is rim-."""
    return 2 * decisions.sum(axis=0) > len(decisions)


def decision_measures(truth: np.ndarray, rim: np.ndarray) -> dict[str, Any]:
    """Accuracy, F1, sensitivity, specificity, PPV and the four counts.

    Examples
    --------
    >>> decision_measures(np.array([1, 1, 0, 0]) > 0, np.array([1, 0, 0, 0]) > 0)["f1"]
    0.6666666666666666
    """
    (tn, fp), (fn, tp) = confusion_matrix(truth, rim, labels=[False, True]).tolist()

    def ratio(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return {
        "accuracy": ratio(tp + tn, len(truth)),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "sensitivity": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "ppv": ratio(tp, tp + fp),
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
    }


def count_agreement(truth: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """Pearson's correlation of rim+ counts per subject with its 95 % interval, and their mean squared error.

    Parameters
    ----------
    truth, found : (subjects,) int

    Returns
    -------
    dict
        ``r``, ``r_low``, ``r_high`` (Fisher's z; None without spread or with fewer than three subjects) and ``mse``.
    """
    mse = float(np.mean((truth - found) ** 2.0))
    if len(truth) < 3 or np.ptp(truth) == 0 or np.ptp(found) == 0:
        return {"r": None, "r_low": None, "r_high": None, "mse": mse}
    result = pearsonr(truth, found)
    interval = result.confidence_interval()
    return {"r": float(result.statistic), "r_low": float(interval.low), "r_high": float(interval.high), "mse": mse}


def rim_metrics(
    truth: np.ndarray,
    probability: np.ndarray,
    *,
    subjects: np.ndarray,
    folds: np.ndarray | None = None,
    rim: np.ndarray | None = None,
) -> dict[str, Any]:
    """All figures of the papers' tables.

    Parameters
    ----------
    truth : (lesions,) bool
    probability : (lesions,) float
    subjects : (lesions,) int
        Whose lesion it is.
    folds : (lesions,) int, optional
    rim : (lesions,) bool, optional
        The decision; by each fold's F1-best threshold if not given.
    """
    folds = np.zeros(len(truth), int) if folds is None else folds
    rim = decide(truth, probability, folds=folds) if rim is None else rim
    _, of_subject = np.unique(subjects, return_inverse=True)
    counts = [np.bincount(of_subject, weights=which).astype(int) for which in (truth, rim)]
    return {
        "n": {"subjects": len(counts[0]), "lesions": len(truth), "rim": int(truth.sum())},
        **curve_areas(truth, probability, folds=folds),
        **decision_measures(truth, rim),
        "counts": count_agreement(*counts),
    }


def bootstrap_intervals(
    truth: np.ndarray,
    probability: np.ndarray,
    *,
    subjects: np.ndarray,
    folds: np.ndarray | None = None,
    rim: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the figures, subjects drawn with replacement; the decisions stay as they are."""
    folds = np.zeros(len(truth), int) if folds is None else folds
    rim = decide(truth, probability, folds=folds) if rim is None else rim
    names = np.unique(subjects)
    lesions = {name: np.flatnonzero(subjects == name) for name in names}
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        index = np.concatenate([lesions[name] for name in rng.choice(names, len(names))])
        figures = curve_areas(truth[index], probability[index], folds=folds[index])
        figures |= decision_measures(truth[index], rim[index])
        for key, value in figures.items():
            if isinstance(value, float):
                drawn.setdefault(key, []).append(value)
    return {key: tuple(np.percentile(values, (2.5, 97.5)).tolist()) for key, values in drawn.items()}


def bootstrap_difference(
    truth: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    *,
    subjects: np.ndarray,
    folds: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
    """How much better one method's areas are than another's: difference and its 95 % interval.

    Both are judged on the same subjects, drawn with replacement (Zhang et al. 2022, section 2.5).

    Parameters
    ----------
    truth : (lesions,) bool
    one, other : (lesions,) float
        Probabilities of the two.
    subjects : (lesions,) int
    folds : (lesions,) int, optional

    Examples
    --------
    >>> truth, sure = np.arange(40) % 4 == 0, np.arange(40) % 4 == 0
    >>> found = bootstrap_difference(truth, sure * 0.9, np.full(40, 0.5), subjects=np.arange(40) // 4, resamples=20)
    >>> found["pr_auc"]
    (0.75, 0.75, 0.75)
    """
    folds = np.zeros(len(truth), int) if folds is None else folds
    names = np.unique(subjects)
    lesions = {name: np.flatnonzero(subjects == name) for name in names}
    rng = np.random.default_rng(seed)

    def difference(index: np.ndarray) -> dict[str, float | None]:
        first, second = (curve_areas(truth[index], which[index], folds=folds[index]) for which in (one, other))
        return {key: None if None in (first[key], second[key]) else first[key] - second[key] for key in first}

    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        for key, value in difference(np.concatenate([lesions[name] for name in rng.choice(names, len(names))])).items():
            if value is not None:
                drawn.setdefault(key, []).append(value)
    whole = difference(np.arange(len(truth)))
    return {key: (whole[key], *np.percentile(values, (2.5, 97.5)).tolist()) for key, values in drawn.items()}


def _mean_curve(
    truth: np.ndarray, probability: np.ndarray, folds: np.ndarray, curve: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    curves = []
    for fold in np.unique(folds):
        inside = folds == fold
        if 0 < truth[inside].sum() < inside.sum():
            curves.append(curve(truth[inside], probability[inside]))
    return np.mean(curves, axis=0)


def _roc(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    fpr, tpr, _ = roc_curve(truth, probability, drop_intermediate=False)
    return tpr[np.searchsorted(fpr, GRID, side="right") - 1]


def _precision_recall(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    precision, recall, _ = precision_recall_curve(truth, probability)
    # By descending recall; the value at a recall is that of the point that reaches it first.
    recall, precision = recall[::-1], precision[::-1]
    return precision[np.searchsorted(recall, GRID, side="left")]
