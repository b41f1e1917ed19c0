"""From the figures of single scans to those of a cohort, and from two methods' figures to their difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msrim.evaluation.instances import panoptic_quality
from msrim.evaluation.isbi import challenge_score, isbi_score, volume_correlation
from msrim.evaluation.metrics import lesion_f1, segmentation_metrics
from msrim.evaluation.statistics import bootstrap_interval, bootstrap_statistic, compare_paired
from msrim.image import Volume
from msrim.lesions.split import label_lesions

# Figures of a scan in the order of every table; the others that segmentation_metrics gives are volumes and counts.
FIGURES = (
    "dice", "jaccard", "ppv", "tpr", "ltpr", "lfpr", "l_f1", "l_ppv", "l_dice", "pq", "sq", "rq",
    "hd95_mm", "asd_mm", "volume_difference",
)  # fmt: skip
# Figures that a cohort has and a scan has not.
COHORT_FIGURES = ("v_f1_of_means", "l_f1_of_means", "volume_correlation", "isbi_score", "challenge_score")


@dataclass(frozen=True)
class Scan:
    """One scan that was compared with its truth.

    Attributes
    ----------
    patient : str
    session : str or None
    figures : dict
        Of :func:`scan_figures`.
    """

    patient: str
    session: str | None
    figures: dict[str, Any]


def scan_figures(truth: Volume, prediction: Volume, *, min_volume_mm3: float = 0.0) -> dict[str, Any]:
    """All of :func:`segmentation_metrics`, and the panoptic quality of the two masks' connected components.

    Parameters
    ----------
    truth, prediction : Volume of bool
    min_volume_mm3 : float
        For lesion-wise figures but the panoptic quality, which takes every component.
    """
    figures = segmentation_metrics(truth, prediction, min_volume_mm3=min_volume_mm3)
    parts = panoptic_quality(truth.like(label_lesions(truth.data)), prediction.like(label_lesions(prediction.data)))
    return figures | {name: parts[name] for name in ("pq", "sq", "rq")}


def patient_means(scans: Sequence[Scan], figure: str) -> dict[str, float | None]:
    """Mean of a figure over each patient's visits where it is defined, None where it never is.

    Examples
    --------
    >>> scans = [Scan("1", "a", {"dice": 0.5}), Scan("1", "b", {"dice": 0.7}), Scan("2", None, {"dice": None})]
    >>> patient_means(scans, "dice")
    {'1': 0.6, '2': None}
    """
    values: dict[str, list[float]] = {}
    for scan in scans:
        defined = [scan.figures[figure]] if scan.figures[figure] is not None else []
        values.setdefault(scan.patient, []).extend(defined)
    return {patient: float(np.mean(visits)) if visits else None for patient, visits in values.items()}


def cohort_figures(scans: Sequence[Scan]) -> dict[str, float | None]:
    """COHORT_FIGURES.

    The papers' tables take F1 of mean precision and mean sensitivity, voxel-wise (``v_f1_of_means``) and lesion-wise,
    not the mean F1; both scores are of means over scans, as the challenge's are. A figure is None if one of its parts
    is.
    """
    means = {}
    for name in ("dice", "ppv", "tpr", "ltpr", "lfpr"):
        defined = [scan.figures[name] for scan in scans if scan.figures[name] is not None]
        means[name] = float(np.mean(defined)) if defined else None
    truth, found = ([scan.figures[f"{which}_volume_mm3"] for scan in scans] for which in ("truth", "prediction"))
    correlation = volume_correlation(truth, found)

    def of(function: Callable[..., float], *names: str, **more: float | None) -> float | None:
        parts = {name: means[name] for name in names} | more
        return None if None in parts.values() else function(**parts)

    five = ("dice", "ppv", "lfpr", "ltpr")
    return {
        # The harmonic mean of precision and sensitivity, as it is for lesions with 1 - LFPR for precision.
        "v_f1_of_means": of(lambda ppv, tpr: lesion_f1(ltpr=tpr, lfpr=1 - ppv), "ppv", "tpr"),
        "l_f1_of_means": of(lesion_f1, "ltpr", "lfpr"),
        "volume_correlation": correlation,
        "isbi_score": of(isbi_score, *five, volume_correlation=correlation),
        "challenge_score": of(challenge_score, *five, volume_correlation=correlation),
    }


def summarise_cohort(scans: Sequence[Scan]) -> list[dict[str, Any]]:
    """A row for each figure: ``figure``, ``patients``, ``mean``, ``sd``, ``low``, ``high``.

    Mean, standard deviation and bootstrap interval are over patients, whose visits are averaged first; a figure of the
    cohort has an interval by resampling patients and no standard deviation. None where nothing is defined.
    """
    rows = []
    for figure in FIGURES:
        values = [value for value in patient_means(scans, figure).values() if value is not None]
        low, high = bootstrap_interval(values) or (None, None)
        mean, sd = float(np.mean(values)) if values else None, float(np.std(values, ddof=1)) if values[1:] else None
        rows.append({"figure": figure, "patients": len(values), "mean": mean, "sd": sd, "low": low, "high": high})
    patients = [[scan for scan in scans if scan.patient == name] for name in sorted({scan.patient for scan in scans})]
    whole = cohort_figures(scans)
    for figure in COHORT_FIGURES:

        def statistic(drawn: list[list[Scan]], figure: str = figure) -> float | None:
            return cohort_figures([scan for visits in drawn for scan in visits])[figure]

        low, high = bootstrap_statistic(patients, statistic) or (None, None)
        row = {"figure": figure, "patients": len(patients), "mean": whole[figure], "sd": None, "low": low, "high": high}
        rows.append(row)
    return rows


def compare_methods(first: Sequence[Scan], second: Sequence[Scan]) -> list[dict[str, Any]]:
    """A row of :func:`compare_paired` for each figure of the same patients, with ``figure``; those of two or more."""
    rows = []
    for figure in FIGURES:
        before, after = patient_means(first, figure), patient_means(second, figure)
        found = compare_paired([before[name] for name in before], [after[name] for name in before])
        if found is not None:
            rows.append({"figure": figure} | found)
    return rows
