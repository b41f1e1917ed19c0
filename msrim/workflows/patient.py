"""One patient: whatever the images allow, and then the page that leads to all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from msrim.bids import find_qsm
from msrim.console import Console
from msrim.errors import InputError, MsrimError
from msrim.files import locked
from msrim.models.registry import LESION_TASKS, read_card
from msrim.recipe import Recipe
from msrim.workflows.anatomy import anatomy_cards
from msrim.workflows.cohort.tasks import (
    Task,
    Visit,
    copies_among,
    in_order,
    record_failure,
    tasks_of,
    visits_below,
)
from msrim.workflows.corrected import measure_corrected
from msrim.workflows.correction import find_correction
from msrim.workflows.inputs import check_visit
from msrim.workflows.longitudinal import find_visits, follow_visits
from msrim.workflows.patient_page import check_patient_page, summarise_patient
from msrim.workflows.rims import RimInputs, check_rims, classify_rims
from msrim.workflows.segment import check_finds_lesions, segment_subject

WAITING = "not run: a step before it failed or has not ended"


def find_patients(paths: Sequence[Path]) -> list[list[Visit]]:
    """Visits by patient, each patient's in the order of time.

    Parameters
    ----------
    paths : sequence of Path
        Folders of patients (with ``ses-*`` folders inside, or of one visit) and of single visits.

    Raises
    ------
    InputError
        No such folder, no visit with a FLAIR, a visit given twice, or several of one patient that have no names.
    """
    visits = [visit for path in paths for visit in visits_below(Path(path).absolute())]
    seen: dict[tuple[str, str | None], Visit] = {}
    for visit in visits:
        first = seen.setdefault((visit.participant, visit.session), visit)
        if first is not visit:
            name = f"sub-{visit.participant}" + (f" ses-{visit.session}" if visit.session else "")
            raise InputError(
                f"{visit.folder}: is {name}, as {first.folder} is; give each visit once, and visits of one patient in "
                "folders ses-1, ses-2 and so on of one folder"
            )
    by_patient = sorted(visits, key=lambda visit: visit.participant)
    patients = [in_order(list(own)) for _, own in groupby(by_patient, key=lambda visit: visit.participant)]
    for own in patients:
        if len(own) > 1 and (nameless := [visit.folder for visit in own if visit.session is None]):
            raise InputError(f"{nameless[0]}: a visit without a session beside others of the patient; name it ses-*")
    return patients


def run_patients(
    patients: Sequence[Sequence[Visit]], recipe: Recipe, out: Path, *, console: Console, rim_model: str = "datrnet"
) -> list[Path]:
    """Segment every visit, classify its rims where there is a QSM, compare the visits, and write a page per patient.

    A step that fails stops those that need it and no others; the page names it.

    Parameters
    ----------
    patients : sequence of sequences of Visit
        Of :func:`find_patients`.
    recipe : Recipe
    out : Path
        Folder of the derivative dataset.
    console : Console
    rim_model : str
        For visits with a QSM.

    Returns
    -------
    list of Path
        The pages.

    Raises
    ------
    MsrimError
        An input cannot be used, and nothing has been written; or a step failed after the others were done.
    """
    out = Path(out).absolute()
    for visits in patients:
        check_patient(visits, recipe, out, rim_model=rim_model)
    for copy in copies_among([visit for visits in patients for visit in visits]):
        console.note(copy)
    pages, failed = [], []
    for visits in patients:
        with locked(out / "work" / f"sub-{visits[0].participant}"):
            failed += run_patient(visits, recipe, out, rim_model=rim_model, console=console)
            report = summarise_patient(visits, out)
        if report is not None:
            console.result(f"{report.subject}: {report.headline}", doubts=report.doubts)
            console.say(f"page: {report.page}")
            pages.append(report.page)
    for reason in failed[1:]:
        console.note(reason)
    if failed:
        steps = sum(len(tasks_of(visits)) for visits in patients)
        others = ", the others are done" if steps > len(failed) else ""
        raise MsrimError(f"{len(failed)} of {steps} steps failed{others}; {failed[0]}")
    return pages


def run_patient(visits: Sequence[Visit], recipe: Recipe, out: Path, *, rim_model: str, console: Console) -> list[str]:
    """Run every task of a patient but those that need one that failed; return why tasks failed."""
    failed: dict[Task, str] = {}
    for task, own in tasks_of(visits):
        needed = [Task("segment", visit.participant, visit.session) for visit in own]
        if any(need in failed for need in needed):
            failed[task] = f"{task.name}: {WAITING}"
            record_failure(task, out, WAITING)
            continue
        visit = own[0].name if len(own) == 1 and own[0].session else f"sub-{task.participant}"
        try:
            with console.part(visit):
                do_task(task, own, recipe, out, rim_model=rim_model, console=console)
        except MsrimError as error:
            failed[task] = f"{task.name}: {error}"
    return list(failed.values())


def check_patient(visits: Sequence[Visit], recipe: Recipe, out: Path, *, rim_model: str) -> None:
    """Whatever can be known to be wrong with a patient before the first file is written."""
    card = read_card(recipe.model)
    check_finds_lesions(card, LESION_TASKS)
    check_patient_page(visits[0], out)
    for visit in visits:
        subject = visit.subject()
        check_visit(subject, recipe, out, cards=[*card.single, *anatomy_cards()])
        if visit.has_qsm():
            check_rims(subject, RimInputs(find_qsm(visit.folder)), out, model=rim_model)
    if len(visits) > 1:
        find_visits([visit.folder for visit in visits])


def do_task(
    task: Task, visits: Sequence[Visit], recipe: Recipe, out: Path, *, rim_model: str, console: Console
) -> None:
    """Run one workflow; where it fails the reason is left for the page and for the group's tables.

    Raises
    ------
    MsrimError
        As the workflow does.
    """
    # Stays if this process is killed.
    record_failure(task, out, "did not end: killed, out of memory or disk, or still at work")
    try:
        if task.step == "segment":
            subject = visits[0].subject()
            segment_subject(subject, recipe, out, console=console)
            if (correction := find_correction(subject, out)) is not None:
                measure_corrected(subject, recipe, out, correction.mask, console=console)
        elif task.step == "rims":
            qsm = find_qsm(visits[0].folder)
            classify_rims(visits[0].subject(), RimInputs(qsm), recipe, out, console=console, model=rim_model)
        else:
            named = find_visits([visit.folder for visit in visits])
            subjects = [
                replace(subject, label=visit.participant, session=visit.session)
                for subject, visit in zip(named, visits, strict=True)
            ]
            follow_visits(subjects, recipe, out, console=console)
    except MsrimError as error:
        record_failure(task, out, str(error))
        raise
    except Exception as error:
        record_failure(task, out, f"{type(error).__name__}: {error} (a bug of msrim; its traceback is in logs/)")
        raise
    task.reason_file(out).unlink(missing_ok=True)
