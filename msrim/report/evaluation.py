"""The page of a cohort's evaluation: tables and plots in one HTML file without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msrim.evaluation.cohort import Scan, patient_means
from msrim.evaluation.curves import Curve
from msrim.evaluation.statistics import bootstrap_interval
from msrim.report.page import write_page

SHOWN = {"dice": "Dice", "l_f1": "Lesion F1", "ltpr": "LTPR", "lfpr": "LFPR", "pq": "PQ"}


@dataclass(frozen=True)
class Series:
    """Points of one method, and lines through some of them, all in per cent of the axes, y upwards."""

    method: int | None
    points: list[tuple[float, float]]
    lines: list[list[tuple[float, float]]]


@dataclass(frozen=True)
class Plot:
    """A square plot; ticks are positions in per cent with what is written there."""

    title: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    series: list[Series]


@dataclass(frozen=True)
class Method:
    """One method on the page: its name, scans, rows of figures, and curves where it has probabilities."""

    name: str
    scans: Sequence[Scan]
    summary: Sequence[dict[str, Any]]
    precision_recall: Curve | None
    lesion_roc: Curve | None


def write_cohort_page(
    methods: Sequence[Method], comparisons: Mapping[str, Sequence[dict[str, Any]]], path: Path, *, min_volume_mm3: float
) -> Path:
    """Write the page.

    Parameters
    ----------
    methods : sequence of Method
        The first is what the others are compared with.
    comparisons : dict of str to sequence of dict
        Rows of :func:`msrim.evaluation.cohort.compare_methods` by method.
    path : Path
    min_volume_mm3 : float
        As the figures were computed with, for the reader.
    """
    unit: list[tuple[float, str]] = [(percent, f"{percent / 100:g}") for percent in (0, 20, 40, 60, 80, 100)]
    plots = [_strips(methods, unit), _volumes(methods)]
    for title, x_label, y_label, name in (
        ("Voxels", "Recall", "Precision", "precision_recall"),
        ("Lesions", "LFPR", "LTPR", "lesion_roc"),
    ):
        curves = [(number, getattr(method, name)) for number, method in enumerate(methods)]
        lines = [Series(number, [], [_percent(curve.x, curve.y)]) for number, curve in curves if curve is not None]
        if lines:
            areas = ", ".join(f"{methods[n].name} {curve.area:.3f}" for n, curve in curves if curve is not None)
            plots.append(Plot(f"{title}, area under the curve: {areas}", x_label, y_label, unit, unit, lines))
    return write_page(
        path,
        "evaluation.html.jinja",
        methods=methods,
        comparisons=comparisons,
        plots=plots,
        min_volume_mm3=min_volume_mm3,
    )


def _strips(methods: Sequence[Method], unit: list[tuple[float, str]]) -> Plot:
    """A dot for each patient, a bar for the mean and a whisker for its interval, side by side for each figure."""
    width = 100 / len(SHOWN)
    lane = width * 0.8 / len(methods)
    series = []
    for number, method in enumerate(methods):
        points, lines = [], []
        for column, figure in enumerate(SHOWN):
            values = [value for value in patient_means(method.scans, figure).values() if value is not None]
            middle = (column + 0.1) * width + (number + 0.5) * lane
            # Dots of one patient lie at the same place in every lane.
            offsets = np.linspace(-0.3, 0.3, len(values)) * lane if len(values) > 1 else [0.0]
            points += [(middle + offset, 100 * value) for offset, value in zip(offsets, values, strict=False)]
            if values:
                mean = 100 * float(np.mean(values))
                lines.append([(middle - 0.4 * lane, mean), (middle + 0.4 * lane, mean)])
            if (interval := bootstrap_interval(values)) is not None:
                lines.append([(middle, 100 * end) for end in interval])
        series.append(Series(number, points, lines))
    ticks = [((column + 0.5) * width, label) for column, label in enumerate(SHOWN.values())]
    return Plot("Patients, mean and its 95 % interval", "", "", ticks, unit, series)


def _volumes(methods: Sequence[Method]) -> Plot:
    names = ("truth_volume_mm3", "prediction_volume_mm3")
    pairs = [np.array([[scan.figures[name] / 1000 for name in names] for scan in m.scans]) for m in methods]
    top = max(1.0, *(float(values.max()) for values in pairs)) * 1.05
    agreement = Series(None, [], [[(0, 0), (100, 100)]])
    series = [agreement, *(Series(number, _percent(*(values.T / top)), []) for number, values in enumerate(pairs))]
    # Whole millilitres where there are a hundred: three digits of a thousand come with an exponent.
    form = ".0f" if top >= 100 else ".3g"
    ticks: list[tuple[float, str]] = [(percent, f"{percent * top / 100:{form}}") for percent in (0, 25, 50, 75, 100)]
    return Plot("Lesion volume, ml; on the line both agree", "Truth", "Found", ticks, ticks, series)


def _percent(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    return [(100 * float(a), 100 * float(b)) for a, b in zip(x, y, strict=True)]


def is_evaluation_page(path: Path) -> bool:
    """Whether msrim has written an evaluation's page."""
    try:
        return "<title>Evaluation · msrim</title>" in path.read_text(encoding="utf-8", errors="replace")[:2000]
    except OSError:
        return False
