"""Which lesions of one visit carry a paramagnetic rim: from QSM, FLAIR and lesions to a table, a map and a page."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import nipype
import numpy as np

from msrim.bids import Subject, write_dataset_description
from msrim.console import Console
from msrim.errors import InputError
from msrim.image import Volume, read_volume, same_grid
from msrim.lesions.measure import Lesion
from msrim.lesions.patches import susceptibility_ppm
from msrim.manifest import Manifest, package_versions
from msrim.models.registry import Card, located, read_card
from msrim.recipe import Recipe
from msrim.report.rims import RimReport, write_rim_report
from msrim.workflows import rim_steps
from msrim.workflows.graph import run_graph, step
from msrim.workflows.inputs import check_output_folder, field_of_view, read_subject
from msrim.workflows.subject import is_finished, preprocess_visit, segment_visit

# Below the visit's folder, so that a later `msrim segment` finds its own results as it left them.
FOLDER = "rims"
RIMS = {
    "rims": "space-orig_seg-rims_dseg.nii.gz",
    "instances": "space-orig_seg-lesions_dseg.nii.gz",
    "table": "desc-lesions.tsv",
    "table_columns": "desc-lesions.json",
    "summary": "desc-summary.json",
}


def classify_rims(
    subject: Subject,
    qsm: Path,
    recipe: Recipe,
    out: Path,
    *,
    console: Console,
    model: str = "datrnet",
    threshold: str = "f1",
    lesions: Path | None = None,
    magnitude: Path | None = None,
) -> Path:
    """Classify the lesions of one visit.

    Parameters
    ----------
    subject : Subject
    qsm : Path
        In ppm or ppb; which is told by its values.
    recipe : Recipe
        How the FLAIR is prepared and, without ``lesions``, segmented.
    out : Path
        Folder of the derivative dataset; the results go to ``rims/`` below the visit's folder.
    console : Console
    model : str
        Of the task "rims": a name, or folder of a card and its weights.
    threshold : str
        "f1" and "sensitive" are the card's; or a number between 0 and 1.
    lesions : Path, optional
        Mask or instance map on the FLAIR's grid or on the QSM's. Without it, what `msrim segment` left in ``out`` is
        used, or it is run.
    magnitude : Path, optional
        Of the gradient echo, aligned with the QSM: FLAIRs are easier to register to it.

    Returns
    -------
    Path
        The table of lesions.

    Raises
    ------
    MsrimError
        An input cannot be used; nothing has been written then.
    """
    card = _checked(subject, qsm, out, model=model, lesions=lesions, magnitude=magnitude)
    limit = _threshold(card, threshold)
    console.say(f"{card.label}: {' '.join(card.limits.split())}")
    prepare = segment_visit if lesions is None else preprocess_visit
    before = prepare(subject, recipe, out, console=console)
    graph = rim_graph(
        subject, qsm, recipe, before, out, card=card, model=model, threshold=limit, lesions=lesions, magnitude=magnitude
    )
    inputs = {**subject.contrasts, "Chimap": qsm}
    inputs |= {name: path for name, path in (("lesions", lesions), ("magnitude", magnitude)) if path is not None}
    manifest = Manifest({**recipe.model_dump(), "rim_model": card.label, "rim_threshold": limit}, inputs)
    folder = subject.folder(out) / FOLDER
    found = run_graph(graph, folder=folder, console=console, manifest=manifest)
    written = found["write_rims"]
    console.say(f"{written['summary']['rim_lesions']} of {written['summary']['lesions']} lesions with a rim")
    if not is_finished(folder, manifest):
        page = write_rim_report(_report(subject, found, card=card, manifest=manifest), folder / "report.html")
        write_dataset_description(out)
        manifest.write(folder / "run.json", outputs=[*written["files"].values(), page])
    return written["files"]["table"]


def rim_graph(
    subject: Subject,
    qsm: Path,
    recipe: Recipe,
    before: dict[str, dict[str, Any]],
    out: Path,
    *,
    card: Card,
    model: str,
    threshold: float,
    lesions: Path | None,
    magnitude: Path | None,
) -> nipype.Workflow:
    """What happens after the FLAIR is prepared: bring everything to the QSM, cut, measure, classify, write.

    Parameters are those of :func:`classify_rims`; ``before`` is what the steps of the visit gave.
    """
    from msrim.models.rims import INPUTS

    graph = nipype.Workflow("rims")
    flair, segmented = subject.contrasts["FLAIR"], before.get("write_lesions")
    read = step(rim_steps.read_qsm, outputs=["qsm", "unit"], path=qsm)
    align = step(
        rim_steps.align_to_qsm,
        outputs=["transform"],
        flair=flair,
        corrected=before["correct_FLAIR"]["image"],
        brain=before["extract_brain_FLAIR"]["brain"],
        backend=recipe.backend,
        magnitude=magnitude,
    )
    bring = step(
        rim_steps.bring_to_qsm,
        outputs=["flair", "instances", "lesions", "labels"],
        flair=flair,
        labels=before["write_anatomy"]["files"]["labels"],
        found=None if segmented is None else segmented["files"]["instances"],
        lesions=lesions,
    )
    classify = step(
        rim_steps.classify,
        outputs=["patches", "around", "numbers", "probability", "remarks"],
        model=located(model),
        sha256=card.sha256,
        device=recipe.device,
    )
    if INPUTS[card.network].features:
        measure = step(rim_steps.measure_radiomics, outputs=["features"])
        graph.connect(read, "qsm", measure, "qsm")
        graph.connect(bring, "instances", measure, "instances")
        graph.connect(measure, "features", classify, "features")
    write = step(
        rim_steps.write_rims,
        outputs=["files", "lesions", "summary"],
        rows=None if segmented is None else segmented["lesions"],
        threshold=threshold,
        model=card.label,
        folder=subject.folder(out) / FOLDER,
        names={key: subject.output(Path(), suffix).relative_to(subject.folder(Path())).as_posix()
               for key, suffix in RIMS.items()},
    )  # fmt: skip
    graph.connect(read, "qsm", align, "qsm")
    graph.connect(read, "qsm", bring, "qsm")
    graph.connect(align, "transform", bring, "to_qsm")
    graph.connect(read, "qsm", classify, "qsm")
    graph.connect(bring, "flair", classify, "flair")
    graph.connect(bring, "instances", classify, "instances")
    graph.connect(bring, "lesions", write, "lesions")
    graph.connect(bring, "labels", write, "labels")
    graph.connect(read, "unit", write, "unit")
    graph.connect(classify, "probability", write, "probability")
    graph.connect(classify, "remarks", write, "remarks")
    return graph


def _report(subject: Subject, found: dict[str, dict[str, Any]], *, card: Card, manifest: Manifest) -> RimReport:
    classified, written = found["classify"], found["write_rims"]
    return RimReport(
        subject=f"sub-{subject.label}",
        session=None if subject.session is None else f"ses-{subject.session}",
        date=datetime.now().astimezone(),
        model=card.label,
        model_limits=card.limits,
        lesions=[Lesion(**row) for row in written["lesions"]],
        patches=np.load(classified["patches"], allow_pickle=False),
        around=np.load(classified["around"], allow_pickle=False),
        numbers=classified["numbers"],
        spacing_mm=card.spacing_mm[0],
        remarks=classified["remarks"],
        summary=written["summary"],
        inputs=manifest.inputs,
        steps=manifest.steps,
        versions=package_versions(),
        warnings=manifest.fallbacks,
    )


def _checked(
    subject: Subject, qsm: Path, out: Path, *, model: str, lesions: Path | None, magnitude: Path | None
) -> Card:
    """Whatever can be known to be wrong before the first file is written."""
    from msrim.models import load_model

    check_output_folder(out)
    card = read_card(model)
    if card.task != "rims":
        raise InputError(f"{card.label}: tells no rims (its task is {card.task}); choose another model")
    load_model(card)
    images = read_subject(subject)
    volume, _ = susceptibility_ppm(read_volume(qsm), name=str(qsm))
    _check_overlap(volume, images["FLAIR"], names=(qsm, subject.contrasts["FLAIR"]))
    if magnitude is not None:
        _check_overlap(volume, read_volume(magnitude), names=(qsm, magnitude))
    if lesions is not None:
        mask = read_volume(lesions, mask=True)
        if not (same_grid(mask, images["FLAIR"]) or same_grid(mask, volume)):
            raise InputError(
                f"{lesions}: lies neither on the FLAIR's grid {images['FLAIR'].shape} nor on the QSM's {volume.shape}; "
                "resample it to one of them"
            )
    return card


def _check_overlap(qsm: Volume, other: Volume, *, names: tuple[Path, Path]) -> None:
    (low, high), (other_low, other_high) = field_of_view(qsm), field_of_view(other)
    if (low > other_high).any() or (other_low > high).any():
        raise InputError(
            f"{names[0]} and {names[1]}: lie beside each other in space; "
            "give images of the same patient and visit, or correct the position in the header"
        )


def _threshold(card: Card, threshold: str) -> float:
    if threshold == "f1":
        return card.threshold
    if threshold == "sensitive":
        if card.sensitive_threshold is None:
            raise InputError(f"{card.label}: its card has no sensitive threshold; give a number")
        return card.sensitive_threshold
    try:
        value = float(threshold)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise InputError(f"threshold {threshold}: give f1, sensitive or a number between 0 and 1")
    return value
