"""One page and tables for a whole cohort: what became of every visit, which figures stand out, links to the reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from msrim.report.page import write_page

# Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993.
MAX_ROBUST_Z = 3.5
# The median's own spread is too large to call anyone far from it with fewer.
MIN_VISITS = 5
RULE = (
    f"brain or lesion volume with a robust z, 0.6745 (x - median) / MAD over all visits, beyond ±{MAX_ROBUST_Z}; "
    f"lesion volume as log(1 + ml); from {MIN_VISITS} visits on"
)


@dataclass(frozen=True)
class Row:
    """One visit: "done" or "failed" for each workflow, None where its images do not ask for it; figures where done.

    Attributes
    ----------
    reason : str or None
        Of the first failure, on one line.
    outlier : str
        Which figures stand out, of :func:`mark_outliers`.
    same_brain_as : str
        Visits of other patients that show the same brain.
    reports : dict of str to str
        Pages relative to the overview, by what they show.
    """

    participant_id: str
    session_id: str | None
    segment: str
    rims: str | None = None
    longitudinal: str | None = None
    reason: str | None = None
    brain_ml: float | None = None
    lesions: int | None = None
    lesion_ml: float | None = None
    rim_lesions: int | None = None
    rim_possible: int | None = None
    seconds: float | None = None
    peak_mib: float | None = None
    outlier: str = ""
    same_brain_as: str = ""
    reports: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Such as "sub-01 ses-02"."""
        return " ".join(filter(None, (self.participant_id, self.session_id)))

    @staticmethod
    def columns() -> list[str]:
        """Of the table."""
        return [name for name in Row.__dataclass_fields__ if name != "reports"]

    def cells(self) -> list[Any]:
        """In the order of the columns."""
        return [getattr(self, name) for name in self.columns()]


@dataclass(frozen=True)
class Change:
    """Changes between two visits: numbers of lesions by change, total volumes, and the page."""

    participant_id: str
    baseline_id: str
    followup_id: str
    baseline_ml: float
    followup_ml: float
    lesions: dict[str, int]
    report: str


@dataclass(frozen=True)
class Overview:
    """Content of the page; ``steps`` are rows of participant, session, workflow, step, seconds and MiB.

    ``doubts`` are sentences for its top.
    """

    rows: Sequence[Row]
    changes: Sequence[Change]
    steps: Sequence[Sequence[Any]]
    doubts: Sequence[str] = ()


def robust_z(values: Sequence[float]) -> np.ndarray:
    """Distance from the median in units that are standard deviations for a normal distribution: (N,) float.

    Zero throughout where more than half of the values are the same.

    Examples
    --------
    >>> robust_z([1.0, 2.0, 3.0, 4.0, 100.0]).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 65.43]
    """
    deviation = np.asarray(values, dtype=float) - np.median(values)
    spread = np.median(np.abs(deviation))
    return 0.6745 * deviation / spread if spread > 0 else np.zeros_like(deviation)


def mark_outliers(rows: Sequence[Row]) -> list[Row]:
    """The same rows, each with the figures by which it stands out, see RULE.

    Examples
    --------
    >>> rows = [Row("sub-1", None, "done", brain_ml=v, lesion_ml=1.0) for v in (1200, 1250, 1300, 1350, 200)]
    >>> [row.outlier for row in mark_outliers(rows)]
    ['', '', '', '', 'brain_ml']
    """
    marks: list[list[str]] = [[] for _ in rows]
    for name, scale in (("brain_ml", float), ("lesion_ml", np.log1p)):
        known = [(number, scale(value)) for number, row in enumerate(rows) if (value := getattr(row, name)) is not None]
        if len(known) >= MIN_VISITS:
            distances = robust_z([value for _, value in known])
            for (number, _), z in zip(known, distances, strict=True):
                if abs(z) > MAX_ROBUST_Z:
                    marks[number].append(name)
    return [replace(row, outlier=", ".join(names)) for row, names in zip(rows, marks, strict=True)]


def write_overview(overview: Overview, path: Path) -> Path:
    """Write the page; links are relative, so the folder can be moved.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    costs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _, _, workflow, step, seconds, peak in overview.steps:
        costs.setdefault((workflow, step), []).append((seconds, peak or 0.0))
    summary = [
        (*key, len(spent), float(np.median([s for s, _ in spent])), max(s for s, _ in spent), max(m for _, m in spent))
        for key, spent in costs.items()
    ]
    return write_page(path, "cohort.html.jinja", report=overview, rule=RULE, costs=summary)
