"""The page of a patient: links to every page, and one row per lesion over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msrim.lesions.join import JoinedLesion
from msrim.lesions.track import CHANGES
from msrim.report.page import write_page

# By which a page of this kind is known again.
GENERATOR = '<meta name="generator" content="msrim patient">'


@dataclass(frozen=True)
class VisitOnPage:
    """One visit: its pages relative to the patient's, and figures where there are any.

    Attributes
    ----------
    name : str
        Such as "ses-01"; empty for a visit without a session.
    report, rim_report : str or None
    lesions : int or None
    volume_mm3 : float or None
    regions_met : int or None
        Of the brain's three.
    rims, not_judged : int or None
        Lesions with a rim, and those that could not be judged.
    rims_in_rows : bool
        Whether the rims were judged on the lesions of the joined table.
    """

    name: str
    report: str | None = None
    lesions: int | None = None
    volume_mm3: float | None = None
    regions_met: int | None = None
    rim_report: str | None = None
    rims: int | None = None
    not_judged: int | None = None
    rims_in_rows: bool = False


@dataclass(frozen=True)
class PairOnPage:
    """Two visits that were compared: their names, summary, and page relative to the patient's."""

    baseline: str
    followup: str
    summary: dict[str, Any]
    report: str


@dataclass(frozen=True)
class PatientReport:
    """Exactly what the page of a patient shows.

    Attributes
    ----------
    subject : str
    headline : str
        The result in one line.
    visits : sequence of VisitOnPage
        In the order of time.
    pairs : sequence of PairOnPage
    rows : sequence of JoinedLesion
        Their visits are those of ``visits`` that have a report.
    table : str
        File of the rows, relative to the page.
    page : Path
    doubts : sequence of str
        Reasons to inspect the results visually before they are trusted.
    failures : sequence of str
        Failures and their reasons.
    """

    subject: str
    headline: str
    visits: Sequence[VisitOnPage]
    pairs: Sequence[PairOnPage]
    rows: Sequence[JoinedLesion]
    table: str
    page: Path
    doubts: Sequence[str]
    failures: Sequence[str]


def write_patient_page(report: PatientReport) -> Path:
    """Write the page; links are relative, so the folder can be moved.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    return write_page(
        report.page,
        "patient.html.jinja",
        report=report,
        generator=GENERATOR,
        changes=CHANGES,
        seen=[visit for visit in report.visits if visit.report],
    )


def is_own_page(path: Path) -> bool:
    """Whether msrim has written a patient's page."""
    try:
        return GENERATOR in path.read_text(encoding="utf-8", errors="replace")[:2000]
    except OSError:
        return False
