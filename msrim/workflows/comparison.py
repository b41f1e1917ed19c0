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
from msrim.errors import Fallback
from msrim.files import write_json
from msrim.image import Volume, labels_on_grid, read_volume, resample, write_volume
from msrim.labels import WHITE_MATTER
from msrim.lesions.change import difference_z
from msrim.lesions.expansion import lesion_expansions
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
from msrim.models.registry import Card
from msrim.recipe import Recipe
from msrim.report.longitudinal import ChangeReport, write_change_report
from msrim.results import doubts_of
from msrim.transform import read_transform, write_transform
from msrim.workflows.anatomy import AnatomyFiles, read_mask, read_own
from msrim.workflows.change_grade import grade_pair
from msrim.workflows.changes import (
    VISITS,
    Deformation,
    Matched,
    Midway,
    Pair,
    PreparedVisit,
    Tissue,
    change_method,
    contrast_of,
    correct_tissue,
    decide,
    deform,
    each,
    register_to_midway,
    tracked_lesions,
)
from msrim.workflows.plan import change_steps
from msrim.workflows.run import Run, files_in


@dataclass(frozen=True)
class RimFiles:
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


def compare_visits(
    visits: Pair[PreparedVisit],
    recipe: Recipe,
    out: Path,
    *,
    card: Card,
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
    out : Path
        Folder of the derivative dataset.
    card : Card
        Of a lesion model, whose lesions are given; or of a model that compares visits.
    remarks : sequence of str
        Remarks on the visits for run.json.
    console : Console
    corrected : bool
        With manual corrections; the results go to a folder of their own.
    years : float or None
        Between the visits, for the expansion per year.
    """
    baseline, followup = visits
    found_folder = pair_folder(baseline.subject, followup.subject, out)
    folder = pair_folder(baseline.subject, followup.subject, out, corrected=corrected)
    inputs = {
        f"{name} {contrast}": path
        for name, visit in zip(VISITS, visits, strict=True)
        for contrast, path in visit.subject.contrasts.items()
    }
    method = change_method(card, visits, plain=recipe.plain)
    if corrected:
        inputs |= {
            f"{name} lesions": visit.edit.corrected for name, visit in zip(VISITS, visits, strict=True) if visit.edit
        }
        names = " and ".join(f"ses-{visit.subject.session}" for visit in visits if visit.edit)
        method += f"; then what was corrected by hand in the lesions of {names}"
    settings = recipe.model_dump() | {"change_method": method}
    run = Run(
        folder,
        console,
        recipe=settings,
        inputs=inputs,
        remarks=remarks,
        steps=change_steps(recipe, corrected=corrected),
        work=found_folder / "work",
    )
    with run:
        # Of the visits: the way half between them is msrim's own.
        run.prepared_by(recipe.backend)
        midway = run(
            register_to_midway,
            (baseline.anatomy.corrected["FLAIR"], followup.anatomy.corrected["FLAIR"]),
            brains=(baseline.anatomy.brain, followup.anatomy.brain),
            to_mni=(baseline.anatomy.to_mni, followup.anatomy.to_mni),
        )
        tissue, matched = decide(visits, midway, recipe, run, card=card)
        deformation = None
        if recipe.expansion:
            deformation = run(
                deform,
                midway,
                matched=matched,
                lesions=tissue.lesions,
                t1w=contrast_of(visits, "T1w"),
                classes=(baseline.anatomy.files.tissue, followup.anatomy.files.tissue),
                years=years,
            )
        grade = None
        if recipe.grade:
            grade = grade_pair(visits, midway, matched, recipe, run, card=card, folder=folder)
        if corrected:
            tissue = run(correct_tissue, midway, tissue=tissue, edits=(baseline.edit, followup.edit))
        changes = run.step(
            "write_corrected_changes" if corrected else "write_changes",
            write_changes,
            midway,
            matched=matched,
            tissue=tissue,
            deformation=deformation,
            rims=(_rims_of(baseline.subject, out), _rims_of(followup.subject, out)),
            grade=None if grade is None else grade.summary,
            subjects=(baseline.subject, followup.subject),
            anatomies=(baseline.anatomy.files, followup.anatomy.files),
            min_lesion_mm3=recipe.min_lesion_mm3,
            method=method,
            folder=folder,
        )
        if not run.is_finished:
            console.started("write page")
            report = _report(visits, midway, tissue, changes, recipe, run, card=card)
            page = write_change_report(report, folder / "report.html")
            write_dataset_description(out)
            run.write_manifest([*files_in([changes.visits, changes.files, grade]), page])
    return changes


def _rims_of(subject: Subject, out: Path) -> RimFiles | None:
    """Results of `msrim rim-classify` of a visit, where there are such."""
    folder = subject.folder(out) / RIM_FOLDER
    files = RimFiles(subject.below(folder, RIMS["table"]), subject.below(folder, RIMS["instances"]))
    return files if files.table.is_file() and files.instances.is_file() else None


def write_changes(
    midway: Midway,
    *,
    matched: Matched,
    tissue: Tissue,
    subjects: Pair[Subject],
    anatomies: Pair[AnatomyFiles],
    min_lesion_mm3: float,
    method: str,
    folder: Path,
    deformation: Deformation | None = None,
    rims: Pair[RimFiles | None] = (None, None),
    grade: dict[str, Any] | None = None,
) -> Changes:
    """Track every lesion and write the results."""
    brain = read_mask(midway.brain)
    (baseline, followup), rows = tracked_lesions(midway, tissue, min_mm3=min_lesion_mm3)
    trusted = False
    if deformation is not None:
        rows, trusted = _with_expansion(
            rows, deformation, brain=brain, instances=(baseline, followup), midway=midway, anatomies=anatomies
        )
    own = [
        labels_on_grid(
            instances,
            read_volume(subject.contrasts["FLAIR"]),
            target_from_source=np.linalg.inv(read_transform(transform)),
        )
        for instances, subject, transform in zip((baseline, followup), subjects, midway.transforms, strict=True)
    ]
    rows = _with_rims(rows, (own[0], own[1]), rims)
    changed = changed_parts(rows, (baseline, followup), new=read_mask(tissue.new), vanished=read_mask(tissue.vanished))
    written = []
    for which in (0, 1):
        at_midway = _AtMidway(
            changed=changed[which],
            probability=read_own(tissue.probabilities[which]),
            image=read_own(matched.flairs[which]),
            from_flair=read_transform(midway.transforms[which]),
        )
        labels = read_own(anatomies[which].labels)
        written.append(
            _write_visit(
                which,
                subjects[which],
                at_midway,
                own=own[which],
                labels=labels,
                rows=rows,
                method=method,
                folder=folder,
            )
        )
    summary = {**summarise_changes(rows), **midway.quality, "method": method}
    if deformation is not None:
        candidates = [row.sel_candidate for row in rows if row.sel_candidate is not None]
        known = trusted and deformation.years is not None
        summary |= {"years": deformation.years, "sel_candidates": sum(candidates) if known else None}
        summary |= {name: value if trusted else None for name, value in deformation.brain.items()}
    if grade is not None:
        summary["grade"] = grade
    files = _write_pair_files(
        subjects[0],
        rows,
        summary,
        matched=matched,
        brain=brain,
        instances=(baseline, followup),
        deformation=deformation,
        folder=folder,
    )
    return Changes((written[0], written[1]), files, rows, summary)


@dataclass(frozen=True, eq=False)
class _AtMidway:
    """One visit on the midway grid.

    Attributes
    ----------
    changed : Volume of int
        The new or vanished parts of its lesions, by number.
    probability, image : Volume
        Of lesion; the matched FLAIR.
    from_flair : (4, 4) float
        Midway from the visit's FLAIR, RAS mm.
    """

    changed: Volume
    probability: Volume
    image: Volume
    from_flair: np.ndarray


def _write_visit(
    which: int,
    subject: Subject,
    visit: _AtMidway,
    *,
    own: Volume,
    labels: Volume,
    rows: list[TrackedLesion],
    method: str,
    folder: Path,
) -> VisitFiles:
    """Write the results of one visit: 0 is the baseline, 1 the follow-up, ``own`` its lesions on its own grid."""
    target = read_volume(subject.contrasts["FLAIR"])
    moved = np.linalg.inv(visit.from_flair)
    # New and vanished tissue keep their lesion's number until they lie on the visit's grid, so that none is lost.
    part = labels_on_grid(visit.changed, target, target_from_source=moved)
    probability = resample(visit.probability, target, target_from_source=moved)
    measured = measure_lesions(own, probability=probability, labels=labels)
    suffixes = COMPARED_VISIT | (VANISHED_AT_BASELINE, NEW_AT_FOLLOWUP)[which]
    names = {key: subject.below(folder, suffix) for key, suffix in suffixes.items()}
    sidecar = {
        "Type": "Lesion",
        "Manual": False,
        "Description": f"{('Vanished', 'New')[which]} tissue",
        "Method": method,
    }
    return VisitFiles(
        instances=write_volume(own, names["instances"]),
        table=write_lesions_tsv([with_change(lesion, rows, VISITS[which]) for lesion in measured], names["table"]),
        changed=write_volume(target.like(part.data > 0), names["changed"]),
        changed_sidecar=write_json(sidecar, names["changed_sidecar"]),
        midway=write_volume(visit.image, names["midway"]),
        transform=write_transform(visit.from_flair, names["transform"]),
    )


def _write_pair_files(
    subject: Subject,
    rows: list[TrackedLesion],
    summary: dict[str, Any],
    *,
    matched: Matched,
    brain: Volume,
    instances: Pair[Volume],
    deformation: Deformation | None,
    folder: Path,
) -> PairFiles:
    patient = Subject(subject.label, None, {})
    names = {key: patient.below(folder, suffix) for key, suffix in PAIR.items()}
    difference_t2w = None
    if matched.t2w is not None:
        t2w = each(read_own, matched.t2w)
        seen = brain.like((t2w[0].data != 0) & (t2w[1].data != 0))
        difference_t2w = write_volume(difference_z(*t2w, brain=seen), names["difference_t2w"])
    return PairFiles(
        changes=write_changes_tsv(rows, names["changes"]),
        changes_columns=write_json(CHANGE_COLUMNS, names["changes_columns"]),
        table_columns=write_json(LESION_COLUMNS, names["table_columns"]),
        summary=write_json(summary, names["summary"]),
        tracked=write_volume(numbered_as_rows(rows, instances), names["tracked"]),
        difference=write_volume(difference_z(*each(read_own, matched.flairs), brain=brain), names["difference"]),
        difference_t2w=difference_t2w,
        log_jacobian=None
        if deformation is None
        else write_volume(read_own(deformation.log_jacobian), names["log_jacobian"]),
    )


def _with_expansion(
    rows: list[TrackedLesion],
    deformation: Deformation,
    *,
    brain: Volume,
    instances: Pair[Volume],
    midway: Midway,
    anatomies: Pair[AnatomyFiles],
) -> tuple[list[TrackedLesion], bool]:
    """The rows with the expansion of lesions that both visits have, and whether it is more than chance."""
    white = brain.data.copy()
    for anatomy, transform in zip(anatomies, midway.transforms, strict=True):
        parsed = resample(read_own(anatomy.labels), brain, target_from_source=read_transform(transform), nearest=True)
        white &= np.isin(parsed.data, WHITE_MATTER)
    found = lesion_expansions(
        numbered_as_rows(rows, instances),
        read_own(deformation.log_jacobian),
        brain=brain,
        white=brain.like(white),
        years=deformation.years,
    )
    if not found and rows:
        warnings.warn(
            "the deformation between the visits is mostly chance, as where their contrasts differ: expansion and brain "
            "volume change are left out",
            Fallback,
            stacklevel=2,
        )
        return rows, False
    measured = [
        replace(
            row,
            expansion_percent=found[row.id].percent,
            expansion_percent_per_year=found[row.id].percent_per_year,
            sel_candidate=found[row.id].candidate,
            concentricity=found[row.id].concentricity,
        )
        if row.baseline_ids and row.followup_ids
        else row
        for row in rows
    ]
    return measured, True


def _with_rims(rows: list[TrackedLesion], own: Pair[Volume], rims: Pair[RimFiles | None]) -> list[TrackedLesion]:
    """The rows with the highest rim probability of what lies in each lesion, at the visits whose rims were assessed."""
    highest: dict[int, float] = {}
    for lesions, files, ids in zip(own, rims, ("baseline_ids", "followup_ids"), strict=True):
        if files is None:
            continue
        with files.table.open(encoding="utf-8") as stream:
            told = {
                int(row["id"]): float(row["rim_probability"])
                for row in csv.DictReader(stream, delimiter="\t")
                if row["rim_probability"] != "n/a"
            }
        shared = np.stack([lesions.data.ravel(), read_own(files.instances).data.ravel()]).astype(int)
        pairs = np.unique(shared[:, (shared > 0).all(axis=0)], axis=1).T.tolist()
        for row in rows:
            values = [told[rim] for number, rim in pairs if number in getattr(row, ids) and rim in told]
            if values:
                highest[row.id] = max([*values, highest.get(row.id, 0.0)])
    return [replace(row, rim_probability=highest.get(row.id)) for row in rows]


def _report(
    visits: Pair[PreparedVisit],
    midway: Midway,
    tissue: Tissue,
    changes: Changes,
    recipe: Recipe,
    run: Run,
    *,
    card: Card,
) -> ChangeReport:
    baseline, followup = visits
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
