"""The results of two visits of one patient: tables, masks, report and run.json of what changed between them.

:func:`compare_visits` calls the steps in order; how changes are decided is
:mod:`msrim.workflows.changes`.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from msrim.bids import (
    COMPARED_VISIT,
    NEW_AT_FOLLOWUP,
    PAIR,
    RIM_FOLDER,
    RIMS,
    VANISHED_AT_BASELINE,
    Subject,
    pair_folder,
    write_dataset_description,
)
from msrim.console import Console
from msrim.errors import Doubt
from msrim.files import write_json
from msrim.image import Volume, labels_on_grid, read_volume, resample, write_volume
from msrim.lesions.change import difference_z
from msrim.lesions.measure import LESION_COLUMNS, measure_lesions, write_lesions_tsv
from msrim.lesions.track import (
    CHANGE_COLUMNS,
    TrackedLesion,
    changed_parts,
    numbered_as_rows,
    summarise_changes,
    with_change,
    write_changes_tsv,
)
from msrim.models.registry import THIN_SLICES_MM, Card, read_card
from msrim.recipe import Recipe
from msrim.report.longitudinal import ChangeReport, write_change_report
from msrim.results import doubts_of
from msrim.transform import read_transform, write_transform
from msrim.workflows.anatomy import AnatomyFiles, read_mask, read_own
from msrim.workflows.change_grade import grade_pair
from msrim.workflows.changes import (
    VISITS,
    Comparison,
    Deformation,
    Pair,
    PreparedVisit,
    change_method,
    compare_pair,
    correct_tissue,
    each,
    tracked_lesions,
    with_expansion,
)
from msrim.workflows.plan import change_steps
from msrim.workflows.run import Run, files_in


@dataclass(frozen=True)
class ClassifiedRims:
    """Results of `msrim rim-classify` of a visit: its table, and the numbered lesions on the grid of the FLAIR."""

    table: Path
    instances: Path


@dataclass(frozen=True)
class VisitFiles:
    """Result files of one visit of the pair, on the grid of that visit's FLAIR.

    Attributes
    ----------
    instances, table : Path
        Lesions, with their changes.
    changed, changed_sidecar : Path
        Mask of the tissue that the other visit does not have.
    midway, transform : Path
        The FLAIR half way between the visits, and the transform to it.
    """

    instances: Path
    table: Path
    changed: Path
    changed_sidecar: Path
    midway: Path
    transform: Path


@dataclass(frozen=True)
class PairFiles:
    """Result files of both visits together."""

    changes: Path
    changes_columns: Path
    table_columns: Path
    summary: Path
    tracked: Path
    difference: Path
    difference_t2w: Path | None
    log_jacobian: Path | None = None


@dataclass(frozen=True)
class Changes:
    """Changes between two visits: the files, the rows of the change table, and the summary."""

    visits: Pair[VisitFiles]
    files: PairFiles
    rows: list[TrackedLesion]
    summary: dict[str, Any]


@dataclass(frozen=True)
class ComparedVisit:
    """Inputs for the results of a visit of the pair; ``rims`` where they were classified."""

    subject: Subject
    anatomy: AnatomyFiles
    rims: ClassifiedRims | None


def compare_visits(
    visits: Pair[PreparedVisit],
    recipe: Recipe,
    out: Path,
    *,
    remarks: Sequence[str],
    console: Console,
    corrected: bool = False,
    years: float | None = None,
) -> Changes:
    """Find what changed between two visits, and write tables, masks, report and run.json.

    Parameters
    ----------
    visits : pair of PreparedVisit
    recipe : Recipe
        With a lesion model, whose lesions are given; or a model that compares visits.
    out : Path
        Folder of the derivative dataset.
    remarks : sequence of str
        Remarks on the visits for run.json.
    console : Console
    corrected : bool
        With manual corrections; the results go to a folder of their own.
    years : float or None
        Between the visits, for the expansion per year.
    """
    card = read_card(recipe.model)
    subjects = (visits[0].subject, visits[1].subject)
    folder = pair_folder(*subjects, out, corrected=corrected)
    method = _method(visits, recipe, card=card)
    run = Run(
        folder,
        console,
        recipe=recipe.model_dump() | {"change_method": method},
        inputs=_inputs(visits),
        remarks=remarks,
        steps=change_steps(recipe, corrected=corrected),
        work=pair_folder(*subjects, out) / "work",
    )
    with run:
        # Of the visits: the way half between them is msrim's own.
        run.prepared_by(recipe.backend)
        classes = each(lambda visit: visit.anatomy.files.tissue, visits)
        found = compare_pair(visits, recipe, run, card=card, classes=classes, years=years)
        grade = grade_pair(visits, found, recipe, run, card=card, folder=folder) if recipe.grade else None
        if corrected:
            edits = (visits[0].edit, visits[1].edit)
            found = replace(found, tissue=run(correct_tissue, found.midway, tissue=found.tissue, edits=edits))
        changes = run.step(
            "write_corrected_changes" if corrected else "write_changes",
            write_changes,
            found,
            visits=(_compared(visits[0], out), _compared(visits[1], out)),
            min_lesion_mm3=recipe.min_lesion_mm3,
            method=method,
            folder=folder,
            grade=None if grade is None else grade.summary,
        )
        if not run.is_finished:
            console.started("write page")
            page = write_change_report(_report(visits, found, changes, recipe, run, card=card), folder / "report.html")
            write_dataset_description(out)
            run.write_manifest([*files_in([changes.visits, changes.files, grade]), page])
    return changes


def _inputs(visits: Pair[PreparedVisit]) -> dict[str, Path]:
    """The files of both visits, by names for run.json."""
    named = list(zip(VISITS, visits, strict=True))
    images = {f"{name} {contrast}": path for name, visit in named for contrast, path in visit.subject.contrasts.items()}
    return images | {f"{name} lesions": visit.edit.corrected for name, visit in named if visit.edit}


def _method(visits: Pair[PreparedVisit], recipe: Recipe, *, card: Card) -> str:
    """How changes are decided, with the visits whose lesions were corrected."""
    method = change_method(card, visits, plain=recipe.plain)
    if names := " and ".join(f"ses-{visit.subject.session}" for visit in visits if visit.edit):
        method += f"; then what was corrected by hand in the lesions of {names}"
    return method


def _compared(visit: PreparedVisit, out: Path) -> ComparedVisit:
    return ComparedVisit(visit.subject, visit.anatomy.files, _rims_of(visit.subject, out))


def _rims_of(subject: Subject, out: Path) -> ClassifiedRims | None:
    """Results of `msrim rim-classify` of a visit, where there are such."""
    folder = subject.folder(out) / RIM_FOLDER
    files = ClassifiedRims(subject.below(folder, RIMS["table"]), subject.below(folder, RIMS["instances"]))
    return files if files.table.is_file() and files.instances.is_file() else None


def write_changes(
    found: Comparison,
    *,
    visits: Pair[ComparedVisit],
    min_lesion_mm3: float,
    method: str,
    folder: Path,
    grade: dict[str, Any] | None = None,
) -> Changes:
    """Track every lesion and write the results; the grade goes to the summary."""
    midway, tissue = found.midway, found.tissue
    instances, rows = tracked_lesions(midway, tissue, min_mm3=min_lesion_mm3)
    trusted = False
    if found.deformation is not None:
        labels = (visits[0].anatomy.labels, visits[1].anatomy.labels)
        rows, trusted = with_expansion(rows, found.deformation, instances=instances, midway=midway, labels=labels)
        _warn_of_slices(found.deformation)
    baseline, followup = (
        labels_on_grid(
            lesions,
            read_volume(visit.subject.contrasts["FLAIR"]),
            target_from_source=np.linalg.inv(read_transform(transform)),
        )
        for lesions, visit, transform in zip(instances, visits, midway.transforms, strict=True)
    )
    rows = _with_rims(rows, (baseline, followup), (visits[0].rims, visits[1].rims))
    changed = changed_parts(rows, instances, new=read_mask(tissue.new), vanished=read_mask(tissue.vanished))
    written = []
    for which, own in enumerate((baseline, followup)):
        lesions = _VisitLesions(
            own,
            changed=changed[which],
            probability=read_own(tissue.probabilities[which]),
            image=read_own(found.matched.flairs[which]),
            from_flair=read_transform(midway.transforms[which]),
        )
        written.append(_write_visit(which, visits[which], lesions, rows, method=method, folder=folder))
    summary = _summary(rows, found, method=method, trusted=trusted) | ({} if grade is None else {"grade": grade})
    files = _write_pair_files(visits[0].subject.label, rows, summary, found, instances=instances, folder=folder)
    return Changes((written[0], written[1]), files, rows, summary)


def _warn_of_slices(deformation: Deformation) -> None:
    """A deformation between thick slices finds too little, which reads like lesions that do not expand."""
    if deformation.slice_mm > THIN_SLICES_MM:
        warnings.warn(
            f"expansion between slices of {deformation.slice_mm:.3g} mm is underestimated: in one patient with slices "
            "of 3 mm it showed half of the growth of lesions and of the loss of brain, and 1 of 6 slowly expanding "
            "lesions (simulated); --grade measures it on this scan",
            Doubt,
            stacklevel=2,
        )


def _summary(rows: list[TrackedLesion], found: Comparison, *, method: str, trusted: bool) -> dict[str, Any]:
    """Counts and volumes, quality of the registration, and figures of the deformation where it is ``trusted``."""
    summary = {**summarise_changes(rows), **found.midway.quality, "method": method}
    if found.deformation is not None:
        candidates = [row.sel_candidate for row in rows if row.sel_candidate is not None]
        known = trusted and found.deformation.years is not None
        summary |= {"years": found.deformation.years, "sel_candidates": sum(candidates) if known else None}
        summary |= {name: value if trusted else None for name, value in found.deformation.brain.items()}
    return summary


@dataclass(frozen=True, eq=False)
class _VisitLesions:
    """The lesions of one visit, on its own grid and on the midway grid.

    Attributes
    ----------
    own : Volume of int
        On the grid of the visit's FLAIR, by number.
    changed : Volume of int
        Their new or vanished parts on the midway grid, by number.
    probability, image : Volume
        Of lesion, and the matched FLAIR, on the midway grid.
    from_flair : (4, 4) float
        Midway from the visit's FLAIR, RAS mm.
    """

    own: Volume
    changed: Volume
    probability: Volume
    image: Volume
    from_flair: np.ndarray


def _write_visit(
    which: int, visit: ComparedVisit, lesions: _VisitLesions, rows: list[TrackedLesion], *, method: str, folder: Path
) -> VisitFiles:
    """Write the results of one visit: 0 is the baseline, 1 the follow-up."""
    target = read_volume(visit.subject.contrasts["FLAIR"])
    moved = np.linalg.inv(lesions.from_flair)
    # Changed tissue keeps its lesion's number until it lies on the visit's grid, so that none is lost.
    part = labels_on_grid(lesions.changed, target, target_from_source=moved)
    probability = resample(lesions.probability, target, target_from_source=moved)
    measured = measure_lesions(lesions.own, probability=probability, labels=read_own(visit.anatomy.labels))
    suffixes = COMPARED_VISIT | (VANISHED_AT_BASELINE, NEW_AT_FOLLOWUP)[which]
    names = {key: visit.subject.below(folder, suffix) for key, suffix in suffixes.items()}
    description = f"{('Vanished', 'New')[which]} tissue"
    sidecar = {"Type": "Lesion", "Manual": False, "Description": description, "Method": method}
    return VisitFiles(
        instances=write_volume(lesions.own, names["instances"]),
        table=write_lesions_tsv([with_change(lesion, rows, VISITS[which]) for lesion in measured], names["table"]),
        changed=write_volume(target.like(part.data > 0), names["changed"]),
        changed_sidecar=write_json(sidecar, names["changed_sidecar"]),
        midway=write_volume(lesions.image, names["midway"]),
        transform=write_transform(lesions.from_flair, names["transform"]),
    )


def _write_pair_files(
    label: str,
    rows: list[TrackedLesion],
    summary: dict[str, Any],
    found: Comparison,
    *,
    instances: Pair[Volume],
    folder: Path,
) -> PairFiles:
    """Write the results of both visits together, for the patient of a label."""
    patient, brain = Subject(label, None, {}), read_mask(found.midway.brain)
    names = {key: patient.below(folder, suffix) for key, suffix in PAIR.items()}
    difference_t2w = log_jacobian = None
    if found.matched.t2w is not None:
        t2w = each(read_own, found.matched.t2w)
        seen = brain.like((t2w[0].data != 0) & (t2w[1].data != 0))
        difference_t2w = write_volume(difference_z(*t2w, brain=seen), names["difference_t2w"])
    if found.deformation is not None:
        log_jacobian = write_volume(read_own(found.deformation.log_jacobian), names["log_jacobian"])
    difference = difference_z(*each(read_own, found.matched.flairs), brain=brain)
    return PairFiles(
        changes=write_changes_tsv(rows, names["changes"]),
        changes_columns=write_json(CHANGE_COLUMNS, names["changes_columns"]),
        table_columns=write_json(LESION_COLUMNS, names["table_columns"]),
        summary=write_json(summary, names["summary"]),
        tracked=write_volume(numbered_as_rows(rows, instances), names["tracked"]),
        difference=write_volume(difference, names["difference"]),
        difference_t2w=difference_t2w,
        log_jacobian=log_jacobian,
    )


def _with_rims(rows: list[TrackedLesion], own: Pair[Volume], rims: Pair[ClassifiedRims | None]) -> list[TrackedLesion]:
    """The rows with the highest rim probability of what lies in each lesion, at the visits whose rims were assessed."""
    highest: dict[int, float] = {}
    for lesions, files, ids in zip(own, rims, ("baseline_ids", "followup_ids"), strict=True):
        if files is None:
            continue
        with files.table.open(encoding="utf-8") as stream:
            probabilities = {
                int(row["id"]): float(row["rim_probability"])
                for row in csv.DictReader(stream, delimiter="\t")
                if row["rim_probability"] != "n/a"
            }
        shared = np.stack([lesions.data.ravel(), read_own(files.instances).data.ravel()]).astype(int)
        pairs = np.unique(shared[:, (shared > 0).all(axis=0)], axis=1).T.tolist()
        for row in rows:
            own = getattr(row, ids)
            values = [probabilities[rim] for number, rim in pairs if number in own and rim in probabilities]
            if values:
                highest[row.id] = max([*values, highest.get(row.id, 0.0)])
    return [replace(row, rim_probability=highest.get(row.id)) for row in rows]


def _report(
    visits: Pair[PreparedVisit], found: Comparison, changes: Changes, recipe: Recipe, run: Run, *, card: Card
) -> ChangeReport:
    """Content of the pair's page."""
    baseline, followup = visits
    midway, tissue = found.midway, found.tissue
    differences = {"FLAIR": changes.files.difference, "T2w": changes.files.difference_t2w}
    mni_from_followup = read_transform(followup.anatomy.to_mni)
    folders = [run.folder.parent / f"ses-{visit.subject.session}" for visit in visits]
    return ChangeReport(
        **run.manifest.provenance(f"sub-{baseline.subject.label}", recipe=recipe.as_toml(), doubts=doubts_of(*folders)),
        sessions=(f"ses-{baseline.subject.session}", f"ses-{followup.subject.session}"),
        method=changes.summary["method"],
        model_limits=card.limits,
        images=(read_own(changes.visits[0].midway), read_own(changes.visits[1].midway)),
        differences={name: read_own(path) for name, path in differences.items() if path is not None},
        brain=read_mask(midway.brain),
        tracked=read_own(changes.files.tracked),
        lesions=each(read_mask, tissue.lesions),
        new=read_mask(tissue.new),
        vanished=read_mask(tissue.vanished),
        mni_from_midway=mni_from_followup @ np.linalg.inv(read_transform(midway.transforms[1])),
        rows=changes.rows,
        summary=changes.summary,
    )
