"""Lesions of one visit: from the scanner's files to mask, probability, instances, table and report."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from msrim.bids import LESIONS, Subject, write_dataset_description
from msrim.console import Console
from msrim.errors import InputError
from msrim.files import write_json, write_tsv
from msrim.image import Volume, read_spacing, read_volume, resample, write_volume
from msrim.lesions.measure import LESION_COLUMNS, Lesion, measure_lesions, summarise, write_lesions_tsv
from msrim.lesions.plausible import plausible_lesions
from msrim.lesions.split import split_confluent
from msrim.lesions.threshold import undoubted_threshold
from msrim.models.registry import SEGMENTING_TASKS, THICK_SLICES_MM, Card, read_card
from msrim.models.registry import for_slices as model_for_slices
from msrim.preprocess.template import load_template
from msrim.recipe import Recipe
from msrim.report.segmentation import Report, write_report
from msrim.results import doubts_of
from msrim.transform import read_transform
from msrim.workflows.anatomy import (
    Anatomy,
    AnatomyFiles,
    Working,
    anatomy_cards,
    prepare,
    read_mask,
    read_own,
    tell_images,
)
from msrim.workflows.grade import Grade, grade_lesions, paint_lesions
from msrim.workflows.inputs import check_visit, without_doubts
from msrim.workflows.painting import SEED
from msrim.workflows.plan import lesion_steps
from msrim.workflows.run import Run, files_in


@dataclass(frozen=True)
class Probabilities:
    """Inputs of the networks, on the working grid.

    Attributes
    ----------
    lesion, sphere : Path
        Probability of lesion, without what no lesion is; probability of being about a lesion's centre.
    network : Path
        The networks' own probability of lesion.
    """

    lesion: Path
    sphere: Path
    network: Path


@dataclass(frozen=True)
class LesionRule:
    """How probabilities become lesions.

    Attributes
    ----------
    model : str
        Label of the network.
    threshold : float
        Probability from which on a voxel is lesion.
    min_mm3 : float
        Volume below which a lesion is left out.
    """

    model: str
    threshold: float
    min_mm3: float


@dataclass(frozen=True)
class LesionFiles:
    """Result files of a visit's lesions, on the grid of the user's FLAIR."""

    mask: Path
    mask_sidecar: Path
    probability: Path
    probability_sidecar: Path
    network: Path
    network_sidecar: Path
    instances: Path
    instance_table: Path
    table: Path
    table_columns: Path
    summary: Path


@dataclass(frozen=True)
class WrittenLesions:
    """The files, and the rows of the table."""

    files: LesionFiles
    rows: list[Lesion]


@dataclass(frozen=True)
class Lesions:
    """The lesions of one visit.

    Attributes
    ----------
    probabilities : Probabilities
    threshold : float
        Probability from which on a voxel is lesion.
    files : LesionFiles
    rows : list of Lesion
        Of the table.
    grade : Grade or None
        How many lesions of known size and contrast are found, where that was asked for.
    """

    probabilities: Probabilities
    threshold: float
    files: LesionFiles
    rows: list[Lesion]
    grade: Grade | None = None


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
    _, lesions = segment_visit(subject, recipe, out, console=console)
    folder = subject.folder(out)
    console.result(lesions_text(summarise(lesions.rows)), doubts=doubts_of(folder))
    console.say(f"page: {folder / 'report.html'}")
    return lesions.files.mask


def segment_visit(subject: Subject, recipe: Recipe, out: Path, *, console: Console) -> tuple[Anatomy, Lesions]:
    """Prepare one visit and find its lesions; parameters and errors as :func:`segment_subject`."""
    recipe = for_slices(recipe, subject)
    card = read_card(recipe.model)
    check_finds_lesions(card, SEGMENTING_TASKS)
    subject = subject.for_network(card.contrasts)
    _check_contrasts(card, subject)
    check_visit(subject, recipe, out, cards=[*card.single, *anatomy_cards()])
    remarks = tell_images(subject, console)
    steps, settings = lesion_steps(subject.contrasts, recipe, card=card), recipe.model_dump()
    with Run(
        subject.folder(out), console, recipe=settings, inputs=subject.contrasts, remarks=remarks, steps=steps
    ) as run:
        anatomy = prepare(subject, recipe, run, out=out)
        lesions = find(subject, anatomy, recipe, run, out=out, card=card)
        if not run.is_finished:
            console.started("write page")
            report = report_of(subject, anatomy, lesions, recipe, run, card=card)
            page = write_report(report, run.folder / "report.html")
            write_dataset_description(out)
            run.write_manifest([*files_in([anatomy.files, lesions.files, lesions.grade]), page])
    return anatomy, lesions


def lesions_text(summary: dict[str, Any]) -> str:
    """Number and volume of lesions, of :func:`msrim.lesions.measure.summarise`.

    Examples
    --------
    >>> lesions_text({"lesions": 1, "volume_mm3": 523.4})
    '1 lesion, 0.52 ml'
    """
    return f"{summary['lesions']} lesion{'' if summary['lesions'] == 1 else 's'}, {summary['volume_mm3'] / 1000:.2f} ml"


def as_segmented(subject: Subject, recipe: Recipe, out: Path) -> tuple[Subject, Recipe]:
    """Images and settings by which `msrim segment` found the lesions that lie in ``out``, else those given.

    With them every step is kept, and whatever needs a visit's lesions takes those that are there.

    Raises
    ------
    InputError
        The lesions were found with an image that is gone, or by settings that are none any more.
    """
    told = subject.folder(out) / "run.json"
    if not told.is_file():
        return subject, recipe
    run = json.loads(told.read_text(encoding="utf-8"))
    mask = subject.output(out, LESIONS["mask"])
    if mask.relative_to(told.parent).as_posix() not in run["outputs"]:
        return subject, recipe
    images = {contrast: Path(given["path"]) for contrast, given in run["inputs"].items()}
    # The FLAIR may have another path by now: it is the same by its content.
    images["FLAIR"] = subject.contrasts["FLAIR"]
    again = f"run `msrim segment` again, or choose another output folder than {out}"
    if gone := [str(path) for path in images.values() if not path.is_file()]:
        raise InputError(f"{', '.join(gone)}: gone, but the lesions in {told.parent} were found with it; {again}")
    try:
        settings = Recipe.model_validate(run["recipe"])
    except ValidationError as error:
        raise InputError(f"{told}: holds settings of another version of msrim; {again}") from error
    return replace(subject, contrasts=images, more={}), settings


def as_segmented_aloud(subject: Subject, recipe: Recipe, out: Path, *, console: Console) -> tuple[Subject, Recipe]:
    """As :func:`as_segmented`; a message where that is not what was given."""
    found, settings = as_segmented(subject, recipe, out)
    if (found.contrasts, settings) != (subject.contrasts, for_slices(recipe, subject)):
        console.say(f"images and settings are those of `msrim segment` in {found.folder(out)} ({settings.model})")
    return found, settings


def find(subject: Subject, anatomy: Anatomy, recipe: Recipe, run: Run, *, out: Path, card: Card) -> Lesions:
    """Every step from the working images to the files that the user gets."""
    found = run(find_lesions, anatomy.working, to_mni=anatomy.to_mni, card=card, device=recipe.device)
    threshold = fixed_threshold(recipe, card=card, subject=subject)
    if recipe.threshold is None and card.threshold_range is not None:
        threshold = run(
            choose_threshold, anatomy.working, lesion=found.lesion, default=threshold, highest=card.threshold_range[1]
        )
    grade = None
    if recipe.grade:
        grade = grade_scan(subject, anatomy, recipe, run, out=out, lesion=found.lesion, threshold=threshold)
    written = run(
        write_lesions,
        subject,
        out=out,
        probabilities=found,
        anatomy=anatomy.files,
        flair=anatomy.working.images["FLAIR"],
        rule=LesionRule(card.label, threshold, recipe.min_lesion_mm3),
        grade=None if grade is None else grade.summary,
    )
    return Lesions(found, threshold, written.files, written.rows, grade)


def grade_scan(
    subject: Subject,
    anatomy: Anatomy,
    recipe: Recipe,
    run: Run,
    *,
    out: Path,
    lesion: Path,
    threshold: float,
) -> Grade:
    """Paint lesions into the working images, find them as the visit's own are found, and count."""
    card = read_card(recipe.model)
    painted = run(paint_lesions, anatomy, lesion=lesion, threshold=threshold, seed=SEED)
    found = run.step(
        "find_painted_lesions", find_lesions, painted.working, to_mni=anatomy.to_mni, card=card, device=recipe.device
    )
    return run(
        grade_lesions,
        subject,
        painted,
        out=out,
        flair=anatomy.working.images["FLAIR"],
        brain=anatomy.files.brain,
        labels=anatomy.files.labels,
        lesion=lesion,
        painted_lesion=found.lesion,
        threshold=threshold,
        min_lesion_mm3=recipe.min_lesion_mm3,
        seed=SEED,
    )


def for_slices(recipe: Recipe, *visits: Subject) -> Recipe:
    """The recipe with the model for slices as thick as the thickest of these visits' FLAIRs: one model for all."""
    model = model_for_slices(recipe.model, max(thickest_slice(visit) for visit in visits))
    return recipe.model_copy(update={"model": model})


def thickest_slice(visit: Subject) -> float:
    """The longest side of the FLAIR's voxels, mm."""
    with without_doubts():
        return float(read_spacing(visit.contrasts["FLAIR"]).max())


def fixed_threshold(recipe: Recipe, *, card: Card, subject: Subject) -> float:
    """From which probability on a voxel is lesion where a visit has no threshold of its own."""
    return card.threshold_for(thickest_slice(subject)) if recipe.threshold is None else recipe.threshold


def check_finds_lesions(card: Card, tasks: Collection[str]) -> None:
    """Refuse a model for another task than these."""
    if card.task not in tasks:
        raise InputError(f"{card.label}: finds no lesions (its task is {card.task}); choose another model")


def find_lesions(working: Working, *, to_mni: Path, card: Card, device: str) -> Probabilities:
    """Probabilities of lesion and of lesion centre on the working grid."""
    from msrim.models import inference

    brain = read_mask(working.brain)
    network, sphere = inference.network_predictions(
        {name: read_own(path) for name, path in working.images.items()},
        tissue=read_own(working.tissue),
        brain=brain,
        mni_from_world=read_transform(to_mni),
        card=card,
        device=device,
    )
    return Probabilities(
        lesion=write_volume(inference.keep_plausible(network, brain), Path("lesion.nii")),
        sphere=write_volume(sphere, Path("sphere.nii")),
        network=write_volume(network, Path("network.nii")),
    )


def choose_threshold(working: Working, *, lesion: Path, default: float, highest: float) -> float:
    """The probability from which on a voxel of this patient is lesion, higher where the network is in doubt."""
    flair, brain = read_own(working.images["FLAIR"]), read_mask(working.brain)
    return undoubted_threshold(read_own(lesion), flair, brain=brain, default=default, highest=highest)


def write_lesions(
    subject: Subject,
    *,
    out: Path,
    probabilities: Probabilities,
    anatomy: AnatomyFiles,
    flair: Path,
    rule: LesionRule,
    grade: dict[str, Any] | None = None,
) -> WrittenLesions:
    """Mask, probability, instances, table and summary on the user's FLAIR; the grade goes to the summary.

    ``flair`` is the normalised one, in the same world.
    """
    target = read_volume(subject.contrasts["FLAIR"])
    brain = read_mask(anatomy.brain)
    probability, network = (
        target.like(np.where(brain.data, np.clip(resample(read_own(path), target).data, 0, 1), 0).astype(np.float32))
        for path in (probabilities.lesion, probabilities.network)
    )
    peaks = resample(read_own(probabilities.sphere), target)
    labels, mask = read_own(anatomy.labels), target.like(probability.data >= rule.threshold)
    image = resample(read_own(flair), target)
    mask = plausible_lesions(mask, flair=image, brain=brain, labels=labels, thick_mm=THICK_SLICES_MM)
    instances = split_confluent(mask, sphere_probability=peaks)
    lesions = measure_lesions(instances, probability=probability, labels=labels)
    instances, lesions = without_small(instances, lesions, min_mm3=rule.min_mm3)
    rows = [(row.id, f"lesion {row.id}") for row in lesions]
    how = {"Model": rule.model, "Threshold": rule.threshold, "MinimumLesionVolume": f"{rule.min_mm3:g} mm3"}
    names = subject.outputs(out, LESIONS)
    files = LesionFiles(
        mask=write_volume(target.like(instances.data > 0), names["mask"]),
        mask_sidecar=write_json({"Type": "Lesion", "Manual": False, **how}, names["mask_sidecar"]),
        probability=write_volume(probability, names["probability"]),
        probability_sidecar=write_json(
            {"Description": "Probability of lesion", "Model": rule.model}, names["probability_sidecar"]
        ),
        network=write_volume(network, names["network"]),
        network_sidecar=write_json(
            {"Description": "Probability of lesion before any rule, for curves", "Model": rule.model},
            names["network_sidecar"],
        ),
        instances=write_volume(instances, names["instances"]),
        instance_table=write_tsv(rows, names["instance_table"], columns=("index", "name")),
        table=write_lesions_tsv(lesions, names["table"]),
        table_columns=write_json(LESION_COLUMNS, names["table_columns"]),
        summary=write_json(
            {**summarise(lesions), "model": rule.model, "threshold": rule.threshold}
            | ({} if grade is None else {"grade": grade}),
            names["summary"],
        ),
    )
    return WrittenLesions(files, lesions)


def without_small(instances: Volume, lesions: list[Lesion], *, min_mm3: float) -> tuple[Volume, list[Lesion]]:
    """Leave out lesions below a volume; numbers stay without gaps because they descend by volume.

    Examples
    --------
    >>> without_small(Volume(np.zeros((1, 1, 1), np.int32), np.eye(4)), [], min_mm3=3.0)[1]
    []
    """
    kept = [lesion for lesion in lesions if lesion.volume_mm3 >= min_mm3]
    return instances.like(np.where(instances.data <= len(kept), instances.data, 0)), kept


def _check_contrasts(card: Card, subject: Subject) -> None:
    """Refuse a model that finds none without a contrast that is not there."""
    if missing := [name for name in card.required if name not in subject.contrasts]:
        raise InputError(f"{subject.contrasts['FLAIR']}: no {', '.join(missing)} beside it, which {card.label} needs")


def report_of(subject: Subject, anatomy: Anatomy, lesions: Lesions, recipe: Recipe, run: Run, *, card: Card) -> Report:
    """Content of a visit's page."""
    contrasts = {}
    for contrast, transform in anatomy.to_flair.items():
        image = read_own(anatomy.corrected[contrast])
        contrasts[contrast] = Volume(image.data, read_transform(transform) @ image.affine)
    return Report(
        **run.manifest.provenance(f"sub-{subject.label}", recipe=recipe.as_toml()),
        session=None if subject.session is None else f"ses-{subject.session}",
        model=card.label,
        threshold=lesions.threshold,
        model_limits=card.limits,
        flair=read_own(anatomy.corrected["FLAIR"]),
        contrasts=contrasts,
        brain=read_mask(anatomy.files.brain),
        tissue=read_own(anatomy.files.tissue),
        labels=read_own(anatomy.files.labels),
        instances=read_own(lesions.files.instances),
        template=load_template(),
        mni_from_flair=read_transform(anatomy.to_mni),
        lesions=lesions.rows,
        summary=summarise(lesions.rows),
        grade=None if lesions.grade is None else lesions.grade.summary,
    )
