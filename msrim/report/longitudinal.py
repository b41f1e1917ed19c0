"""The report of two visits: side by side, the difference image, and what became of every lesion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from msrim.image import Volume, resample
from msrim.lesions.track import CHANGE_COLUMNS, CHANGES, EXPANSION_COLUMNS, TrackedLesion
from msrim.manifest import Provenance
from msrim.report.page import write_page
from msrim.report.pictures import (
    AXIAL,
    Frame,
    Picture,
    choose_slices,
    data_uri,
    mask_extent,
    outline,
    picture_slice,
    place_numbers,
    upright_frame,
    window,
)

VISIT_TITLES = ("Baseline", "Follow-up")
# Of a lesion's parts in a cell; the TSV file has all.
MOST_NUMBERS = 4
LEAST_SLICES, MOST_SLICES = 8, 24
# The difference image is black and white at this many noise levels: what is called a change is well off grey.
DIFFERENCE_RANGE_Z = 8.0
HEADINGS = {
    "id": "Lesion",
    "change": "Change",
    "baseline_mm3": "Baseline",
    "followup_mm3": "Follow-up",
    "change_mm3": "Difference",
    "new_mm3": "New tissue",
    "vanished_mm3": "Vanished tissue",
    "expansion_percent": "Expansion",
    "expansion_percent_per_year": "Expansion",
    "sel_candidate": "Slowly expanding",
    "concentricity": "Concentricity",
    "rim_probability": "Rim probability",
    "baseline_ids": "Numbers at baseline",
    "followup_ids": "Numbers at follow-up",
}


EXPANSION_A_YEAR = "expansion_percent_per_year"
# Of the two expansions the page shows that a year, its error in the same cell. These make room for it: pages are read
# in windows of 1000 pixels, and the TSV file has all.
GIVING_WAY = ("expansion_error_percent", "concentricity", "new_mm3", "vanished_mm3")
# Shown where they were measured.
MEASURED = (*EXPANSION_COLUMNS, "rim_probability")
UNITS = {
    **dict.fromkeys(("baseline_mm3", "followup_mm3", "change_mm3", "new_mm3", "vanished_mm3"), "mm³"),
    "expansion_percent": "%",
    "expansion_percent_per_year": "% a year",
}
# Decimals, and whether a sign is shown.
FORMATS = {
    "change_mm3": "+.0f",
    "concentricity": "+.2f",
    "rim_probability": ".2f",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ChangeReport(Provenance):
    """Exactly what a report of two visits shows, with its provenance; what has voxels lies on the midway grid.

    Attributes
    ----------
    sessions : (str, str)
    method : str
        How changes were decided.
    model_limits : str
    images : (Volume, Volume)
        Matched FLAIRs of baseline and follow-up.
    differences : dict of str to Volume
        Of the contrasts that decided, FLAIR first: in noise levels, positive where follow-up is brighter.
    brain : Volume of bool
    tracked : Volume of int
        Number of the lesion in ``rows``, at either visit.
    lesions : (Volume of bool, Volume of bool)
    new, vanished : Volume of bool
        Tissue that is lesion at one visit alone.
    mni_from_midway : (4, 4) float
    rows : sequence of TrackedLesion
    summary : dict
        Of :func:`msrim.lesions.track.summarise_changes`, with how well the visits agree.
    """

    sessions: tuple[str, str]
    method: str
    model_limits: str
    images: tuple[Volume, Volume]
    differences: dict[str, Volume]
    brain: Volume
    tracked: Volume
    lesions: tuple[Volume, Volume]
    new: Volume
    vanished: Volume
    mni_from_midway: np.ndarray
    rows: Sequence[TrackedLesion]
    summary: dict[str, Any]


def write_change_report(report: ChangeReport, path: Path) -> Path:
    """Write the page: one file, no network, readable without scripts.

    Raises
    ------
    OutputError
        The file can't be written.
    """
    frame = upright_frame(report.brain, mni_from_flair=report.mni_from_midway)
    differences = [f"Difference of {contrast}" for contrast in report.differences]
    measured = {column for column in MEASURED if any(getattr(row, column) is not None for row in report.rows)}
    left_out = {"expansion_percent" if EXPANSION_A_YEAR in measured else EXPANSION_A_YEAR}
    if "expansion_percent" in measured:
        left_out |= set(GIVING_WAY)
    rows_of_pictures = _rows_of_pictures(report, frame)
    return write_page(
        path,
        "longitudinal.html.jinja",
        report=report,
        rows_of_pictures=rows_of_pictures,
        columns=[
            *(f"{visit} {session}" for visit, session in zip(VISIT_TITLES, report.sessions, strict=True)),
            *differences,
        ],
        headings={
            column: heading
            for column, heading in HEADINGS.items()
            if column not in left_out and (column not in MEASURED or column in measured)
        },
        units=UNITS,
        described=CHANGE_COLUMNS,
        changes=CHANGES,
        rows=sorted(report.rows, key=lambda row: (row.change == "stable", row.id)),
        shown_on=_best_slices(rows_of_pictures),
        cell=partial(_cell, years=report.summary.get("years")),
    )


def _rows_of_pictures(report: ChangeReport, frame: Frame) -> list[list[Picture]]:
    """Slices of baseline, follow-up and differences, chosen to show as many changed lesions as possible."""

    def on_grid(volume: Volume) -> np.ndarray:
        nearest = not np.issubdtype(volume.data.dtype, np.floating)
        return resample(volume, frame.grid, nearest=nearest).data

    brain = on_grid(report.brain)
    # One window for both: what differs on the page differs in the images. Around the brain it is dark.
    inside = np.stack([brain, brain])
    visits = np.where(inside, window(np.stack([on_grid(image) for image in report.images]), inside), 0).astype(np.uint8)
    differences = [
        np.clip(127.5 * (1 + on_grid(z) / DIFFERENCE_RANGE_Z), 0, 255).astype(np.uint8)
        for z in report.differences.values()
    ]
    before, after = report.lesions
    volumes = {"new": report.new, "vanished": report.vanished, "before": before, "after": after, "all": report.tracked}
    masks = {name: on_grid(volume) for name, volume in volumes.items()}
    changed = [row.id for row in report.rows if row.change != "stable"]
    wanted = np.where(np.isin(masks["all"], changed), masks["all"], 0)
    return [
        _row_of_pictures(frame, index, images=[*visits, *differences], masks=masks, changed=changed)
        for index in choose_slices(
            wanted, AXIAL, extent=mask_extent(brain, AXIAL), least=LEAST_SLICES, most=MOST_SLICES
        )
    ]


def _row_of_pictures(
    frame: Frame, index: int, *, images: Sequence[np.ndarray], masks: dict[str, np.ndarray], changed: Sequence[int]
) -> list[Picture]:
    """One slice of both visits, outlined with their lesions and what changed, and of the differences, with changes.

    Parameters
    ----------
    frame : Frame
    index : int
        Of the slice.
    images : sequence of (X, Y, Z) uint8
        Baseline, follow-up, differences.
    masks : dict of str to (X, Y, Z) array
        "before", "after", "new" and "vanished" where not 0; "all" are the numbers of the lesions of both visits.
    changed : sequence of int
        Which of these get their number drawn.
    """
    cut = {name: picture_slice(data, AXIAL, index) for name, data in masks.items()}
    lesions = {int(number): cut["all"] == number for number in np.unique(cut["all"][cut["all"] > 0])}
    numbers = place_numbers({n: mask for n, mask in lesions.items() if n in changed}, cut["all"] > 0)
    pixels = {number: int(np.count_nonzero(mask)) for number, mask in lesions.items()}
    changes = {name: outline(cut[name]) for name in ("new", "vanished")}
    of_visits = [{"lesion": outline(cut[name]), **changes} for name in ("before", "after")]
    return [
        Picture(
            AXIAL,
            frame.position_mm(AXIAL, index),
            frame.size_mm(AXIAL),
            data_uri(picture_slice(image, AXIAL, index)),
            outlines=outlines,
            numbers=numbers,
            lesions=pixels,
        )
        for image, outlines in zip(images, of_visits + [changes] * (len(images) - 2), strict=True)
    ]


def _best_slices(rows_of_pictures: Sequence[Sequence[Picture]]) -> dict[int, float]:
    """For each lesion shown, the position of the slice where it is largest."""
    best: dict[int, Picture] = {}
    for picture, *_ in rows_of_pictures:
        for lesion, pixels in picture.lesions.items():
            if lesion not in best or pixels > best[lesion].lesions[lesion]:
                best[lesion] = picture
    return {lesion: picture.position_mm for lesion, picture in best.items()}


def _cell(row: TrackedLesion, column: str, *, years: float | None) -> str:
    value = getattr(row, column)
    if column in ("expansion_percent", EXPANSION_A_YEAR) and value is not None:
        error = row.expansion_error_percent
        return _signed(value, "+.1f") + ("" if error is None else f" ± {error / (years or 1):.1f}")
    if isinstance(value, tuple):
        more = f" and {len(value) - MOST_NUMBERS} more" if len(value) > MOST_NUMBERS else ""
        return ", ".join(map(str, value[:MOST_NUMBERS])) + more or "–"
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "candidate" if value else "no"
    if isinstance(value, float):
        return _signed(value, FORMATS.get(column, ".0f"))
    return str(value)


def _signed(value: float, form: str) -> str:
    """With a true minus sign, and no sign before a zero."""
    shown = f"{value:{form}}".replace("-", "\N{MINUS SIGN}")
    return shown if float(shown.lstrip("+\N{MINUS SIGN}")) else shown.lstrip("+\N{MINUS SIGN}")
