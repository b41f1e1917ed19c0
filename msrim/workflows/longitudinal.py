"""Several visits of one patient: their order, new lesions since the last scan, and the change of every lesion."""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from msrim.bids import (
    LESIONS,
    PATIENT,
    Subject,
    entity_of,
    find_subject,
    pair_folder,
    patient_file,
    subject_from_files,
)
from msrim.console import Console
from msrim.errors import InputError, Remark
from msrim.files import sha256_of
from msrim.lesions.chain import chain_lesions, write_chain_tsv
from msrim.lesions.track import counts_in_words
from msrim.models.registry import SEGMENTING_TASKS, read_card
from msrim.recipe import Recipe
from msrim.results import doubts_of
from msrim.workflows.anatomy import preprocess_visit, read_own
from msrim.workflows.changes import OUTLINE_MODEL, Edit, PreparedVisit
from msrim.workflows.comparison import Changes, compare_visits
from msrim.workflows.corrected import check_correction
from msrim.workflows.correction import Correction, find_correction
from msrim.workflows.inputs import check_output_folder, check_results_folder, read_subject, without_doubts
from msrim.workflows.segment import check_finds_lesions, for_slices, lesions_text, segment_visit

# Errors of reading a text file with any content.
UNREADABLE = (OSError, ValueError, AttributeError, RecursionError)
DAYS_A_YEAR = 365.25
# Dates of anonymised scans are moved by centuries, now and then at one visit alone.
MAX_YEARS = 100
# From here on the years that the user gives and those of the dates are told to differ.
MAX_YEARS_OFF, MAX_SHARE_OFF = 0.1, 0.1
# Fields of a FLAIR's JSON sidecar for the time of the scan, as scanners' converters write them.
DATE_FIELDS = ("AcquisitionDateTime", "AcquisitionDate", "SeriesDate", "StudyDate", "ContentDate")


def follow_visits(
    visits: Sequence[Subject], recipe: Recipe, out: Path, *, console: Console, years: Sequence[float] = ()
) -> Path:
    """Segment every visit, and track every lesion from each visit to the next.

    Parameters
    ----------
    visits : sequence of Subject
        Of :func:`find_visits`, in the order of time.
    recipe : Recipe
        With a lesion model, changes are found by rule and OUTLINE_MODEL draws them (:mod:`msrim.lesions.change`); with
        a model for the task "longitudinal", that does both.
    out : Path
        Folder of the derivative dataset.
    console : Console
    years : sequence of float
        From each visit to the next; from the dates beside the images if empty.

    Returns
    -------
    Path
        The mask of new lesions and of the grown part of enlarging ones, on the grid of the last visit's FLAIR; with the
        manually corrected lesions where there are such. Results without corrections are written all the same.

    Raises
    ------
    MsrimError
        An input cannot be used; nothing has been written then.
    """
    between = years_between(visits, years)
    recipe = for_slices(recipe, *visits)
    _check(visits, recipe, out)
    notes = check_visits(visits)
    if recipe.expansion and None in between:
        notes.append("the time between visits is not known, so there is no expansion per year; give --years")
    notes += remarks_on_dates(visits, years)
    for note in notes:
        console.note(note)
    corrections = _corrections(visits, out)
    prepared = []
    for visit in visits:
        console.say(f"visit ses-{visit.session}")
        prepared.append(_prepare(visit, recipe, out, console=console))
    changes = []
    for pair, passed in zip(pairwise(prepared), between, strict=True):
        console.say(f"from ses-{pair[0].subject.session} to ses-{pair[1].subject.session}")
        changes.append(compare_visits(pair, recipe, out, remarks=notes, console=console, years=passed))
    if len(changes) > 1:
        write_chain(visits, changes, out)
    if corrected := any(corrections):
        edited = [_with_edit(visit, found, out) for visit, found in zip(prepared, corrections, strict=True)]
        for visit, correction in zip(visits, corrections, strict=True):
            notes = [*notes, _correction_note(visit, correction)]
            console.note(notes[-1])
        # Every pair, so that the chain of lesions is whole.
        changes = [
            compare_visits(pair, recipe, out, remarks=notes, console=console, corrected=True, years=passed)
            for pair, passed in zip(pairwise(edited), between, strict=True)
        ]
        if len(changes) > 1:
            write_chain(visits, changes, out, corrected=True)
    pairs = [pair_folder(*pair, out, corrected=corrected) for pair in pairwise(visits)]
    doubts = doubts_of(*(visit.folder(out) for visit in visits), *pairs)
    console.result(changes_text(visits[-2:], changes[-1]), doubts=doubts)
    for folder in pairs:
        console.say(f"page: {folder / 'report.html'}")
    return changes[-1].visits[1].changed


def _check(visits: Sequence[Subject], recipe: Recipe, out: Path) -> None:
    """Check model, settings and folders."""
    from msrim.models import load_model

    card = read_card(recipe.model)
    check_finds_lesions(card, SEGMENTING_TASKS)
    if recipe.plain and card.task != "longitudinal":
        raise InputError(
            f"{card.label}: compares no visits, so it has no plain answer; take --model coactseg, or plain = false"
        )
    if recipe.grade and card.task == "longitudinal":
        raise InputError(f"{card.label}: cannot be graded, it finds changes without lesions; take a lesion model")
    load_model(read_card(OUTLINE_MODEL))
    check_output_folder(out)
    for visit in visits:
        check_results_folder(visit, out)


def _corrections(visits: Sequence[Subject], out: Path) -> list[Correction | None]:
    """The visits' manual corrections, checked."""
    corrections = [find_correction(visit, out) for visit in visits]
    for visit, correction in zip(visits, corrections, strict=True):
        if correction is not None:
            check_correction(correction, visit, out)
    return corrections


def _with_edit(visit: PreparedVisit, correction: Correction | None, out: Path) -> PreparedVisit:
    if correction is None:
        return visit
    found = visit.subject.output(out, LESIONS["mask"]).absolute()
    return replace(visit, edit=Edit(found, correction.mask))


def _correction_note(visit: Subject, correction: Correction | None) -> str:
    whose = f"the lesions of ses-{visit.session} were"
    if correction is not None:
        return f"{whose} corrected by hand: {correction.mask}"
    return f"{whose} not corrected: what was added or removed at another visit alone looks new or vanished"


def _prepare(visit: Subject, recipe: Recipe, out: Path, *, console: Console) -> PreparedVisit:
    """A visit segmented, or prepared for a model that compares images by itself."""
    if read_card(recipe.model).task == "longitudinal":
        return PreparedVisit(visit, preprocess_visit(visit, recipe, out, console=console), None)
    return PreparedVisit(visit, *segment_visit(visit, recipe, out, console=console))


def changes_text(visits: Sequence[Subject], changes: Changes) -> str:
    """Lesions at the later of two visits, those that overlap as one, and their changes since the earlier."""
    baseline, followup = visits
    lesions = sum(bool(row.followup_ids) for row in changes.rows)
    found = {"lesions": lesions, "volume_mm3": changes.summary["followup_mm3"]}
    became = counts_in_words(changes.summary["lesions"])
    return f"{lesions_text(found)} at ses-{followup.session}; since ses-{baseline.session}: {became}"


def find_visits(paths: Sequence[Path]) -> list[Subject]:
    """The visits of one patient, in the order given.

    Parameters
    ----------
    paths : sequence of Path
        Two or more folders or FLAIR files. The patient's name is the first visit's; sessions that have no name, or the
        same, are numbered.

    Raises
    ------
    InputError
        A single visit, a visit without FLAIR, the same file twice, or visits that are not in the order of their dates.
    """
    if len(paths) < 2:
        raise InputError("one visit is not enough; give a baseline and a follow-up, folders or FLAIR files")
    found = [subject_from_files(path) if Path(path).is_file() else find_subject(path) for path in paths]
    for one, other in ((a, b) for k, a in enumerate(found) for b in found[k + 1 :]):
        if one.contrasts["FLAIR"].resolve() == other.contrasts["FLAIR"].resolve():
            raise InputError(f"{one.contrasts['FLAIR']}: given as two visits; give the FLAIR of another visit")
    with without_doubts():
        known = [visit_date(visit.contrasts["FLAIR"]) for visit in found]
    for (earlier, later), dates in zip(pairwise(found), pairwise(known), strict=True):
        # Days are compared as far as both are known: one may come with its time.
        shared = min(map(len, dates))
        if dates[0][:shared] > dates[1][:shared]:
            raise InputError(
                f"{later.contrasts['FLAIR']}: taken on {dates[1]}, before {earlier.contrasts['FLAIR']} of {dates[0]}; "
                "give the visits in the order of time"
            )
    sessions = [visit.session for visit in found]
    if None in sessions or len(set(sessions)) < len(sessions):
        sessions = [f"{number:02d}" for number in range(1, len(found) + 1)]
    return [replace(visit, label=found[0].label, session=name) for visit, name in zip(found, sessions, strict=True)]


def years_between(visits: Sequence[Subject], given: Sequence[float] = ()) -> list[float | None]:
    """Years from each visit to the next: those given, or those between the dates beside the images.

    Returns
    -------
    list of float or None
        None where a date is not known to the day, or both are the same.

    Raises
    ------
    InputError
        Not one number of years for each step, or one that is less than a day or more than a life.
    """
    if given and (len(given) != len(visits) - 1 or not all(_is_plausible(years) for years in given)):
        raise InputError(
            f"--years {', '.join(f'{years:g}' for years in given)}: give one number of years for each step from visit "
            f"to visit, {len(visits) - 1} here, from a day (0.003) to {MAX_YEARS}"
        )
    if given:
        return list(given)
    return [years if years and _is_plausible(years) else None for years in _years_by_dates(visits)]


def _years_by_dates(visits: Sequence[Subject]) -> list[float | None]:
    with without_doubts():
        dates = [_day(visit_date(visit.contrasts["FLAIR"])) for visit in visits]
    return [
        None if earlier is None or later is None else (later - earlier).days / DAYS_A_YEAR
        for earlier, later in pairwise(dates)
    ]


def _is_plausible(years: float) -> bool:
    return 1 / 366 <= years <= MAX_YEARS


def remarks_on_dates(visits: Sequence[Subject], given: Sequence[float]) -> list[str]:
    """What is odd about the dates beside the images, for the expansion per year goes by them."""
    told = []
    for number, (pair, years) in enumerate(zip(pairwise(visits), _years_by_dates(visits), strict=True)):
        if years is None:
            continue
        names = " and ".join(f"ses-{visit.session}" for visit in pair)
        if years > MAX_YEARS:
            told.append(f"{names} are {years:.0f} years apart by their dates, which are not used")
        elif given and abs(given[number] - years) > max(MAX_YEARS_OFF, MAX_SHARE_OFF * years):
            told.append(f"--years {given[number]:g} is used; by their dates {names} are {years:.2f} years apart")
    return told


def _day(digits: str) -> date | None:
    try:
        return datetime.strptime(digits[:8], "%Y%m%d").date()
    except ValueError:
        return None


def check_visits(visits: Sequence[Subject]) -> list[str]:
    """Read every image, so that nothing is written for the first visit if the second cannot be used.

    Returns
    -------
    list of str
        Remarks to read before the results are trusted.

    Raises
    ------
    InputError
        An image cannot be used.
    """
    for visit in visits:
        read_subject(visit)
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always", Remark)
        for visit in visits:
            visit_date(visit.contrasts["FLAIR"])
    notes = list(dict.fromkeys(str(doubt.message) for doubt in doubts))
    patient, *others = (entity_of(visit.contrasts["FLAIR"], "sub") for visit in visits)
    for other in dict.fromkeys(others):
        if patient is not None and other is not None and patient != other:
            notes.append(f"sub-{patient} and sub-{other} are two patients by their names; compared as one")
    digests: dict[str, Path] = {}
    for flair in (visit.contrasts["FLAIR"] for visit in visits):
        first = digests.setdefault(sha256_of(flair), flair)
        if first is not flair:
            notes.append(f"{flair} is a copy of {first}, byte for byte: no change can be found between them")
    return notes


def visit_date(flair: Path) -> str:
    """When a FLAIR was taken, from its JSON sidecar or the session's ``*_scans.tsv``: digits of date and perhaps time.

    Empty if it is not known. The files are the user's and nothing but the order of visits and the time between them
    depends on them: one that cannot be read, and two that tell different days, cause a :class:`msrim.errors.Remark`.
    """
    by_sidecar, by_table = _date_of_sidecar(flair), _date_of_table(flair)
    if by_sidecar and by_table and by_sidecar[:8] != by_table[:8]:
        warnings.warn(
            f"{flair}: taken on {by_sidecar[:8]} by its sidecar and on {by_table[:8]} by the table of scans; "
            "the sidecar's date is used",
            Remark,
            stacklevel=2,
        )
    return by_sidecar or by_table


def _date_of_sidecar(flair: Path) -> str:
    sidecar = flair.with_name(re.sub(r"\.nii(\.gz)?$", ".json", flair.name, flags=re.IGNORECASE))
    if sidecar.is_file():
        try:
            content = json.loads(sidecar.read_text(encoding="utf-8-sig"))
            dates = [_digits(content.get(name)) for name in DATE_FIELDS]
        except UNREADABLE as error:
            _no_date(sidecar, error)
        else:
            if known := next(filter(None, dates), ""):
                return known
    return ""


def _date_of_table(flair: Path) -> str:
    tables = flair.parent.parent.glob("*_scans.tsv")
    for scans in sorted(path for path in tables if not path.name.startswith(".")):
        try:
            with scans.open(encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.DictReader(stream, delimiter="\t"))
        except (*UNREADABLE, csv.Error) as error:
            _no_date(scans, error)
            continue
        for row in rows:
            if Path(str(row.get("filename"))).name == flair.name and (known := _digits(row.get("acq_time"))):
                return known
    return ""


def _no_date(path: Path, error: Exception) -> None:
    warnings.warn(
        f"{path}: cannot be read ({' '.join(str(error).split())[:100]}), so the date of the visit is not known",
        Remark,
        stacklevel=3,
    )


def _digits(date: Any) -> str:
    """Digits of a date that begins with year, month and day; empty for anything else."""
    known = re.match(r"\s*(\d{4})[-:/.]?(\d{2})[-:/.]?(\d{2})", str(date))
    return re.sub(r"\D", "", str(date))[:14] if known else ""


def write_chain(visits: Sequence[Subject], changes: Sequence[Changes], out: Path, *, corrected: bool = False) -> Path:
    """One table of all visits, beside the folders of the pairs."""
    between = [
        (read_own(one.visits[1].instances), read_own(other.visits[0].instances)) for one, other in pairwise(changes)
    ]
    years = [each.summary.get("years") for each in changes]
    chain = chain_lesions([each.rows for each in changes], between, years=years)
    path = patient_file(visits[0], out, PATIENT["changes"], corrected=corrected)
    return write_chain_tsv(chain, path, visits=[f"ses-{visit.session}" for visit in visits])
