"""Several visits of one patient: what is new since the last scan, and what became of every lesion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import nipype
import numpy as np
from scipy.special import expit, logit

from msrim.bids import Subject, write_dataset_description
from msrim.console import Console
from msrim.image import read_volume
from msrim.lesions.chain import chain_lesions, write_chain_tsv
from msrim.lesions.change import CLEAR, RULE, T2W_WEIGHT
from msrim.lesions.track import TrackedLesion
from msrim.manifest import Manifest, package_versions
from msrim.models.registry import LESION_TASKS, Card, located, read_card
from msrim.recipe import Recipe
from msrim.report.longitudinal import ChangeReport, write_change_report
from msrim.transform import read_transform
from msrim.workflows import changes
from msrim.workflows.graph import run_graph, step
from msrim.workflows.inputs import check_output_folder
from msrim.workflows.steps import read_mask, read_own
from msrim.workflows.subject import check_finds_lesions, is_finished, preprocess_visit, segment_visit, visit_threshold
from msrim.workflows.visits import check_visits

# What draws the outlines of changes that the rule found.
OUTLINE_MODEL = "coactseg"
# What the steps of baseline and follow-up gave, see msrim.workflows.graph.run_graph.
Found = tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]
# Which result is which file: of each visit, and of the pair.
OF_VISIT = {
    "instances": "space-orig_seg-lesions_dseg.nii.gz",
    "table": "desc-lesions.tsv",
    "midway": "space-midway_desc-matched_FLAIR.nii.gz",
    "transform": "from-FLAIR_to-midway_mode-image_xfm.txt",
}
CHANGED = {"baseline": "space-orig_label-L_desc-gone_mask", "followup": "space-orig_label-L_desc-new_mask"}
OF_PAIR = {
    "changes": "desc-changes.tsv",
    "changes_columns": "desc-changes.json",
    "table_columns": "desc-lesions.json",
    "summary": "desc-summary.json",
    "tracked": "space-midway_seg-lesions_dseg.nii.gz",
    "difference": "space-midway_stat-z_desc-difference_statmap.nii.gz",
    "difference_t2w": "space-midway_stat-z_desc-differenceT2w_statmap.nii.gz",
}


def follow_visits(visits: Sequence[Subject], recipe: Recipe, out: Path, *, console: Console) -> Path:
    """Segment every visit, and track every lesion from each visit to the next.

    Parameters
    ----------
    visits : sequence of Subject
        Of :func:`msrim.workflows.visits.find_visits`, in the order of time.
    recipe : Recipe
        With a lesion model, changes are found by rule and OUTLINE_MODEL draws them (:mod:`msrim.lesions.change`); with
        a model for the task "longitudinal", that does both.
    out : Path
        Folder of the derivative dataset.
    console : Console

    Returns
    -------
    Path
        The mask of new lesions and of the grown part of enlarging ones, on the grid of the last visit's FLAIR.

    Raises
    ------
    MsrimError
        An input cannot be used; nothing has been written then.
    """
    from msrim.models import load_model

    card = read_card(recipe.model)
    check_finds_lesions(card, (*LESION_TASKS, "longitudinal"))
    load_model(read_card(OUTLINE_MODEL))
    check_output_folder(out)
    notes = check_visits(visits)
    for note in notes:
        console.say(f"note: {note}")
    prepare = preprocess_visit if card.task == "longitudinal" else segment_visit
    found = []
    for visit in visits:
        console.say(f"visit ses-{visit.session}")
        found.append(prepare(visit, recipe, out, console=console))
    pairs = []
    for (one, other), (before, after) in zip(pairwise(visits), pairwise(found), strict=True):
        console.say(f"from ses-{one.session} to ses-{other.session}")
        pairs.append(_compare(one, other, before, after, recipe, out, card=card, notes=notes, console=console))
    if len(pairs) > 1:
        write_chain(visits, pairs, out)
    return pairs[-1]["files"]["followup_changed"]


def change_graph(
    visits: tuple[Subject, Subject],
    found: Found,
    recipe: Recipe,
    *,
    card: Card,
    folder: Path,
) -> nipype.Workflow:
    """What happens between two visits: meet half way, match intensities, decide what changed, track every lesion.

    Parameters
    ----------
    visits : (Subject, Subject)
    found : (dict, dict)
        What the steps of each visit gave.
    recipe : Recipe
    card : Card
    folder : Path
        Of the results.
    """
    graph = nipype.Workflow("changes")
    by_visit = list(zip(changes.VISITS, visits, found, strict=True))
    meeting = changes.meeting_inputs([(name, given) for name, _, given in by_visit])
    meet = step(changes.meet, outputs=["met", "agreement"], **meeting)
    # One for both visits, half way in odds, lest lesions change by it.
    threshold = float(expit(np.mean([logit(visit_threshold(given, recipe, card=card)) for given in found])))
    # A lesion model leaves CoactSeg the outlines of what changed; CoactSeg itself decides what did.
    by_rule = card.task != "longitudinal"
    comparing = read_card(OUTLINE_MODEL) if by_rule else card
    compare = step(
        changes.compare,
        outputs=["compared"],
        model=OUTLINE_MODEL if by_rule else located(recipe.model),
        sha256=comparing.sha256,
        device=recipe.device,
        threshold=comparing.threshold if by_rule else threshold,
    )
    if by_rule:
        lesions = {f"{name}_lesion": given["find_lesions"]["lesion"] for name, _, given in by_visit}
        spheres = {f"{name}_sphere": given["find_lesions"]["sphere"] for name, _, given in by_visit}
        match = step(changes.match, outputs=["matched"], **lesions, **_t2w_inputs(found))
        decide = step(
            changes.decide_by_rule, name="decide", outputs=["tissue"], threshold=threshold, **lesions, **spheres
        )
    else:
        match = step(changes.match, outputs=["matched"])
        decide = step(changes.decide_by_network, name="decide", outputs=["tissue"], threshold=threshold)
    write = step(
        changes.write_changes,
        outputs=["files", "rows", "summary"],
        **{f"{name}_flair": visit.contrasts["FLAIR"] for name, visit, _ in by_visit},
        **{f"{name}_anatomy": given["write_anatomy"]["files"] for name, _, given in by_visit},
        min_lesion_mm3=recipe.min_lesion_mm3,
        method=change_method(card, found),
        folder=folder,
        names=_names(*visits),
    )
    for target in (match, compare, decide, write):
        graph.connect(meet, "met", target, "met")
    for target in (compare, decide, write):
        graph.connect(match, "matched", target, "matched")
    graph.connect(compare, "compared", decide, "compared")
    graph.connect(meet, "agreement", write, "agreement")
    graph.connect(decide, "tissue", write, "tissue")
    return graph


def change_method(card: Card, found: Found) -> str:
    """How changes are decided, as run.json, summary and report say it; from what the steps of both visits gave."""
    if card.task == "longitudinal":
        return f"{card.label}; {CLEAR}"
    images = (
        f"FLAIR, and of the T2w with a weight of {T2W_WEIGHT:g} where both visits show it,"
        if _t2w_inputs(found)
        else "FLAIR"
    )
    outlines = read_card(OUTLINE_MODEL).label
    return f"rule on the difference of the {images} with {card.label}: {RULE}; outlines completed by {outlines}"


def _t2w_inputs(found: Found) -> dict[str, Path]:
    """Arguments of :func:`msrim.workflows.changes.match` where both visits have a T2w."""
    if not all("correct_T2w" in given for given in found):
        return {}
    by_visit = list(zip(changes.VISITS, found, strict=True))
    images = {f"{name}_t2w": given["correct_T2w"]["image"] for name, given in by_visit}
    return images | {f"{name}_t2w_to_flair": given["align_T2w"]["transform"] for name, given in by_visit}


def _compare(
    baseline: Subject,
    followup: Subject,
    before: dict[str, dict[str, Any]],
    after: dict[str, dict[str, Any]],
    recipe: Recipe,
    out: Path,
    *,
    card: Card,
    notes: list[str],
    console: Console,
) -> dict[str, Any]:
    """Run one pair and write its report and run.json; what its last step gave."""
    folder = out / f"sub-{baseline.label}" / f"ses-{baseline.session}_to_ses-{followup.session}"
    graph = change_graph((baseline, followup), (before, after), recipe, card=card, folder=folder)
    inputs = {
        f"{name} {contrast}": path
        for name, visit in zip(changes.VISITS, (baseline, followup), strict=True)
        for contrast, path in visit.contrasts.items()
    }
    method = change_method(card, (before, after))
    settings = recipe.model_dump() | {"change_method": method}
    manifest = Manifest(recipe=settings, inputs=inputs, fallbacks=list(notes))
    found = run_graph(graph, folder=folder, console=console, manifest=manifest)
    written = found["write_changes"]
    if not is_finished(folder, manifest):
        report = _report(baseline, followup, found, after, recipe, card=card, method=method, manifest=manifest)
        page = write_change_report(report, folder / "report.html")
        write_dataset_description(out)
        manifest.write(folder / "run.json", outputs=[*written["files"].values(), page])
    return written


def _report(
    baseline: Subject,
    followup: Subject,
    found: dict[str, dict[str, Any]],
    after: dict[str, dict[str, Any]],
    recipe: Recipe,
    *,
    card: Card,
    method: str,
    manifest: Manifest,
) -> ChangeReport:
    met, tissue, written = found["meet"]["met"], found["decide"]["tissue"], found["write_changes"]
    mni_from_followup = read_transform(after["align_to_template"]["transform"])
    return ChangeReport(
        subject=f"sub-{baseline.label}",
        sessions=(f"ses-{baseline.session}", f"ses-{followup.session}"),
        date=datetime.now().astimezone(),
        method=method,
        model_limits=card.limits,
        images=tuple(read_own(written["files"][f"{name}_midway"]) for name in changes.VISITS),
        differences={
            name: read_own(written["files"][key])
            for name, key in (("FLAIR", "difference"), ("T2w", "difference_t2w"))
            if key in written["files"]
        },
        brain=read_mask(met["brain"]),
        tracked=read_own(written["files"]["tracked"]),
        lesions=tuple(read_mask(tissue[name]) for name in changes.VISITS),
        new=read_mask(tissue["new"]),
        gone=read_mask(tissue["gone"]),
        mni_from_midway=mni_from_followup @ np.linalg.inv(read_transform(met["from_followup"])),
        rows=[TrackedLesion(**row) for row in written["rows"]],
        summary=written["summary"],
        inputs=manifest.inputs,
        steps=manifest.steps,
        versions=package_versions(),
        recipe=recipe.as_toml(),
        warnings=manifest.fallbacks,
    )


def write_chain(visits: Sequence[Subject], pairs: Sequence[dict[str, Any]], out: Path) -> Path:
    """One table of all visits, beside the folders of the pairs."""
    tables = [[TrackedLesion(**row) for row in pair["rows"]] for pair in pairs]
    between = [
        (read_volume(one["files"]["followup_instances"]), read_volume(other["files"]["baseline_instances"]))
        for one, other in pairwise(pairs)
    ]
    path = out / f"sub-{visits[0].label}" / f"sub-{visits[0].label}_desc-changes.tsv"
    return write_chain_tsv(chain_lesions(tables, between), path, visits=[f"ses-{visit.session}" for visit in visits])


def _names(baseline: Subject, followup: Subject) -> dict[str, str]:
    """What the results are called, below the folder of the pair."""
    names = {key: f"anat/sub-{baseline.label}_{suffix}" for key, suffix in OF_PAIR.items()}
    for name, visit in zip(changes.VISITS, (baseline, followup), strict=True):
        own = OF_VISIT | {"changed": f"{CHANGED[name]}.nii.gz", "changed_sidecar": f"{CHANGED[name]}.json"}
        for key, suffix in own.items():
            kind = "xfm" if suffix.endswith("_xfm.txt") else "anat"
            names[f"{name}_{key}"] = f"{kind}/sub-{visit.label}_ses-{visit.session}_{suffix}"
    return names
