"""One visit of one patient: from the scanner's files to lesions and a report."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

import nipype

from msrim.bids import CONTRASTS, Subject, write_dataset_description
from msrim.console import Console
from msrim.errors import InputError
from msrim.files import sha256_of
from msrim.image import Volume, read_volume
from msrim.lesions.measure import Lesion, summarise
from msrim.manifest import Manifest, package_versions
from msrim.models.registry import LESION_TASKS, Card, located, read_card
from msrim.preprocess.template import load_template
from msrim.recipe import Recipe
from msrim.report.page import Report, write_report
from msrim.transform import read_transform
from msrim.workflows import results, steps
from msrim.workflows.graph import run_graph, step
from msrim.workflows.inputs import check_output_folder, read_subject

TEMPLATE = "MNI152NLin2009aSym"
# Which result is which file; see DESIGN of outputs in the README.
ANATOMY = {
    "brain": "space-orig_desc-brain_mask.nii.gz",
    "tissue": "space-orig_dseg.nii.gz",
    "tissue_table": "space-orig_dseg.tsv",
    "labels": "space-orig_desc-head_dseg.nii.gz",
    "FLAIR": f"from-FLAIR_to-{TEMPLATE}_mode-image_xfm.txt",
    "T1w": "from-T1w_to-FLAIR_mode-image_xfm.txt",
    "T2w": "from-T2w_to-FLAIR_mode-image_xfm.txt",
    "PDw": "from-PDw_to-FLAIR_mode-image_xfm.txt",
}
LESIONS = {
    "mask": "space-orig_label-L_mask.nii.gz",
    "mask_sidecar": "space-orig_label-L_mask.json",
    "probability": "space-orig_label-L_probseg.nii.gz",
    "probability_sidecar": "space-orig_label-L_probseg.json",
    "instances": "space-orig_seg-lesions_dseg.nii.gz",
    "instance_table": "space-orig_seg-lesions_dseg.tsv",
    "table": "desc-lesions.tsv",
    "table_columns": "desc-lesions.json",
    "summary": "desc-summary.json",
}


def segment_subject(subject: Subject, recipe: Recipe, out: Path, *, console: Console) -> Path:
    """Find the lesions of one visit.

    Parameters
    ----------
    subject : Subject
    recipe : Recipe
    out : Path
        Folder of the derivative dataset.
    console : Console
        Where progress goes.

    Returns
    -------
    Path
        The lesion mask, on the FLAIR's own grid.

    Raises
    ------
    MsrimError
        An input cannot be used; nothing has been written then.
    """
    return segment_visit(subject, recipe, out, console=console)["write_lesions"]["files"]["mask"]


def segment_visit(subject: Subject, recipe: Recipe, out: Path, *, console: Console) -> dict[str, dict[str, Any]]:
    """Find the lesions of one visit; parameters and errors as :func:`segment_subject`.

    Returns
    -------
    dict
        Outputs of every step, see :func:`msrim.workflows.graph.run_graph`.
    """
    card = read_card(recipe.model)
    check_finds_lesions(card, LESION_TASKS)
    subject = subject.for_network(card.contrasts)
    _check_contrasts(card, subject)
    _checked(subject, recipe, out, card=card)
    graph = anatomy_graph(subject, recipe, out)
    _add_lesions(graph, subject, recipe, out, card=card)
    manifest = Manifest(recipe=recipe.model_dump(), inputs=subject.contrasts)
    found = run_graph(graph, folder=subject.folder(out), console=console, manifest=manifest)
    files = found["write_anatomy"]["files"] | found["write_lesions"]["files"]
    if not is_finished(subject.folder(out), manifest):
        report = _report(subject, recipe, found, card=card, manifest=manifest)
        written = write_report(report, subject.folder(out) / "report.html")
        write_dataset_description(out)
        manifest.write(subject.folder(out) / "run.json", outputs=[*files.values(), written])
    return found


def preprocess_subject(subject: Subject, recipe: Recipe, out: Path, *, console: Console) -> Path:
    """Prepare one visit and stop before the lesions; parameters and errors as :func:`segment_subject`.

    Returns
    -------
    Path
        The brain mask, on the FLAIR's own grid.
    """
    return preprocess_visit(subject, recipe, out, console=console)["write_anatomy"]["files"]["brain"]


def preprocess_visit(subject: Subject, recipe: Recipe, out: Path, *, console: Console) -> dict[str, dict[str, Any]]:
    """Prepare one visit; returns as :func:`segment_visit`."""
    _checked(subject, recipe, out, card=read_card(recipe.model))
    manifest = Manifest(recipe=recipe.model_dump(), inputs=subject.contrasts)
    found = run_graph(
        anatomy_graph(subject, recipe, out), folder=subject.folder(out), console=console, manifest=manifest
    )
    run = subject.folder(out) / "run.json"
    # What is there tells of these very steps, and of the lesions too where `msrim segment` came before.
    if not (_all_kept(manifest) and run.is_file()):
        write_dataset_description(out)
        manifest.write(run, outputs=list(found["write_anatomy"]["files"].values()))
    return found


def anatomy_graph(subject: Subject, recipe: Recipe, out: Path) -> nipype.Workflow:
    """Every step before the lesions.

    Each contrast by itself: reorient, label the head, extract the brain, correct the bias. Then together: rigid to the
    FLAIR, affine to MNI152 (of the T1w where there is one: it looks most like the template), and onto one working grid.
    """
    graph = nipype.Workflow("subject")
    for contrast, path in subject.contrasts.items():
        _add_contrast(graph, contrast, path, recipe=recipe)
    best = "T1w" if "T1w" in subject.contrasts else "FLAIR"
    others = [contrast for contrast in subject.contrasts if contrast != "FLAIR"]
    for contrast in others:
        align = step(steps.align, name=f"align_{contrast}", outputs=["transform"], backend=recipe.backend)
        graph.connect(_node(graph, "correct", contrast), "image", align, "moving")
        graph.connect(_node(graph, "extract_brain", contrast), "brain", align, "moving_brain")
        graph.connect(_node(graph, "correct", "FLAIR"), "image", align, "fixed")
        graph.connect(_node(graph, "extract_brain", "FLAIR"), "brain", align, "fixed_brain")
    to_mni = step(steps.align_to_template, outputs=["transform"], backend=recipe.backend)
    graph.connect(_node(graph, "correct", best), "image", to_mni, "image")
    graph.connect(_node(graph, "extract_brain", "FLAIR"), "brain", to_mni, "brain")
    working = step(steps.make_working_images, outputs=["images", "brain", "labels"])
    names = {
        key: _below_folder(subject, suffix)
        for key, suffix in ANATOMY.items()
        if key not in CONTRASTS or key in subject.contrasts
    }
    written = step(
        results.write_anatomy,
        outputs=["files"],
        flair=subject.contrasts["FLAIR"],
        folder=subject.folder(out),
        names=names,
    )
    graph.connect(_node(graph, "correct", "FLAIR"), "image", working, "corrected")
    for target in (working, written):
        graph.connect(_node(graph, "extract_brain", "FLAIR"), "brain", target, "brain")
        graph.connect(to_mni, "transform", target, "to_mni")
        for contrast in others:
            graph.connect(_node(graph, "align", contrast), "transform", target, f"{contrast.lower()}_to_flair")
    graph.connect(_node(graph, "label_head", "FLAIR"), "labels", working, "labels")
    graph.connect(working, "labels", written, "labels")
    for contrast in others:
        graph.connect(_node(graph, "correct", contrast), "image", working, contrast.lower())
    if recipe.backend == "fsl" and best == "T1w":
        tissue = step(steps.classify_tissue, outputs=["tissue"])
        graph.connect(_node(graph, "correct", best), "image", tissue, "image")
        graph.connect(_node(graph, "extract_brain", best), "brain", tissue, "brain")
        graph.connect(tissue, "tissue", written, "tissue")
    if best == "T1w":
        graph.connect(_node(graph, "label_head", best), "labels", working, "t1w_labels")
        graph.connect(_node(graph, "align", best), "transform", to_mni, "to_flair")
    return graph


def _add_contrast(graph: nipype.Workflow, contrast: str, path: Path, *, recipe: Recipe) -> None:
    image = step(steps.reorient, name=f"reorient_{contrast}", outputs=["image"], path=path)
    labels = step(
        steps.label_head,
        name=f"label_head_{contrast}",
        outputs=["labels"],
        contrast=contrast,
        device=recipe.device,
        brain_extracted=recipe.brain_extracted,
    )
    brain = step(
        steps.extract_brain,
        name=f"extract_brain_{contrast}",
        outputs=["brain"],
        source=str(path),
        backend=recipe.backend,
        brain_extracted=recipe.brain_extracted,
    )
    corrected = step(steps.correct, name=f"correct_{contrast}", outputs=["image"])
    for node in (labels, brain, corrected):
        graph.connect(image, "image", node, "image")
    graph.connect(labels, "labels", brain, "labels")
    graph.connect(brain, "brain", corrected, "brain")


def _add_lesions(graph: nipype.Workflow, subject: Subject, recipe: Recipe, out: Path, *, card: Card) -> None:
    find = step(
        steps.find_lesions,
        outputs=["lesion", "sphere"],
        model=located(recipe.model),
        sha256=card.sha256,
        device=recipe.device,
    )
    working = graph.get_node("make_working_images")
    for name in ("images", "brain", "labels"):
        graph.connect(working, name, find, name)
    graph.connect(graph.get_node("align_to_template"), "transform", find, "to_mni")
    write = step(
        results.write_lesions,
        outputs=["files", "lesions"],
        flair=subject.contrasts["FLAIR"],
        min_lesion_mm3=recipe.min_lesion_mm3,
        model=card.label,
        folder=subject.folder(out),
        names={key: _below_folder(subject, suffix) for key, suffix in LESIONS.items()},
    )
    graph.connect(find, "lesion", write, "lesion")
    if recipe.threshold is None and card.threshold_range is not None:
        choose = step(
            steps.choose_threshold,
            outputs=["threshold"],
            within=card.threshold_range,
            default=card.threshold,
        )
        for name in ("images", "brain"):
            graph.connect(working, name, choose, name)
        graph.connect(find, "lesion", choose, "lesion")
        graph.connect(choose, "threshold", write, "threshold")
    else:
        write.set_input("threshold", visit_threshold({}, recipe, card=card))
    graph.connect(find, "sphere", write, "sphere")
    graph.connect(graph.get_node("write_anatomy"), "files", write, "anatomy")


def visit_threshold(found: dict[str, dict[str, Any]], recipe: Recipe, *, card: Card) -> float:
    """From which probability on a voxel of a visit is lesion: as the user says, else by its FLAIR, else by the card."""
    if "choose_threshold" in found:
        return found["choose_threshold"]["threshold"]
    return card.threshold if recipe.threshold is None else recipe.threshold


def _below_folder(subject: Subject, suffix: str) -> str:
    return subject.output(Path(), suffix).relative_to(subject.folder(Path())).as_posix()


def _node(graph: nipype.Workflow, what: str, contrast: str) -> nipype.Node:
    return graph.get_node(f"{what}_{contrast}")


def _checked(subject: Subject, recipe: Recipe, out: Path, *, card: Card) -> None:
    """Whatever can be known to be wrong before the first file is written."""
    from msrim.models import load_model
    from msrim.models.inference import choose_device
    from msrim.preprocess import fsl

    check_output_folder(out)
    choose_device(recipe.device)
    if recipe.backend == "fsl":
        fsl.find_fsl()
    for each in (*card.single, read_card(steps.HEAD_MODEL)):
        load_model(each)
    read_subject(subject)


def check_finds_lesions(card: Card, tasks: Collection[str]) -> None:
    """Refuse a model for another task than these."""
    if card.task not in tasks:
        raise InputError(f"{card.label}: finds no lesions (its task is {card.task}); choose another model")


def _check_contrasts(card: Card, subject: Subject) -> None:
    """Refuse a model that finds none without a contrast that is not there."""
    if missing := [name for name in card.required if name not in subject.contrasts]:
        raise InputError(f"{subject.contrasts['FLAIR']}: no {', '.join(missing)} beside it, which {card.label} needs")


def is_finished(folder: Path, manifest: Manifest) -> bool:
    """Whether every step was kept and the report of that run still stands in its folder as it was written."""
    report, run = folder / "report.html", folder / "run.json"
    if not _all_kept(manifest) or not (report.is_file() and run.is_file()):
        return False
    return json.loads(run.read_text(encoding="utf-8"))["outputs"].get(report.name) == sha256_of(report)


def _all_kept(manifest: Manifest) -> bool:
    return all(record.kept for record in manifest.steps)


def _report(
    subject: Subject, recipe: Recipe, found: dict[str, dict[str, Any]], *, card: Card, manifest: Manifest
) -> Report:
    anatomy, lesions = found["write_anatomy"]["files"], found["write_lesions"]
    rows = [Lesion(**row) for row in lesions["lesions"]]
    contrasts = {}
    for contrast in [name for name in subject.contrasts if name != "FLAIR"]:
        image = read_volume(found[f"correct_{contrast}"]["image"])
        contrasts[contrast] = Volume(image.data, read_transform(anatomy[contrast]) @ image.affine)
    return Report(
        subject=f"sub-{subject.label}",
        session=None if subject.session is None else f"ses-{subject.session}",
        date=datetime.now().astimezone(),
        model=card.label,
        threshold=visit_threshold(found, recipe, card=card),
        model_limits=card.limits,
        flair=steps.read_own(found["correct_FLAIR"]["image"]),
        contrasts=contrasts,
        brain=steps.read_mask(anatomy["brain"]),
        tissue=steps.read_own(anatomy["tissue"]),
        labels=steps.read_own(anatomy["labels"]),
        instances=steps.read_own(lesions["files"]["instances"]),
        template=load_template(),
        mni_from_flair=read_transform(anatomy["FLAIR"]),
        lesions=rows,
        summary=summarise(rows),
        inputs=subject.contrasts,
        steps=manifest.steps,
        versions=package_versions(),
        recipe=recipe.as_toml(),
        warnings=manifest.fallbacks,
    )
