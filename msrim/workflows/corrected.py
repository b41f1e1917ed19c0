"""Manually corrected lesions: whether a mask can be this visit's, and its measurements.

Lesions that were found stay where they are. Measurements of the corrected mask go to ``corrected/`` below the visit's
folder, under the same names.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import cc3d
import numpy as np

from msrim.bids import ANATOMY, CORRECTED_FOLDER, LESIONS, Subject, entity_of, write_dataset_description
from msrim.console import Console
from msrim.errors import InputError, Remark
from msrim.files import sha256_of, write_json, write_tsv
from msrim.image import Volume, on_grid_of, read_labels, read_volume, resample, write_volume
from msrim.lesions.measure import LESION_COLUMNS, measure_lesions, summarise, write_lesions_tsv
from msrim.lesions.split import largest_first, split_confluent
from msrim.models.registry import read_card
from msrim.recipe import Recipe
from msrim.report.segmentation import Report, write_report
from msrim.results import doubts_of
from msrim.workflows.anatomy import Anatomy, AnatomyFiles, read_mask, read_own
from msrim.workflows.correction import Correction, find_correction, read_correction, sidecar_of
from msrim.workflows.inputs import check_output_folder, check_results_folder, read_subject, without_doubts
from msrim.workflows.plan import corrected_steps
from msrim.workflows.run import Run, files_in
from msrim.workflows.segment import (
    LesionFiles,
    Lesions,
    WrittenLesions,
    as_segmented_aloud,
    for_slices,
    lesions_text,
    report_of,
    segment_visit,
)

# Of lesions at least this share lies in the brain, and is brighter on the FLAIR than half of the brain. The masks of
# three patients in one space: 0.98 to 1.00 on their own FLAIR, 0.41 to 0.74 on another's.
MIN_IN_BRAIN, MIN_BRIGHT = 0.5, 0.75
# Nobody's lesions fill so much of the brain; masks of the white matter or of the brain do.
MAX_OF_BRAIN = 0.25


def check_correction(correction: Correction, subject: Subject, out: Path) -> None:
    """Refuse a mask that cannot be this visit's.

    Raises
    ------
    InputError
        It cannot be read, lies on another grid, or belongs to another patient, visit or FLAIR by its name, its sidecar
        or, where the brain is known already, its voxels.
    """
    mask, flair = correction.mask, subject.contrasts["FLAIR"]
    check_mask_name(mask, subject)
    if (drawn_on := _flair_of(mask)) is not None and drawn_on != sha256_of(flair):
        raise InputError(f"{mask}: was drawn on another FLAIR than {flair} by its sidecar; give the mask of this one")
    brain = subject.output(out, ANATOMY["brain"])
    with without_doubts():
        image = read_volume(flair)
        lesions = on_grid_of(read_labels(mask), image, name=mask, target_name=flair)
        if brain.is_file():
            inside = on_grid_of(read_mask(brain), image, name=brain, target_name=flair)
            check_place(lesions, image, brain=inside, correction=correction)


def check_mask_name(mask: Path, subject: Subject) -> None:
    """Refuse a mask that is of another patient or visit by its name or the folders above it."""
    for key, own, what in (("sub", subject.label, "patient"), ("ses", subject.session, "visit")):
        named = entity_of(mask, key)
        known = {label for label in (own, entity_of(subject.contrasts["FLAIR"], key)) if label is not None}
        if named is not None and known and named not in known:
            raise InputError(
                f"{mask}: is of {what} {key}-{named} by its name, not of {key}-{sorted(known)[0]}; "
                f"give the mask of this {what}"
            )


def check_place(lesions: Volume, flair: Volume, *, brain: Volume, correction: Correction) -> None:
    """Refuse a mask that does not mark lesions of this brain.

    Raises
    ------
    InputError
        Half of it lies outside the brain, or it fills a quarter of it; or it is hardly brighter on the FLAIR than the
        brain, and no sidecar says that it was drawn on it.
    """
    marked, inside = lesions.data > 0, brain.data.astype(bool)
    if not marked.any() or not inside.any():
        return
    mask = correction.mask
    share = np.mean(inside[marked])
    if share < MIN_IN_BRAIN:
        raise InputError(
            f"{mask}: {100 * (1 - share):.0f} % of it lies outside the FLAIR's brain; give the mask of this patient"
        )
    filled = np.mean(marked[inside])
    if filled > MAX_OF_BRAIN:
        raise InputError(
            f"{mask}: marks {100 * filled:.0f} % of the brain, which no lesions do; give the mask of the lesions alone"
        )
    bright = np.mean(flair.data[marked] > np.median(flair.data[inside]))
    if bright < MIN_BRIGHT and _flair_of(mask) is None:
        raise InputError(
            f"{mask}: only {100 * bright:.0f} % of it is brighter on the FLAIR than half of the brain is; "
            "give the mask of this patient and visit"
        )


def measure_corrected(subject: Subject, recipe: Recipe, out: Path, lesions: Path, *, console: Console) -> Path:
    """Measure corrected lesions and show the result; parameters and errors as :func:`segment_corrected`.

    Returns
    -------
    Path
        The mask, on the FLAIR's own grid.
    """
    _, corrected = segment_corrected(subject, recipe, out, lesions, console=console)
    folder = subject.folder(out)
    told = doubts_of(folder, folder / CORRECTED_FOLDER)
    console.result(f"corrected by hand: {lesions_text(summarise(corrected.rows))}", doubts=told)
    console.say(f"page: {folder / CORRECTED_FOLDER / 'report.html'}")
    return corrected.files.mask


def segment_corrected(
    subject: Subject, recipe: Recipe, out: Path, lesions: Path, *, console: Console
) -> tuple[Anatomy, Lesions]:
    """Measure the manually corrected lesions of one visit, beside those that are found.

    Parameters
    ----------
    subject : Subject
    recipe : Recipe
        Where `msrim segment` has been before, its images and settings are taken and what it left stays as it is.
    out : Path
        Folder of the derivative dataset.
    lesions : Path
        Mask or numbered lesions on the FLAIR's grid, in any order and direction of its axes.
    console : Console

    Raises
    ------
    MsrimError
        An input cannot be used; nothing has been written then. Where nothing was known of the brain before, the visit
        may have been segmented.
    """
    correction = read_correction(Path(lesions).absolute())
    _check(correction, subject, out)
    subject, recipe = as_segmented_aloud(subject, recipe, out, console=console)
    anatomy, found = segment_visit(subject, recipe, out, console=console)
    recipe = for_slices(recipe, subject)
    card = read_card(recipe.model)
    settings = recipe.model_dump() | {"lesions": "corrected by hand"}
    inputs = subject.contrasts | {"lesions": correction.mask}
    remarks = _remarks_on_another(correction, subject, out, console=console)
    folder = subject.folder(out) / CORRECTED_FOLDER
    with Run(folder, console, recipe=settings, inputs=inputs, remarks=remarks, steps=corrected_steps()) as run:
        instances = run(
            number_corrected,
            subject.contrasts["FLAIR"],
            correction=correction,
            brain=anatomy.files.brain,
            sphere=found.probabilities.sphere,
        )
        written = run(
            write_corrected,
            subject,
            instances=instances,
            correction=correction,
            anatomy=anatomy.files,
            found=found,
            model=card.label,
            folder=folder,
        )
        corrected = replace(found, files=written.files, rows=written.rows)
        now, before = (lesions_text(summarise(each.rows)) for each in (corrected, found))
        console.say(f"corrected: {now}; found: {before}")
        if not run.is_finished:
            console.started("write page")
            report = report_of(subject, anatomy, corrected, recipe, run, card=card)
            page = write_report(_with_correction(report, correction), folder / "report.html")
            write_dataset_description(out)
            own = [path for path in files_in(written.files) if path.is_relative_to(folder.absolute())]
            run.write_manifest([*own, page])
    return anatomy, corrected


def _check(correction: Correction, subject: Subject, out: Path) -> None:
    check_output_folder(out)
    check_results_folder(subject, out)
    read_subject(subject)
    check_correction(correction, subject, out)


def _remarks_on_another(correction: Correction, subject: Subject, out: Path, *, console: Console) -> list[str]:
    """A remark, shown as well, if rims and changes will go by another correction."""
    other = find_correction(subject, out)
    if other is None or other.mask == correction.mask:
        return []
    remark = f"rims and changes go by the correction in {other.mask}; move it away if {correction.mask} shall count"
    console.note(remark)
    return [remark]


def _with_correction(report: Report, correction: Correction) -> Report:
    return replace(report, corrected=str(correction.mask), note=correction.note)


def number_corrected(flair: Path, *, correction: Correction, brain: Path, sphere: Path) -> Path:
    """The corrected lesions with their numbers: a mask is taken apart as what is found is, numbers stay."""
    image = read_volume(flair)
    lesions = on_grid_of(read_labels(correction.mask), image, name=correction.mask, target_name=flair)
    check_place(lesions, image, brain=read_mask(brain), correction=correction)
    if len(np.unique(lesions.data)) > 2:
        numbered = read_lesions(correction.mask, {flair: image})
    else:
        numbered = split_confluent(lesions.like(lesions.data > 0), sphere_probability=resample(read_own(sphere), image))
    return write_volume(numbered, Path("instances.nii"))


def write_corrected(
    subject: Subject,
    *,
    instances: Path,
    correction: Correction,
    anatomy: AnatomyFiles,
    found: Lesions,
    model: str,
    folder: Path,
) -> WrittenLesions:
    """Mask, instances, table and summary of corrected lesions, however small; probabilities are the network's."""
    numbered, probability = read_own(instances), read_own(found.files.probability)
    lesions = measure_lesions(numbered, probability=probability, labels=read_own(anatomy.labels))
    how = {"Lesions": str(correction.mask), "Sha256": sha256_of(correction.mask), "Note": correction.note}
    sidecar = {"Type": "Lesion", "Manual": True, "Description": "Lesions corrected by hand", **how, "Model": model}
    summary = {**summarise(lesions), "corrected": how, "model": model, "threshold": found.threshold}
    names = {key: subject.below(folder, suffix) for key, suffix in LESIONS.items()}
    files = LesionFiles(
        mask=write_volume(numbered.like(numbered.data > 0), names["mask"]),
        mask_sidecar=write_json(sidecar, names["mask_sidecar"]),
        probability=found.files.probability,
        probability_sidecar=found.files.probability_sidecar,
        network=found.files.network,
        network_sidecar=found.files.network_sidecar,
        instances=write_volume(numbered, names["instances"]),
        instance_table=write_tsv(
            [(row.id, f"lesion {row.id}") for row in lesions], names["instance_table"], columns=("index", "name")
        ),
        table=write_lesions_tsv(lesions, names["table"]),
        table_columns=write_json(LESION_COLUMNS, names["table_columns"]),
        summary=write_json(summary, names["summary"]),
    )
    return WrittenLesions(files, lesions)


def read_lesions(path: Path, grids: dict[Path, Volume]) -> Volume:
    """A user's lesions, numbered, on the first of some grids on which they lie; all zeros is a valid answer.

    Connected parts of a mask get numbers, confluent ones parted at their waists. Numbers of an instance map stay as
    they are; where they are kinds of lesions and not lesions (few numbers, many separate parts), the parts get numbers.

    Parameters
    ----------
    path : Path
    grids : dict of Path to Volume
        The FLAIR's and the QSM's, by their files.

    Raises
    ------
    InputError
        The file cannot be used, or lies on neither grid.
    """
    given = read_labels(path)
    lesions, reasons = None, []
    for name, grid in grids.items():
        try:
            lesions = on_grid_of(given, grid, name=path, target_name=name)
            break
        except InputError as error:
            reasons.append(str(error))
    if lesions is None:
        raise InputError(f"{path}: lies neither on the FLAIR's grid nor on the QSM's; {reasons[0]}")
    numbers = np.unique(lesions.data[lesions.data > 0])
    if len(numbers) <= 1:
        return split_confluent(lesions.like(lesions.data > 0), sphere_probability=None)
    # cc3d keeps touching labels apart.
    parts = cc3d.connected_components(lesions.data.astype(np.int32), connectivity=26)
    scattered = parts.max() - len(numbers)
    if parts.max() > 2 * len(numbers):
        warnings.warn(
            f"{path}: its {len(numbers)} labels have {parts.max()} separate parts, so they are taken for kinds of "
            "lesions; every part was numbered as a lesion",
            Remark,
            stacklevel=2,
        )
        return lesions.like(largest_first(parts))
    if scattered:
        warnings.warn(
            f"{path}: {scattered} parts lie apart from the lesion whose number they carry and count with it",
            Remark,
            stacklevel=2,
        )
    return lesions


def _flair_of(mask: Path) -> str | None:
    """Digest of the FLAIR that a mask was drawn on, as its sidecar has it."""
    drawn_on = sidecar_of(mask).get("FLAIR")
    return drawn_on.get("sha256") if isinstance(drawn_on, dict) else None
