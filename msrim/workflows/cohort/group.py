"""The level ``group`` of a cohort: tables over all visits, and one page that leads to every report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from msrim.bids import (
    ANATOMY,
    CORRECTED_FOLDER,
    LESIONS,
    PAIR,
    RIM_FOLDER,
    RIMS,
    Subject,
    pair_folder,
    patient_page,
    transform_name,
)
from msrim.console import Console
from msrim.errors import InputError, OutputError
from msrim.files import write_tsv
from msrim.image import Volume, read_volume, same_grid
from msrim.lesions.track import CHANGES
from msrim.preprocess.identity import on_template, same_brain, same_brains
from msrim.report.cohort import Change, Overview, Row, mark_outliers, write_overview
from msrim.results import read_json
from msrim.transform import read_transform
from msrim.workflows.cohort.tasks import MISNAMED, Task, Visit, by_names, failure_reason, tasks_of
from msrim.workflows.correction import find_correction
from msrim.workflows.inputs import check_output_folder
from msrim.workflows.patient_page import check_patient_page, write_pages

PAIR_COLUMNS = ["participant_id", "baseline_id", "followup_id", *CHANGES, "baseline_ml", "followup_ml"]
STEP_COLUMNS = ["participant_id", "session_id", "workflow", "step", "seconds", "peak_mib"]


def summarise_group(visits: Sequence[Visit], out: Path, *, console: Console) -> Path:
    """Write ``cohort.tsv``, ``cohort_changes.tsv``, ``cohort_steps.tsv`` and ``cohort.html``.

    Visits of two patients that show the same brain are told, in the table and on the page's top.

    Parameters
    ----------
    visits : sequence of Visit
        Of :func:`msrim.workflows.cohort.tasks.find_cohort`; those without results are listed with the reason.
    out : Path
        Folder of the derivative dataset.
    console : Console

    Returns
    -------
    Path
        The page.

    Raises
    ------
    OutputError
        The folder cannot be written to.
    """
    out = Path(out).absolute()
    check_output_folder(out)
    visits, misnamed = by_names(visits)
    for visit in visits:
        check_patient_page(visit, out)
    write_pages(visits, out, console=console)
    rows, changes, steps = [], [], []
    of_patient = {task.participant: task for task, _ in tasks_of(visits) if task.step == "longitudinal"}
    for visit in visits:
        folder = visit.results(out)
        try:
            rows.append(_row(visit, out, longitudinal=of_patient.get(visit.participant)))
        except OutputError as error:
            rows.append(Row(f"sub-{visit.participant}", visit.name or None, "failed", reason=str(error)))
            continue
        steps += _costs(visit.participant, visit.session, "segment", folder)
        steps += _costs(visit.participant, visit.session, "rims", folder / RIM_FOLDER)
        steps += _costs(visit.participant, visit.session, "rims corrected", folder / CORRECTED_FOLDER / RIM_FOLDER)
    for participant, task in of_patient.items():
        if failure_reason(task, out) is None:
            own = [visit for visit in visits if visit.participant == participant]
            corrected = any(find_correction(visit.named(), out) for visit in own)
            for one, other in pairwise(own):
                folder = pair_folder(one.named(), other.named(), out, corrected=corrected)
                if (folder / "run.json").is_file():
                    changes.append(_change(one, other, folder, out))
                    steps += _costs(participant, f"{one.session}_to_{other.session}", "longitudinal", folder)
    for visit in misnamed:
        rows.append(Row(f"sub-{visit.participant}", visit.name or None, "failed", reason=f"left out: {MISNAMED}"))
    rows, doubts = _told_of_doubles(mark_outliers(rows), _same_brains(visits, out, console=console))
    for doubt in doubts:
        console.note(doubt)
    write_tsv([row.cells() for row in rows], out / "cohort.tsv", columns=Row.columns())
    change_rows = [
        [c.participant_id, c.baseline_id, c.followup_id, *c.lesions.values(), c.baseline_ml, c.followup_ml]
        for c in changes
    ]
    write_tsv(change_rows, out / "cohort_changes.tsv", columns=PAIR_COLUMNS)
    write_tsv(steps, out / "cohort_steps.tsv", columns=STEP_COLUMNS)
    failed = sum(row.reason is not None for row in rows)
    console.say(
        f"{len(rows)} visits, {failed} with a step that failed, {sum(bool(row.outlier) for row in rows)} marked"
    )
    return write_overview(Overview(rows, changes, steps, doubts), out / "cohort.html")


def _same_brains(visits: Sequence[Visit], out: Path, *, console: Console) -> list[tuple[Visit, Visit, float]]:
    """Visits of two patients whose FLAIRs show one brain, and how much these are alike.

    Those of one patient are `msrim longitudinal`'s to compare, registered to one another.
    """
    if len({visit.participant for visit in visits}) < 2:
        return []
    console.say(f"comparing the brains of {len(visits)} visits")
    named, seen = {}, {}
    for visit in visits:
        try:
            sulci_and_brain = _on_template(visit, out)
        except (InputError, OutputError):
            # Not segmented, which its row says.
            continue
        named[_name(visit)], seen[_name(visit)] = visit, sulci_and_brain
    pairs = [(named[one], named[other], alike) for one, other, alike in same_brains(seen)]
    return [(one, other, alike) for one, other, alike in pairs if one.participant != other.participant]


def _on_template(visit: Visit, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """The FLAIR's sulci and brain, as :func:`msrim.preprocess.identity.on_template` has them."""
    flair = read_volume(visit.subject().contrasts["FLAIR"])
    brain = read_volume(visit.named().output(out, ANATOMY["brain"]), mask=True, filling=True)
    if not same_grid(flair, brain):
        raise InputError(f"{visit.folder}: its FLAIR is not the one of the results; run it again")
    to_mni = read_transform(visit.named().output(out, transform_name("FLAIR")))
    return on_template(Volume(flair.data, to_mni @ flair.affine), brain.data)


def _told_of_doubles(rows: Sequence[Row], pairs: Sequence[tuple[Visit, Visit, float]]) -> tuple[list[Row], list[str]]:
    """The rows, each with the visits that show its brain; and a sentence for every two patients."""
    beside: dict[str, list[str]] = {}
    of_patients: dict[tuple[str, str], list[tuple[float, str, str]]] = {}
    for one, other, alike in pairs:
        beside.setdefault(_name(one), []).append(_name(other))
        beside.setdefault(_name(other), []).append(_name(one))
        of_patients.setdefault((one.participant, other.participant), []).append((alike, _name(one), _name(other)))
    doubts = [
        f"{same_brain(one, other, alike)}: one patient under two names, or a visit in another patient's folder"
        for alike, one, other in map(max, of_patients.values())
    ]
    told = [replace(row, same_brain_as=", ".join(beside.get(row.name, ()))) for row in rows]
    return told, doubts


def _name(visit: Visit) -> str:
    return f"sub-{visit.participant} {visit.name}".strip()


def _row(visit: Visit, out: Path, *, longitudinal: Task | None) -> Row:
    subject, folder = visit.named(), visit.results(out)
    corrected = find_correction(subject, out) is not None
    # Of corrected lesions, where there are such.
    shown = folder / CORRECTED_FOLDER if corrected else folder
    reasons = _failures(visit, out, shown=shown, longitudinal=longitudinal)
    states = {step: "failed" if reason else "done" for step, reason in reasons.items()}
    figures = {}
    if states["segment"] == "done":
        figures = _lesion_figures(subject, out, summary=subject.below(shown, LESIONS["summary"]))
    if states.get("rims") == "done":
        rims = read_json(subject.below(shown / RIM_FOLDER, RIMS["summary"]))
        # Results of earlier versions do not tell possible ones.
        figures |= {"rim_lesions": rims["rim_lesions"], "rim_possible": rims.get("rim_possible")}
    reports = {
        "patient": patient_page(subject, out),
        "lesions": folder / "report.html",
        **({"corrected": shown / "report.html"} if corrected else {}),
        "rims": shown / RIM_FOLDER / "report.html",
    }
    return Row(
        participant_id=f"sub-{visit.participant}",
        session_id=f"ses-{visit.session}" if visit.session else None,
        segment=states["segment"],
        rims=states.get("rims"),
        longitudinal=states.get("longitudinal"),
        reason=next((f"{step}: {reason}" for step, reason in reasons.items() if reason), None),
        reports={name: path.relative_to(out).as_posix() for name, path in reports.items() if path.is_file()},
        **figures,
    )


def _failures(visit: Visit, out: Path, *, shown: Path, longitudinal: Task | None) -> dict[str, str | None]:
    """By step that the visit's images allow, why it has no results; None where it has."""
    tasks = {"segment": Task("segment", visit.participant, visit.session)}
    if visit.has_qsm():
        tasks["rims"] = Task("rims", visit.participant, visit.session)
    if longitudinal is not None:
        tasks["longitudinal"] = longitudinal
    done = {
        "segment": (shown / "run.json").is_file(),
        "rims": (shown / RIM_FOLDER / "run.json").is_file(),
        "longitudinal": any((out / f"sub-{visit.participant}").glob("ses-*_to_ses-*/run.json")),
    }
    return {step: failure_reason(task, out) or (None if done[step] else "not run") for step, task in tasks.items()}


def _lesion_figures(subject: Subject, out: Path, *, summary: Path) -> dict[str, Any]:
    totals = read_json(summary)
    brain = read_volume(subject.output(out, ANATOMY["brain"]), mask=True, filling=True)
    run = read_json(subject.folder(out) / "run.json")
    return {
        "brain_ml": round(float(brain.data.sum() * brain.voxel_volume_mm3) / 1000, 1),
        "lesions": totals["lesions"],
        "lesion_ml": round(totals["volume_mm3"] / 1000, 3),
        "seconds": round(sum(step["seconds"] for step in run["steps"]), 1),
        "peak_mib": max((step["peak_mib"] for step in run["steps"] if step["peak_mib"]), default=None),
    }


def _change(one: Visit, other: Visit, folder: Path, out: Path) -> Change:
    summary = read_json(Subject(one.participant, None, {}).below(folder, PAIR["summary"]))
    report = folder / "report.html"
    return Change(
        participant_id=f"sub-{one.participant}",
        baseline_id=f"ses-{one.session}",
        followup_id=f"ses-{other.session}",
        lesions={name: summary["lesions"][name] for name in CHANGES},
        baseline_ml=round(summary["baseline_mm3"] / 1000, 3),
        followup_ml=round(summary["followup_mm3"] / 1000, 3),
        report=report.relative_to(out).as_posix(),
    )


def _costs(participant: str, session: str | None, workflow: str, folder: Path) -> list[list[Any]]:
    """Time and memory of every step of a workflow, in the run that did it."""
    path = folder / "run.json"
    steps = read_json(path)["steps"] if path.is_file() else []
    session = f"ses-{session}".replace("_to_", "_to_ses-") if session else None
    return [
        [f"sub-{participant}", session, workflow, step["name"], step["seconds"], step["peak_mib"]] for step in steps
    ]
