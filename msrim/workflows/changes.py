"""What changed between two visits of one patient: midway space, matched intensities, decision, tracking, files, report.

:func:`compare_visits` is the way of the data from top to bottom; each function below it is a step
(:mod:`msrim.workflows.run`). Pairs hold the baseline first and the follow-up second; exchanged, they give exchanged
results.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.special import expit, logit

from msrim.bids import (
    COMPARED_VISIT,
    GONE_AT_BASELINE,
    NEW_AT_FOLLOWUP,
    PAIR,
    RIM_FOLDER,
    RIMS,
    Subject,
    pair_folder,
    write_dataset_description,
)
from msrim.console import Console
from msrim.errors import Doubt, Fallback
from msrim.files import write_json
from msrim.image import Volume, labels_on_grid, on_grid_of, read_volume, resample, write_volume
from msrim.labels import WHITE_MATTER
from msrim.labels import Tissue as TissueClass
from msrim.lesions.change import (
    CLEAR,
    RULE,
    T2W_WEIGHT,
    ChangedTissue,
    changed_tissue,
    clear_change,
    decide_change,
    difference_z,
)
from msrim.lesions.correct import with_corrections
from msrim.lesions.expansion import brain_volume_change, lesion_expansions
from msrim.lesions.measure import LESION_COLUMNS, measure_lesions, write_lesions_tsv
from msrim.lesions.split import split_confluent
from msrim.lesions.track import (
    CHANGE_COLUMNS,
    TrackedLesion,
    changed_parts,
    lesions_of_visit,
    numbered_as_rows,
    summarise_changes,
    track_lesions,
    with_change,
    write_changes_tsv,
)
from msrim.models.registry import Card, read_card
from msrim.preprocess.deform import halfway_deformation, log_jacobian
from msrim.preprocess.masks import remove_superficial
from msrim.preprocess.match import match_intensities
from msrim.preprocess.midway import brain_overlap, find_midway, to_midway
from msrim.recipe import Recipe
from msrim.report.longitudinal import ChangeReport, write_change_report
from msrim.results import doubts_of
from msrim.transform import read_transform, write_transform
from msrim.workflows.anatomy import Anatomy, AnatomyFiles, read_mask, read_own
from msrim.workflows.plan import change_steps
from msrim.workflows.run import Run, files_in
from msrim.workflows.segment import Lesions, fixed_threshold

S = TypeVar("S")
T = TypeVar("T")
# Baseline and follow-up.
Pair = tuple[T, T]
VISITS = ("baseline", "followup")
# What draws the outlines of changes that the rule found.
OUTLINE_MODEL = "coactseg"
# Two visits of one patient overlap at 0.97 and more, the brains of two patients at 0.92 and less.
MIN_OVERLAP = 0.95
# Another contrast that covers less of the brain tells too little of its own noise.
MIN_SHARE = 0.5
FULLY_SHOWN = 0.99


@dataclass(frozen=True)
class Edit:
    """A visit's lesion mask as it was found, and as somebody has corrected it; on the FLAIR's grid."""

    found: Path
    corrected: Path


@dataclass(frozen=True)
class PreparedVisit:
    """One visit as the comparison takes it.

    Attributes
    ----------
    subject : Subject
    anatomy : Anatomy
    lesions : Lesions or None
        None where a network compares the images by itself.
    edit : Edit or None
        What somebody has corrected.
    """

    subject: Subject
    anatomy: Anatomy
    lesions: Lesions | None
    edit: Edit | None = None


@dataclass(frozen=True)
class Midway:
    """Both visits half way between them.

    Attributes
    ----------
    brain : Path
        What is brain at both visits.
    flairs : pair of Path
        On its grid.
    transforms : pair of Path
        From each visit's world.
    quality : dict of str to float
        How well the two agree.
    """

    brain: Path
    flairs: Pair[Path]
    transforms: Pair[Path]
    quality: dict[str, float]


@dataclass(frozen=True)
class Aligned:
    """Another contrast of a visit, and its transform to the FLAIR."""

    image: Path
    to_flair: Path


@dataclass(frozen=True)
class Matched:
    """Images of both visits on the midway grid, intensities matched; the T2w where both visits show them."""

    flairs: Pair[Path]
    t2w: Pair[Path] | None = None


@dataclass(frozen=True)
class Compared:
    """What a network sees: probabilities of lesion at each visit, masks of new and gone tissue."""

    lesions: Pair[Path]
    new: Path
    gone: Path


@dataclass(frozen=True)
class Deformation:
    """How the brain has deformed between the visits.

    Attributes
    ----------
    log_jacobian : Path
        On the midway grid, see :func:`msrim.preprocess.deform.log_jacobian`.
    years : float or None
        Between the visits.
    brain : dict of str to float or None
        Changes of the brain's volume, percent.
    """

    log_jacobian: Path
    years: float | None
    brain: dict[str, float | None]


@dataclass(frozen=True)
class RimFiles:
    """What `msrim rim-classify` left of a visit: its table, and the numbered lesions on the grid of the FLAIR."""

    table: Path
    instances: Path


@dataclass(frozen=True)
class Tissue:
    """What was decided, on the midway grid.

    Attributes
    ----------
    new, gone : Path
        Masks of changed tissue.
    lesions : pair of Path
        Masks of each visit.
    probabilities : pair of Path
    sphere : Path or None
        Probability of being about a lesion's centre, where it is known.
    """

    new: Path
    gone: Path
    lesions: Pair[Path]
    probabilities: Pair[Path]
    sphere: Path | None = None


@dataclass(frozen=True)
class VisitFiles:
    """What the user gets of one visit of the pair, on the grid of that visit's FLAIR.

    Attributes
    ----------
    instances, table : Path
        Lesions, with what became of them.
    changed, changed_sidecar : Path
        Mask of the tissue that the other visit does not have.
    midway, transform : Path
        The FLAIR half way between the visits, and how to get there.
    """

    instances: Path
    table: Path
    changed: Path
    changed_sidecar: Path
    midway: Path
    transform: Path


@dataclass(frozen=True)
class PairFiles:
    """What the user gets of both visits together."""

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
    """What changed between two visits: the files, the rows of the change table, and the summary."""

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
        What the user has been told of the visits.
    console : Console
    corrected : bool
        With what somebody has corrected; the results go to a folder of their own.
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
                t1w=_contrast_of(visits, "T1w"),
                classes=(baseline.anatomy.files.tissue, followup.anatomy.files.tissue),
                years=years,
            )
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
            run.write_manifest([*files_in([changes.visits, changes.files]), page])
    return changes


def decide(
    visits: Pair[PreparedVisit], midway: Midway, recipe: Recipe, run: Run, *, card: Card
) -> tuple[Tissue, Matched]:
    """Which tissue is lesion and which has changed: by rule where the lesions are known, else by a network.

    A lesion model leaves CoactSeg the outlines of what changed; CoactSeg itself decides what did.
    """
    threshold = common_threshold(visits, recipe, card=card)
    baseline, followup = (visit.lesions for visit in visits)
    if baseline is None or followup is None:
        matched = run(match, midway)
        how = {"device": recipe.device, "threshold": threshold, "stride": recipe.stride, "plain": recipe.plain}
        compared = run(compare, midway, matched=matched, card=card, **how)
        tissue = run.step(
            "decide",
            decide_by_network,
            midway,
            matched=matched,
            compared=compared,
            threshold=threshold,
            plain=recipe.plain,
        )
        return tissue, matched
    lesions = (baseline.probabilities.lesion, followup.probabilities.lesion)
    matched = run(match, midway, lesions=lesions, t2w=_contrast_of(visits, "T2w"))
    outlining = read_card(OUTLINE_MODEL)
    compared = run(
        compare,
        midway,
        matched=matched,
        card=outlining,
        device=recipe.device,
        threshold=outlining.threshold,
        stride=recipe.stride,
    )
    tissue = run.step(
        "decide",
        decide_by_rule,
        midway,
        matched=matched,
        scans=(visits[0].anatomy.corrected["FLAIR"], visits[1].anatomy.corrected["FLAIR"]),
        compared=compared,
        lesions=lesions,
        spheres=(baseline.probabilities.sphere, followup.probabilities.sphere),
        threshold=threshold,
    )
    return tissue, matched


def common_threshold(visits: Pair[PreparedVisit], recipe: Recipe, *, card: Card) -> float:
    """One threshold for both visits, half way in odds, lest lesions change by it."""
    own = [
        fixed_threshold(recipe, card=card, subject=visit.subject) if visit.lesions is None else visit.lesions.threshold
        for visit in visits
    ]
    return float(expit(np.mean(logit(own))))


def change_method(card: Card, visits: Pair[PreparedVisit], *, plain: bool = False) -> str:
    """How changes are decided, as run.json, summary and report say it."""
    if plain:
        return f"{card.label}: what its head for new lesions says of the pair, by no further rule"
    if card.task == "longitudinal":
        return f"{card.label}; {CLEAR}"
    images = (
        f"FLAIR, and of the T2w with a weight of {T2W_WEIGHT:g} where both visits show it,"
        if _contrast_of(visits, "T2w")
        else "FLAIR"
    )
    outlines = read_card(OUTLINE_MODEL).label
    return f"rule on the difference of the {images} with {card.label}: {RULE}; outlines completed by {outlines}"


def _contrast_of(visits: Pair[PreparedVisit], contrast: str) -> Pair[Aligned] | None:
    """A contrast of both visits, where both have it."""
    anatomies = [visit.anatomy for visit in visits]
    if not all(contrast in anatomy.corrected for anatomy in anatomies):
        return None
    baseline, followup = (Aligned(anatomy.corrected[contrast], anatomy.to_flair[contrast]) for anatomy in anatomies)
    return baseline, followup


def _rims_of(subject: Subject, out: Path) -> RimFiles | None:
    """What `msrim rim-classify` left of a visit, where it did."""
    folder = subject.folder(out) / RIM_FOLDER
    files = RimFiles(subject.below(folder, RIMS["table"]), subject.below(folder, RIMS["instances"]))
    return files if files.table.is_file() and files.instances.is_file() else None


def register_to_midway(flairs: Pair[Path], *, brains: Pair[Path], to_mni: Pair[Path]) -> Midway:
    """Find the midway space: the brain at both visits, the FLAIRs on its grid, and how well the two agree."""
    images, masks = _each(read_own, flairs), _each(read_mask, brains)
    upright = np.stack(_each(read_transform, to_mni))
    midway = find_midway(*images, baseline_brain=masks[0], followup_brain=masks[1], upright=upright)
    transforms = (midway.from_baseline, midway.from_followup)
    fractions = [
        resample(mask.like(mask.data.astype(np.float32)), midway.grid, target_from_source=matrix)
        for mask, matrix in zip(masks, transforms, strict=True)
    ]
    inside = [fraction.like(fraction.data > 0.5) for fraction in fractions]
    overlap = brain_overlap(*inside)
    if overlap < MIN_OVERLAP:
        warnings.warn(
            f"the two brains overlap at Dice {overlap:.2f} only, where visits of one patient reach {MIN_OVERLAP:g}: "
            "make sure that both are of the same patient, and look at the pictures",
            Doubt,
            stacklevel=2,
        )
    both = inside[0].data & inside[1].data
    sampled = to_midway(images, midway.grid, transforms=transforms)
    correlation = float(np.corrcoef(*(image.data[both] for image in sampled))[0, 1])
    baseline, followup = (Path(f"from_{name}.txt") for name in VISITS)
    return Midway(
        brain=write_volume(midway.grid.like(both), Path("brain.nii")),
        flairs=_write_pair(sampled, "{}.nii"),
        transforms=(write_transform(transforms[0], baseline), write_transform(transforms[1], followup)),
        quality={
            "brain_overlap": round(overlap, 4),
            "flair_correlation": round(correlation, 4),
            "registration_disagreement_mm": round(midway.disagreement_mm, 3),
        },
    )


def match(midway: Midway, *, lesions: Pair[Path] | None = None, t2w: Pair[Aligned] | None = None) -> Matched:
    """Both FLAIRs with matched intensities, and both T2w where they are given.

    The lesions of the visits, where they are known, have no say in it. A T2w is 0 where either visit does not show it;
    it is left out, with a warning, if that is half of the brain.
    """
    brain = read_mask(midway.brain)
    marked = np.zeros(brain.shape, bool)
    if lesions is not None:
        for lesion in _on_midway(lesions, midway):
            marked |= lesion.data > 0.2
    flairs = match_intensities(*_each(read_own, midway.flairs), brain=brain, lesions=brain.like(marked))
    files = _write_pair(flairs, "{}.nii")
    if t2w is None:
        return Matched(files)
    seen = _seen_by_both(t2w, midway)
    if seen is None:
        warnings.warn(
            "the T2w of both visits show less than half of the brain together; changes were decided without them",
            Fallback,
            stacklevel=2,
        )
        return Matched(files)
    images, brain = seen
    matched = match_intensities(*images, brain=brain, lesions=brain.like(marked))
    return Matched(files, _write_pair(matched, "{}_t2w.nii"))


def _seen_by_both(contrast: Pair[Aligned], midway: Midway) -> tuple[Pair[Volume], Volume] | None:
    """A contrast of both visits on the midway grid, and the brain where both show it; None if that is little of it."""
    brain = read_mask(midway.brain)
    images = read_own(contrast[0].image), read_own(contrast[1].image)
    baseline, followup = (
        read_transform(path) @ read_transform(visit.to_flair)
        for path, visit in zip(midway.transforms, contrast, strict=True)
    )
    sampled = to_midway(images, brain, transforms=(baseline, followup))
    # Where its field of view or its brain ends, an image fades, and would look changed.
    shown = [image.like((image.data > 0).astype(np.float32)) for image in images]
    shares = [share.data for share in to_midway((shown[0], shown[1]), brain, transforms=(baseline, followup))]
    seen = brain.data & (np.minimum(*shares) > FULLY_SHOWN)
    if np.count_nonzero(seen) < MIN_SHARE * np.count_nonzero(brain.data):
        return None
    return sampled, brain.like(seen)


def deform(
    midway: Midway,
    *,
    matched: Matched,
    lesions: Pair[Path],
    t1w: Pair[Aligned] | None,
    classes: Pair[Path],
    years: float | None,
) -> Deformation:
    """Deform both visits until they meet half way, by the FLAIR, and the T1w where both show the brain on it.

    Parameters
    ----------
    midway : Midway
    matched : Matched
    lesions : pair of Path
        Masks on the midway grid.
    t1w : pair of Aligned or None
    classes : pair of Path
        Tissue classes of each visit on the grid of its FLAIR.
    years : float or None
    """
    brain = read_mask(midway.brain)
    contrasts = [_each(read_own, matched.flairs)]
    if t1w is not None and (seen := _seen_by_both(t1w, midway)) is not None:
        marked = np.logical_or(*(read_mask(path).data for path in lesions))
        images, shown = seen
        one, other = match_intensities(*images, brain=shown, lesions=brain.like(marked))
        # Where only one shows it there is nothing to compare.
        contrasts.append((one.like(one.data * shown.data), other.like(other.data * shown.data)))
    log_jacobians = brain.like(log_jacobian(halfway_deformation(contrasts, brain=brain)) * brain.data)
    solid = [image.like(image.data > TissueClass.CSF) for image in _each(read_own, classes)]
    shares = [
        resample(mask.like(mask.data.astype(np.float32)), brain, target_from_source=read_transform(path))
        for mask, path in zip(solid, midway.transforms, strict=True)
    ]
    inside = [share.like(share.data * brain.data) for share in shares]
    scalings = [abs(float(np.linalg.det(read_transform(path)[:3, :3]))) for path in midway.transforms]
    change = brain_volume_change(log_jacobians, inside, scalings=(scalings[0], scalings[1]))
    volumes = [np.count_nonzero(mask.data) * mask.voxel_volume_mm3 for mask in solid]
    by_masks = 100 * (volumes[1] / volumes[0] - 1) if volumes[0] else None
    figures = {"brain_volume_change_percent": change, "tissue_mask_change_percent": by_masks}
    return Deformation(
        write_volume(log_jacobians, Path("log_jacobian.nii")),
        years,
        {name: None if value is None else round(value, 3) for name, value in figures.items()},
    )


def compare(
    midway: Midway,
    *,
    matched: Matched,
    card: Card,
    device: str,
    threshold: float,
    stride: int,
    plain: bool = False,
) -> Compared:
    """What CoactSeg, run both ways round, says: lesions at either visit (probabilities), new and gone tissue (masks).

    What keeps to the brain's surface is neither lesion nor change, as in :func:`msrim.models.inference.find_lesions`.
    With ``plain`` it may be, and what is new is what the network says of the visits in their order alone.
    """
    from msrim.models.inference import SURFACE_MM, find_changes

    brain = read_mask(midway.brain)
    images = (image.data.astype(np.float32) for image in _each(read_own, matched.flairs))
    lesions, changes = find_changes(*images, card=card, device=device, stride=stride, both_ways=not plain)
    # Lesions and changes together: the grown part of a lesion may lie at the surface, if the lesion reaches deeper.
    anything = np.maximum(lesions.max(axis=0), changes.max(axis=0)) * brain.data
    if not plain:
        anything = remove_superficial(brain.like(anything), brain, deeper_than_mm=SURFACE_MM).data
    gone, new = (np.minimum(change, anything) >= threshold for change in changes)
    # Where both ways claim a change the two claims contradict each other, and nothing is said; plainly, new tissue
    # is what the network says of the visits in their order.
    both = gone & new
    return Compared(
        lesions=_write_pair([brain.like(np.minimum(lesion, anything)) for lesion in lesions], "{}.nii"),
        new=write_volume(brain.like(new if plain else new & ~both), Path("new.nii")),
        gone=write_volume(brain.like(gone & ~both), Path("gone.nii")),
    )


def decide_by_rule(
    midway: Midway,
    *,
    matched: Matched,
    scans: Pair[Path],
    compared: Compared,
    lesions: Pair[Path],
    spheres: Pair[Path],
    threshold: float,
) -> Tissue:
    """Lesions of both visits and changed tissue, see :mod:`msrim.lesions.change`; ``scans`` are the FLAIRs."""
    probabilities = _on_midway(lesions, midway)
    baseline, followup = _on_midway(spheres, midway)
    tissue = decide_change(
        *_each(read_own, matched.flairs),
        brain=read_mask(midway.brain),
        probabilities=probabilities,
        threshold=threshold,
        claims=(read_mask(compared.gone), read_mask(compared.new)),
        sampled=_as_sampled_by_other(matched.flairs, midway, scans=scans),
        t2w=None if matched.t2w is None else _each(read_own, matched.t2w),
    )
    sphere = write_volume(baseline.like((baseline.data + followup.data) / 2), Path("sphere.nii"))
    return _write_tissue(tissue, probabilities, sphere=sphere)


def _as_sampled_by_other(flairs: Pair[Path], midway: Midway, *, scans: Pair[Path]) -> Pair[Volume]:
    """Each FLAIR on the midway grid as the voxels of the other visit's scan sample it."""
    images, voxels, transforms = (
        _each(read_own, flairs),
        _each(read_own, scans),
        _each(read_transform, midway.transforms),
    )
    one, other = (
        resample(resample(image, scan, target_from_source=np.linalg.inv(matrix)), image, target_from_source=matrix)
        for image, scan, matrix in zip(images, voxels[::-1], transforms[::-1], strict=True)
    )
    return one, other


def decide_by_network(
    midway: Midway, *, matched: Matched, compared: Compared, threshold: float, plain: bool = False
) -> Tissue:
    """The same from what CoactSeg says alone; unless ``plain``, what the images do not show clearly is no change."""
    brain = read_mask(midway.brain)
    z = difference_z(*_each(read_own, matched.flairs), brain=brain)
    baseline, followup = lesions = _each(read_own, compared.lesions)
    lesion = brain.like((baseline.data + followup.data) / 2 >= threshold)
    new, gone = read_mask(compared.new), read_mask(compared.gone)
    if not plain:
        new, gone = clear_change(new, z), clear_change(gone, z.like(-z.data))
    return _write_tissue(changed_tissue(lesion, new=new, gone=gone), lesions)


def correct_tissue(midway: Midway, *, tissue: Tissue, edits: Pair[Edit | None]) -> Tissue:
    """What was decided, with what somebody has added to the lesions of a visit or taken from them."""
    brain = read_mask(midway.brain)
    given = []
    for edit, transform in zip(edits, midway.transforms, strict=True):
        if edit is None:
            given.append(None)
            continue
        found = read_volume(edit.found, mask=True)
        corrected = on_grid_of(
            read_volume(edit.corrected, mask=True), found, name=edit.corrected, target_name=edit.found
        )
        given.append(tuple(
            resample(found.like(mask.astype(np.float32)), brain, target_from_source=read_transform(transform))
            for mask in (corrected.data, corrected.data & ~found.data, found.data & ~corrected.data)
        ))  # fmt: skip
    decided = ChangedTissue(*_each(read_mask, tissue.lesions), read_mask(tissue.new), read_mask(tissue.gone))
    after = with_corrections(decided, baseline=given[0], followup=given[1])
    probabilities = _each(read_own, tissue.probabilities)
    return _write_tissue(after, probabilities, sphere=tissue.sphere)


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
) -> Changes:
    """Track every lesion and write what the user gets."""
    brain, masks = read_mask(midway.brain), _each(read_mask, tissue.lesions)
    sphere = None if tissue.sphere is None else read_own(tissue.sphere)
    parts = split_confluent(brain.like(masks[0].data | masks[1].data), sphere_probability=sphere)
    baseline, followup = (lesions_of_visit(parts, mask, min_mm3=min_lesion_mm3) for mask in masks)
    rows = track_lesions(baseline, followup)
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
    changed = changed_parts(rows, (baseline, followup), new=read_mask(tissue.new), gone=read_mask(tissue.gone))
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
    """What is known of one visit on the midway grid.

    Attributes
    ----------
    changed : Volume of int
        The new or gone parts of its lesions, by number.
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
    """What the user gets of one visit: 0 is the baseline, 1 the follow-up, ``own`` its lesions on its own grid."""
    target = read_volume(subject.contrasts["FLAIR"])
    moved = np.linalg.inv(visit.from_flair)
    # New and gone tissue keep their lesion's number until they lie on the visit's grid, so that none is lost.
    part = labels_on_grid(visit.changed, target, target_from_source=moved)
    probability = resample(visit.probability, target, target_from_source=moved)
    measured = measure_lesions(own, probability=probability, labels=labels)
    suffixes = COMPARED_VISIT | (GONE_AT_BASELINE, NEW_AT_FOLLOWUP)[which]
    names = {key: subject.below(folder, suffix) for key, suffix in suffixes.items()}
    sidecar = {"Type": "Lesion", "Manual": False, "Description": f"{('Gone', 'New')[which]} tissue", "Method": method}
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
        t2w = _each(read_own, matched.t2w)
        seen = brain.like((t2w[0].data != 0) & (t2w[1].data != 0))
        difference_t2w = write_volume(difference_z(*t2w, brain=seen), names["difference_t2w"])
    return PairFiles(
        changes=write_changes_tsv(rows, names["changes"]),
        changes_columns=write_json(CHANGE_COLUMNS, names["changes_columns"]),
        table_columns=write_json(LESION_COLUMNS, names["table_columns"]),
        summary=write_json(summary, names["summary"]),
        tracked=write_volume(numbered_as_rows(rows, instances), names["tracked"]),
        difference=write_volume(difference_z(*_each(read_own, matched.flairs), brain=brain), names["difference"]),
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
    """The rows with what the deformation says of lesions that both visits have, and whether it is more than chance."""
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
            "volume change are not told",
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


def _write_tissue(tissue: ChangedTissue, probabilities: Pair[Volume], *, sphere: Path | None = None) -> Tissue:
    return Tissue(
        new=write_volume(tissue.new, Path("new.nii")),
        gone=write_volume(tissue.gone, Path("gone.nii")),
        lesions=_write_pair((tissue.baseline, tissue.followup), "{}.nii"),
        probabilities=_write_pair(probabilities, "{}_probability.nii"),
        sphere=sphere,
    )


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
        lesions=_each(read_mask, tissue.lesions),
        new=read_mask(tissue.new),
        gone=read_mask(tissue.gone),
        mni_from_midway=mni_from_followup @ np.linalg.inv(read_transform(midway.transforms[1])),
        rows=changes.rows,
        summary=changes.summary,
    )


def _each(read: Callable[[S], T], pair: Pair[S]) -> Pair[T]:
    return read(pair[0]), read(pair[1])


def _write_pair(images: Sequence[Volume], name: str) -> Pair[Path]:
    baseline, followup = images
    return write_volume(baseline, Path(name.format("baseline"))), write_volume(followup, Path(name.format("followup")))


def _on_midway(images: Pair[Path], midway: Midway) -> Pair[Volume]:
    """An image of each visit, sampled on the midway grid."""
    baseline, followup = (
        resample(read_own(image), read_own(flair), target_from_source=read_transform(transform))
        for image, flair, transform in zip(images, midway.flairs, midway.transforms, strict=True)
    )
    return baseline, followup
