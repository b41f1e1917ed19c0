"""Which lesions of one visit carry a paramagnetic rim: from QSM, FLAIR and lesions to a table, a map and a page.

:func:`classify_rims` calls the steps in order; each function after the checks is a step
(:mod:`msrim.workflows.run`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cc3d
import numpy as np

from msrim.bids import CORRECTED_FOLDER, RIM_FOLDER, RIMS, Subject, other_labels, write_dataset_description
from msrim.console import Console
from msrim.errors import Doubt, InputError, Remark
from msrim.files import write_json
from msrim.image import Volume, bounding_boxes, read_volume, resample, same_grid, write_volume
from msrim.lesions.measure import LESION_COLUMNS, Lesion, measure_lesions, summarise, write_lesions_tsv
from msrim.lesions.patches import cut_patches, looks_inverted, susceptibility_ppm
from msrim.models.registry import Card, read_card
from msrim.preprocess.backends import align
from msrim.preprocess.background import background_of
from msrim.preprocess.masks import grown_mask
from msrim.preprocess.normalise import normalise_intensity
from msrim.recipe import Recipe
from msrim.report.rims import RimReport, write_rim_report
from msrim.results import doubts_of
from msrim.transform import read_transform, write_transform
from msrim.workflows.anatomy import Anatomy, preprocess_visit, read_mask, read_own
from msrim.workflows.corrected import check_correction, check_mask_name, check_place, read_lesions, segment_corrected
from msrim.workflows.correction import Correction, find_correction, read_correction
from msrim.workflows.inputs import (
    check_output_folder,
    check_results_folder,
    field_of_view,
    read_head,
    read_subject,
    without_doubts,
)
from msrim.workflows.plan import rim_steps
from msrim.workflows.run import Run, files_in
from msrim.workflows.segment import Lesions as FoundLesions
from msrim.workflows.segment import as_segmented_aloud, lesions_text, segment_visit

# Margin of background around the brain in registration.
OUTLINE_MM = 8.0
# A field of view holds at least this share of what is not brain.
LEAST_OUTSIDE = 0.05
# Of the values within the brain; few are the lowest or the highest unless the map was cut off.
MOST_AT_ENDS = 0.002
# Patients from so many rim+ lesions on fared worse (Absinta et al. 2019, doi:10.1001/jamaneurol.2019.2399).
MANY_RIMS = 4


@dataclass(frozen=True)
class RimInputs:
    """The user's files for rims, beside the images of the visit.

    Attributes
    ----------
    qsm : Path
        In ppm or ppb, which is recognised by its values.
    lesions : Path, optional
        Mask or instance map on the FLAIR's grid or on the QSM's. Without it, a manual correction among the results is
        used, and the results go to ``corrected/rims/``; or else what `msrim segment` left there, or it is run.
    magnitude : Path, optional
        Of the gradient echo, aligned with the QSM: FLAIRs are easier to register to it.
    """

    qsm: Path
    lesions: Path | None = None
    magnitude: Path | None = None


@dataclass(frozen=True)
class Susceptibility:
    """The QSM in ppm, and the unit that it was given in."""

    qsm: Path
    unit: str


@dataclass(frozen=True)
class LesionsOnQsm:
    """The lesions to classify.

    Attributes
    ----------
    instances, labels : Path
        Numbered lesions on the grid that they were given on, and the head labels there.
    flair, in_qsm : Path
        FLAIR and numbered lesions on the QSM's grid.
    """

    instances: Path
    labels: Path
    flair: Path
    in_qsm: Path


@dataclass(frozen=True)
class Classified:
    """Inputs and predictions of the network.

    Attributes
    ----------
    patches, around : Path
        Arrays (L, 2, X, Y, Z) of QSM and FLAIR, and (L, X, Y, Z) of the lesions around.
    model : str
        Label of the network.
    numbers : list of int
        The lesion that each patch is about.
    probability : dict of str to float
        Of a rim, by the lesion's number; absent where nothing could be judged.
    remarks : dict of str to list of str
        By the lesion's number.
    """

    patches: Path
    around: Path
    model: str
    numbers: list[int]
    probability: dict[str, float]
    remarks: dict[str, list[str]]


@dataclass(frozen=True)
class RimFiles:
    """Result files, on the grid that the lesions were given on."""

    rims: Path
    instances: Path
    table: Path
    table_columns: Path
    summary: Path


@dataclass(frozen=True)
class Rims:
    """The files, the rows of the table, and the summary."""

    files: RimFiles
    rows: list[Lesion]
    summary: dict[str, Any]


def classify_rims(
    subject: Subject,
    given: RimInputs,
    recipe: Recipe,
    out: Path,
    *,
    console: Console,
    model: str = "datrnet",
    threshold: str = "f1",
) -> Path:
    """Classify the lesions of one visit.

    Parameters
    ----------
    subject : Subject
    given : RimInputs
    recipe : Recipe
        How the FLAIR is prepared and, without lesions in ``given``, segmented. Where `msrim segment` has been before,
        its images and settings are taken and what it left stays as it is.
    out : Path
        Folder of the derivative dataset; the results go to ``rims/`` below the visit's folder.
    console : Console
    model : str
        Of the task "rims": a name, or folder of a card and its weights.
    threshold : str
        "f1" and "sensitive" are the card's; or a number between 0 and 1.

    Returns
    -------
    Path
        The table of lesions.

    Raises
    ------
    MsrimError
        An input cannot be used; nothing has been written then.
    """
    card = check_rims(subject, given, out, model=model)
    correction = _correction_for(subject, given, out)
    limit = card.rim_threshold(threshold)
    console.say(f"QSM: {given.qsm}")
    console.say(f"{card.label}: {' '.join(card.limits.split())}")
    subject, recipe = as_segmented_aloud(subject, recipe, out, console=console)
    folder = subject.folder(out)
    others = [path for path in (given.qsm, given.magnitude) if path is not None]
    remarks = [remark for path in others for remark in other_labels(path, subject.contrasts["FLAIR"])]
    settings = {**recipe.model_dump(), "rim_model": card.label, "rim_threshold": limit}
    if correction is not None:
        folder = folder / CORRECTED_FOLDER
        remarks.append(f"the lesions were corrected by hand: {correction.mask}")
        settings["lesions"] = "corrected by hand"
    for remark in remarks:
        console.note(remark)
    anatomy, found = _prepare(subject, recipe, out, given=given, correction=correction, console=console)
    inputs = subject.contrasts | _files(given, correction)
    folder = folder / RIM_FOLDER
    with Run(folder, console, recipe=settings, inputs=inputs, remarks=remarks, steps=rim_steps(card)) as run:
        susceptibility = run(read_qsm, given.qsm)
        lesions = _bring(subject, susceptibility, anatomy, recipe, run, given=given, found=found)
        classified = _classify(susceptibility, lesions, card, recipe, run)
        rims = run(
            write_rims,
            subject,
            susceptibility,
            lesions=lesions,
            classified=classified,
            rows=None if found is None else found.rows,
            threshold=limit,
            possible_from=card.sensitive_threshold,
            folder=run.folder,
        )
        if not run.is_finished:
            console.started("write page")
            report = _report(subject, classified, rims, recipe, run, card=card)
            page = write_rim_report(report, run.folder / "report.html")
            write_dataset_description(out)
            run.write_manifest([*files_in(rims.files), page])
    text = f"{lesions_text(rims.summary)}, {rims_text(rims.summary)}"
    console.result(text, doubts=doubts_of(subject.folder(out), folder))
    console.say(f"page: {folder / 'report.html'}")
    return rims.files.table


def rims_text(summary: dict[str, Any]) -> str:
    """Number of rims in the summary of :func:`write_rims`; earlier versions' do not tell possible ones.

    Examples
    --------
    >>> rims_text({"rim_lesions": 2, "rim_possible": 3})
    '2 with a rim, 3 more possible'
    """
    more = summary.get("rim_possible")
    return f"{summary['rim_lesions']} with a rim" + (f", {more} more possible" if more else "")


def _files(given: RimInputs, correction: Correction | None) -> dict[str, Path]:
    """Inputs beside the visit's images, by names for run.json."""
    lesions = given.lesions if given.lesions is not None or correction is None else correction.mask
    files = {"Chimap": given.qsm, "lesions": lesions, "magnitude": given.magnitude}
    return {name: path for name, path in files.items() if path is not None}


def _correction_for(subject: Subject, given: RimInputs, out: Path) -> Correction | None:
    """The visit's manual correction, checked, unless the user gave other lesions."""
    correction = find_correction(subject, out)
    if correction is None or (given.lesions is not None and given.lesions.resolve() != correction.mask.resolve()):
        return None
    check_correction(correction, subject, out)
    return correction


def _prepare(
    subject: Subject, recipe: Recipe, out: Path, *, given: RimInputs, correction: Correction | None, console: Console
) -> tuple[Anatomy, FoundLesions | None]:
    """The visit's anatomy, and its lesions as corrected or found; None where the user gave others."""
    if correction is not None:
        return segment_corrected(subject, recipe, out, correction.mask, console=console)
    if given.lesions is None:
        return segment_visit(subject, recipe, out, console=console)
    return preprocess_visit(subject, recipe, out, console=console), None


def _bring(
    subject: Subject,
    susceptibility: Susceptibility,
    anatomy: Anatomy,
    recipe: Recipe,
    run: Run,
    *,
    given: RimInputs,
    found: FoundLesions | None,
) -> LesionsOnQsm:
    """FLAIR and lesions on the QSM's grid, by the transform from one to the other."""
    flair = subject.contrasts["FLAIR"]
    to_qsm = run(
        align_to_qsm,
        flair,
        corrected=anatomy.corrected["FLAIR"],
        brain=anatomy.brain,
        qsm=susceptibility.qsm,
        backend=run.prepared_by(recipe.backend),
        magnitude=given.magnitude,
    )
    return run(
        bring_to_qsm,
        flair,
        qsm=susceptibility.qsm,
        to_qsm=to_qsm,
        labels=anatomy.files.labels,
        found=None if found is None else found.files.instances,
        lesions=given.lesions,
    )


def _classify(
    susceptibility: Susceptibility, lesions: LesionsOnQsm, card: Card, recipe: Recipe, run: Run
) -> Classified:
    """The probability of a rim for every lesion, with radiomic features for the networks that use them."""
    from msrim.models.rims import inputs_of

    features = None
    if inputs_of(card).features:
        features = run(measure_radiomics, susceptibility.qsm, instances=lesions.in_qsm)
    return run(classify, susceptibility.qsm, lesions=lesions, card=card, device=recipe.device, features=features)


def check_rims(subject: Subject, given: RimInputs, out: Path, *, model: str) -> Card:
    """Check everything that can be checked before the first file is written; arguments as :func:`classify_rims`."""
    from msrim.models import load_model

    check_output_folder(out)
    check_results_folder(subject, out)
    card = read_card(model)
    if card.task != "rims":
        raise InputError(f"{card.label}: classifies no rims (its task is {card.task}); choose another model")
    load_model(card)
    images = read_subject(subject)
    with without_doubts():
        volume, _ = susceptibility_ppm(_on_zero(read_head(given.qsm), name=given.qsm), name=str(given.qsm))
    _check_overlap(volume, images["FLAIR"], names=(given.qsm, subject.contrasts["FLAIR"]))
    if given.magnitude is not None:
        _check_overlap(volume, read_head(given.magnitude), names=(given.qsm, given.magnitude))
    if given.lesions is not None:
        check_mask_name(given.lesions, subject)
        with without_doubts():
            read_lesions(given.lesions, {subject.contrasts["FLAIR"]: images["FLAIR"], given.qsm: volume})
    return card


def _check_overlap(qsm: Volume, other: Volume, *, names: tuple[Path, Path]) -> None:
    (low, high), (other_low, other_high) = field_of_view(qsm), field_of_view(other)
    if (low > other_high).any() or (other_low > high).any():
        raise InputError(
            f"{names[0]} and {names[1]}: lie beside each other in space; "
            "give images of the same patient and visit, or correct the position in the header"
        )


def read_qsm(path: Path) -> Susceptibility:
    """Read and check a user's QSM; write it in ppm, and say which unit it was in."""
    qsm, unit = susceptibility_ppm(_on_zero(read_volume(path), name=path), name=str(path))
    if looks_inverted(qsm):
        warnings.warn(
            "the QSM's sign looks inverted: dark values reach further than bright ones. Rims are recognised by being "
            "bright; multiply the map by -1 and run again if its veins are dark",
            Doubt,
            stacklevel=2,
        )
    values = qsm.data[qsm.data != 0]
    ends = [float(values.min()), float(values.max())]
    if np.isin(values, ends).mean() > MOST_AT_ENDS:
        warnings.warn(
            f"{path}: its values end at {ends[0]:g} and {ends[1]:g} ppm, where many lie: it was cut off there, and "
            "rims beyond look flat; give the map as it was computed",
            Doubt,
            stacklevel=2,
        )
    if np.mean(qsm.data == 0) < LEAST_OUTSIDE:
        warnings.warn(
            "the QSM is not zero outside the brain, so its noise there counts as brain; mask it and run again",
            Doubt,
            stacklevel=2,
        )
    return Susceptibility(write_volume(qsm, Path("qsm.nii")), unit)


def _on_zero(qsm: Volume, *, name: Path) -> Volume:
    """A QSM that is 0 outside the brain: an offset or a reference may have moved what lies there, too."""
    background = background_of(qsm.data)
    if not background:
        return qsm
    warnings.warn(f"{name}: its background is {background:g} and was set to 0", Remark, stacklevel=2)
    return qsm.like(np.where(qsm.data == background, 0, qsm.data).astype(np.float32))


def align_to_qsm(
    flair: Path, *, corrected: Path, brain: Path, qsm: Path, backend: str, magnitude: Path | None = None
) -> Path:
    """Rigid transform from the FLAIR to the QSM, by way of its magnitude image where there is one.

    Images on one grid are taken as aligned. A QSM alone is hard to register: grey and white matter differ by
    less than its noise. The brain's outline does, so it is made visible and kept in view to the last step.
    """
    target, moving, mask = read_own(qsm), read_own(corrected), read_mask(brain)
    if same_grid(read_volume(flair), target):
        return write_transform(np.eye(4), Path("to_qsm.txt"))
    inside = target.like(target.data != 0)
    if magnitude is None:
        low, high = np.percentile(target.data[inside.data], (1, 99))
        grey = 1 + np.clip((target.data - low) / (high - low), 0, 1)
        fixed, region = target.like((grey * inside.data).astype(np.float32)), grown_mask(inside, by_mm=OUTLINE_MM)
        moving = moving.like(moving.data * mask.data)
    else:
        fixed, region = resample(read_volume(magnitude), target), inside
    matrix = align(moving, fixed, moving_mask=mask, fixed_mask=region, backend=backend, names=("FLAIR", "QSM"))
    return write_transform(matrix, Path("to_qsm.txt"))


def bring_to_qsm(
    flair: Path, *, qsm: Path, to_qsm: Path, labels: Path, found: Path | None = None, lesions: Path | None = None
) -> LesionsOnQsm:
    """FLAIR and lesions on the QSM's grid; the lesions on their own grid, and the head labels there.

    Parameters
    ----------
    flair : Path
        The user's own file.
    labels : Path
        Head labels on its grid.
    found : Path, optional
        Instances that `msrim segment` found, on the FLAIR's grid.
    lesions : Path, optional
        The user's mask or instance map, on the FLAIR's grid or on the QSM's.
    """
    target, image, matrix = read_own(qsm), read_volume(flair), read_transform(to_qsm)
    if lesions is not None:
        instances = read_lesions(lesions, {flair: image, qsm: target})
    elif found is not None:
        instances = read_own(found)
    else:
        raise ValueError("neither found lesions nor the user's")
    moved, anatomy, shown = instances, read_own(labels), image
    in_qsm = resample(image, target, target_from_source=matrix)
    if not same_grid(instances, target):
        moved = resample(instances, target, target_from_source=matrix, nearest=True)
    elif not same_grid(instances, image):
        anatomy = resample(anatomy, target, target_from_source=matrix, nearest=True)
        shown = in_qsm
    if lesions is not None:
        check_place(instances, shown, brain=anatomy.like(anatomy.data > 0), correction=read_correction(lesions))
    return LesionsOnQsm(
        instances=write_volume(instances, Path("lesions.nii")),
        labels=write_volume(anatomy, Path("labels.nii")),
        flair=write_volume(in_qsm, Path("flair.nii")),
        in_qsm=write_volume(moved, Path("in_qsm.nii")),
    )


def measure_radiomics(qsm: Path, *, instances: Path) -> Path:
    """The radiomic features of every lesion."""
    from msrim.lesions.radiomics import lesion_features

    np.save("features.npy", lesion_features(read_own(qsm), read_own(instances)), allow_pickle=False)
    return Path("features.npy")


def classify(qsm: Path, *, lesions: LesionsOnQsm, card: Card, device: str, features: Path | None = None) -> Classified:
    """Patches of all lesions, the lesions around them, their numbers; by number, the probabilities and remarks."""
    from msrim.models.rims import inner, patch_size, rim_probabilities, shown_size

    map_ppm, labels = read_own(qsm), read_own(lesions.in_qsm)
    flair_z = normalise_intensity(read_own(lesions.flair), map_ppm.like(map_ppm.data != 0))
    patches = cut_patches(map_ppm, flair_z, labels, size=patch_size(card), spacing_mm=card.voxel_mm)
    known = None if features is None else np.load(features, allow_pickle=False)
    probability = rim_probabilities(card, patches.images, known, device=device)
    numbers = [int(number) for number in patches.numbers]
    judged = {str(n): round(float(p), 4) for n, p in zip(numbers, probability, strict=True) if patches.seen[n]}
    marked = labels.like((labels.data > 0).astype(np.float32))
    shown = shown_size(card)
    others = cut_patches(map_ppm, marked, labels, size=shown, spacing_mm=card.voxel_mm)
    np.save("patches.npy", inner(patches.images, shown), allow_pickle=False)
    np.save("around.npy", others.images[:, 1] > 0.5, allow_pickle=False)
    remarks = {str(n): texts for n, texts in patches.remarks.items() if texts}
    return Classified(Path("patches.npy"), Path("around.npy"), card.label, numbers, judged, remarks)


def write_rims(
    subject: Subject,
    susceptibility: Susceptibility,
    *,
    lesions: LesionsOnQsm,
    classified: Classified,
    rows: list[Lesion] | None,
    threshold: float,
    possible_from: float | None,
    folder: Path,
) -> Rims:
    """Table, map of rim+ lesions and summary.

    Parameters
    ----------
    rows : list of Lesion or None
        The table of `msrim segment`; lesions of the user's own mask are measured here.
    threshold : float
        The probability from which on a lesion is rim+.
    possible_from : float or None
        That from which on the other ones are counted as possible: few rims lie below it.
    """
    instances = read_own(lesions.instances)
    if rows is None:
        marked = instances.like((instances.data > 0).astype(np.float32))
        rows = measure_lesions(instances, probability=marked, labels=read_own(lesions.labels))
    table = [_judged(lesion, classified, threshold=threshold) for lesion in rows]
    positive = [lesion.id for lesion in table if lesion.rim]
    count = len(positive)
    judged = [lesion.rim_probability for lesion in table if lesion.rim is False]
    for numbers in _touching(instances.data, positive):
        # One rim goes around both parts where confluent lesions were separated that are one.
        count -= len(numbers) - 1
        warnings.warn(
            f"lesions {' and '.join(map(str, numbers))}: touch, and each is called rim+; they count as one with a rim",
            Remark,
            stacklevel=2,
        )
    summary = {
        **summarise(table),
        "rim_lesions": count,
        "rim_lesions_at_least_1": count >= 1,
        f"rim_lesions_at_least_{MANY_RIMS}": count >= MANY_RIMS,
        "rim_possible": 0 if possible_from is None else sum(p >= possible_from for p in judged if p is not None),
        "rim_possible_from": possible_from,
        "rim_not_judged": sum(lesion.rim is None for lesion in table),
        "rim_model": classified.model,
        "rim_threshold": threshold,
        "qsm_unit": susceptibility.unit,
    }
    rims = instances.like(np.where(np.isin(instances.data, positive), instances.data, 0))
    names = {key: subject.below(folder, suffix) for key, suffix in RIMS.items()}
    files = RimFiles(
        rims=write_volume(rims, names["rims"]),
        instances=write_volume(instances, names["instances"]),
        table=write_lesions_tsv(table, names["table"]),
        table_columns=write_json(LESION_COLUMNS, names["table_columns"]),
        summary=write_json(summary, names["summary"]),
    )
    return Rims(files, table, summary)


def _judged(lesion: Lesion, classified: Classified, *, threshold: float) -> Lesion:
    """A lesion's row with its rim; remarks on the lesion become warnings."""
    p = classified.probability.get(str(lesion.id))
    why = classified.remarks.get(str(lesion.id), [] if p is not None else ["outside the QSM's field of view"])
    if why:
        judged = "" if p is not None else ", not judged"
        warnings.warn(f"lesion {lesion.id}: {'; '.join(why)}{judged}", Remark, stacklevel=2)
    return replace(lesion, rim_probability=p, rim=None if p is None else p >= threshold)


def _touching(instances: np.ndarray, numbers: list[int]) -> list[list[int]]:
    """Those of the numbered lesions that touch one another, group by group."""
    parts = cc3d.connected_components(np.isin(instances, numbers), connectivity=26)
    groups = [np.unique(instances[box][parts[box] == part]) for part, box in bounding_boxes(parts).items()]
    return [group.tolist() for group in groups if len(group) > 1]


def _report(subject: Subject, classified: Classified, rims: Rims, recipe: Recipe, run: Run, *, card: Card) -> RimReport:
    return RimReport(
        **run.manifest.provenance(f"sub-{subject.label}", recipe=recipe.as_toml(), doubts=doubts_of(run.folder.parent)),
        session=None if subject.session is None else f"ses-{subject.session}",
        model=card.label,
        model_limits=card.limits,
        lesions=rims.rows,
        patches=np.load(classified.patches, allow_pickle=False),
        around=np.load(classified.around, allow_pickle=False),
        numbers=classified.numbers,
        spacing_mm=card.voxel_mm[0],
        remarks=classified.remarks,
        summary=rims.summary,
    )
