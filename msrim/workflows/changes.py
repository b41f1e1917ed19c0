"""Changed tissue between two visits of one patient: midway space, matched intensities, decision.

:func:`compare_pair` calls the steps in order; each function below :func:`decide` is one (:mod:`msrim.workflows.run`).
Pairs hold the baseline first and the follow-up second; exchanged, they give exchanged results. Lesions are tracked, and
results written, in :mod:`msrim.workflows.comparison`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.special import expit, logit

from msrim.bids import Subject
from msrim.errors import Doubt, Fallback
from msrim.image import Volume, on_grid_of, read_volume, resample, write_volume
from msrim.labels import WHITE_MATTER
from msrim.labels import Tissue as TissueClass
from msrim.lesions.change import (
    RULE,
    ChangedTissue,
    ComparedScan,
    changed_tissue,
    clear_change,
    decide_change,
    difference_z,
)
from msrim.lesions.correct import Given, with_corrections
from msrim.lesions.expansion import MAX_NOISE, brain_volume_change, lesion_expansions
from msrim.lesions.plausible import Seen, implausible_everywhere
from msrim.lesions.split import split_confluent
from msrim.lesions.track import TrackedLesion, lesions_of_visit, numbered_as_rows, track_lesions
from msrim.models.registry import THICK_SLICES_MM, Card, read_card
from msrim.preprocess.deform import halfway_deformation, log_jacobian
from msrim.preprocess.identity import SAME_BRAIN, likeness
from msrim.preprocess.masks import remove_superficial
from msrim.preprocess.match import match_intensities
from msrim.preprocess.midway import brain_overlap, find_midway, sharp_on_midway, to_midway
from msrim.recipe import Recipe
from msrim.transform import read_transform, write_transform
from msrim.workflows.anatomy import Anatomy, read_mask, read_own
from msrim.workflows.inputs import about
from msrim.workflows.run import Run
from msrim.workflows.segment import Lesions, Probabilities, fixed_threshold

S = TypeVar("S")
T = TypeVar("T")
# Baseline and follow-up.
Pair = tuple[T, T]
VISITS = ("baseline", "followup")
# Completes the outlines of changes that the rule found.
OUTLINE_MODEL = "coactseg"
# How the method is told.
LEFT_OUT = (
    "no lesion is what lies in the ventricles, in the cortex and is no brighter (slices under 5 mm), or wholly in the "
    "outermost of thick slices, at every visit that it is marked at"
)
# Two visits of one patient overlap at 0.97 and more, the brains of two patients at 0.92 and less.
MIN_OVERLAP = 0.95
# Another contrast that covers less of the brain has too few voxels to measure its noise.
MIN_SHARE = 0.5
FULLY_SHOWN = 0.99


@dataclass(frozen=True)
class Edit:
    """A visit's lesion mask as it was found, and corrected manually; on the FLAIR's grid."""

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
        A manual correction of the lesions.
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
        The brain at both visits.
    flairs : pair of Path
        On its grid.
    transforms : pair of Path
        From each visit's world.
    quality : dict of str to float
        Quality of the registration.
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
class Anatomical:
    """A visit's brain on the grid of its corrected FLAIR, and its normalised FLAIR and head labels in its world."""

    brain: Path
    flair: Path
    labels: Path


@dataclass(frozen=True)
class Compared:
    """Predictions of a network: probabilities of lesion at each visit, masks of new and vanished tissue."""

    lesions: Pair[Path]
    new: Path
    vanished: Path


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
    slice_mm : float
        Thickness of the slices of both visits, in the contrast that has the thinnest.
    """

    log_jacobian: Path
    years: float | None
    brain: dict[str, float | None]
    slice_mm: float


@dataclass(frozen=True)
class Tissue:
    """The decision, on the midway grid.

    Attributes
    ----------
    new, vanished : Path
        Masks of changed tissue.
    lesions : pair of Path
        Masks of each visit.
    probabilities : pair of Path
    sphere : Path or None
        Probability of being about a lesion's centre, where it is known.
    """

    new: Path
    vanished: Path
    lesions: Pair[Path]
    probabilities: Pair[Path]
    sphere: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """Results of a pair's steps, before lesions are tracked."""

    midway: Midway
    matched: Matched
    tissue: Tissue
    deformation: Deformation | None = None


def compare_pair(
    visits: Pair[PreparedVisit],
    recipe: Recipe,
    run: Run,
    *,
    card: Card,
    classes: Pair[Path],
    years: float | None,
    of: str = "",
) -> Comparison:
    """Every step from the prepared visits to the tissue that has changed.

    Parameters
    ----------
    visits : pair of PreparedVisit
    recipe : Recipe
    run : Run
    card : Card
        Of the recipe's model.
    classes : pair of Path
        Tissue classes of each visit in its FLAIR's world.
    years : float or None
        Between the visits, for the expansion per year.
    of : str
        Added to the names of the steps.
    """
    anatomies = each(lambda visit: visit.anatomy, visits)
    with about(*each(lambda visit: visit.subject.contrasts["FLAIR"], visits)):
        midway = run.step(
            f"register_to_midway{of}",
            register_to_midway,
            each(lambda anatomy: anatomy.corrected["FLAIR"], anatomies),
            brains=each(lambda anatomy: anatomy.brain, anatomies),
            to_mni=each(lambda anatomy: anatomy.to_mni, anatomies),
        )
    tissue, matched = decide(visits, midway, recipe, run, card=card, of=of)
    if not recipe.expansion:
        return Comparison(midway, matched, tissue)
    deformation = run.step(
        f"deform{of}",
        deform,
        midway,
        flairs=each(lambda anatomy: anatomy.corrected["FLAIR"], anatomies),
        lesions=tissue.lesions,
        t1w=contrast_of(visits, "T1w"),
        classes=classes,
        years=years,
    )
    return Comparison(midway, matched, tissue, deformation)


def decide(
    visits: Pair[PreparedVisit], midway: Midway, recipe: Recipe, run: Run, *, card: Card, of: str = ""
) -> tuple[Tissue, Matched]:
    """Which tissue is lesion and which has changed: by rule where the lesions are known, else by a network.

    A lesion model leaves CoactSeg the outlines of what changed; CoactSeg itself decides what did. ``of`` is added to
    the names of the steps.
    """
    threshold = common_threshold(visits, recipe, card=card)
    baseline, followup = (visit.lesions for visit in visits)
    anatomies = each(
        lambda visit: Anatomical(
            visit.anatomy.brain, visit.anatomy.working.images["FLAIR"], visit.anatomy.working.labels
        ),
        visits,
    )
    if baseline is None or followup is None:
        matched = run.step(f"match{of}", match, midway)
        compared = _compare(midway, matched, recipe, run, card=card, threshold=threshold, of=of)
        tissue = run.step(
            f"decide{of}",
            decide_by_network,
            midway,
            matched=matched,
            compared=compared,
            anatomies=anatomies,
            threshold=threshold,
            plain=recipe.plain,
        )
        return tissue, matched
    probabilities = (baseline.probabilities, followup.probabilities)
    lesions = each(lambda found: found.lesion, probabilities)
    matched = run.step(f"match{of}", match, midway, lesions=lesions, t2w=contrast_of(visits, "T2w"))
    outlining = read_card(OUTLINE_MODEL)
    compared = _compare(midway, matched, recipe, run, card=outlining, threshold=outlining.threshold, of=of)
    tissue = run.step(
        f"decide{of}",
        decide_by_rule,
        midway,
        matched=matched,
        scans=each(lambda visit: visit.anatomy.corrected["FLAIR"], visits),
        compared=compared,
        anatomies=anatomies,
        probabilities=probabilities,
        threshold=threshold,
    )
    return tissue, matched


def _compare(
    midway: Midway, matched: Matched, recipe: Recipe, run: Run, *, card: Card, threshold: float, of: str
) -> Compared:
    return run.step(
        f"compare{of}",
        compare,
        midway,
        matched=matched,
        card=card,
        device=recipe.device,
        threshold=threshold,
        stride=recipe.stride,
        plain=recipe.plain,
    )


def common_threshold(visits: Pair[PreparedVisit], recipe: Recipe, *, card: Card) -> float:
    """One threshold for both visits, half way in odds, lest lesions change by it."""
    own = [
        fixed_threshold(recipe, card=card, subject=visit.subject) if visit.lesions is None else visit.lesions.threshold
        for visit in visits
    ]
    return float(expit(np.mean(logit(own))))


def change_method(card: Card, visits: Pair[PreparedVisit], *, plain: bool = False) -> str:
    """How changes are decided, for run.json, summary and report."""
    if plain:
        return f"{card.label}: its head for new lesions alone, without a further rule"
    if card.task == "longitudinal":
        return f"{card.label}; {RULE.clear_text}; {LEFT_OUT}"
    rule = RULE.text(card.label, t2w=contrast_of(visits, "T2w") is not None)
    return f"{rule}; outlines completed by {read_card(OUTLINE_MODEL).label}; {LEFT_OUT}"


def contrast_of(visits: Pair[PreparedVisit], contrast: str) -> Pair[Aligned] | None:
    """A contrast of both visits, where both have it."""
    anatomies = [visit.anatomy for visit in visits]
    if not all(contrast in anatomy.corrected for anatomy in anatomies):
        return None
    baseline, followup = (Aligned(anatomy.corrected[contrast], anatomy.to_flair[contrast]) for anatomy in anatomies)
    return baseline, followup


def register_to_midway(flairs: Pair[Path], *, brains: Pair[Path], to_mni: Pair[Path]) -> Midway:
    """Find the midway space: the brain at both visits, the FLAIRs on its grid, and the quality of the registration."""
    images, masks = each(read_own, flairs), each(read_mask, brains)
    upright = np.stack(each(read_transform, to_mni))
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
    alike = likeness(sampled[0].data, sampled[1].data, both, spacing=midway.grid.spacing)
    if alike < SAME_BRAIN:
        warnings.warn(
            f"the sulci of the two brains correlate at {alike:.2f}, those of one patient's visits at 0.86 and more, "
            "those of two people at 0.51 at most: make sure that both are of one patient, and look at the pictures",
            Doubt,
            stacklevel=2,
        )
    baseline, followup = (Path(f"from_{name}.txt") for name in VISITS)
    return Midway(
        brain=write_volume(midway.grid.like(both), Path("brain.nii")),
        flairs=write_pair(sampled, "{}.nii"),
        transforms=(write_transform(transforms[0], baseline), write_transform(transforms[1], followup)),
        quality={
            "brain_overlap": round(overlap, 4),
            "flair_correlation": round(correlation, 4),
            "sulci_correlation": round(alike, 4),
            "registration_disagreement_mm": round(midway.disagreement_mm, 3),
        },
    )


def match(midway: Midway, *, lesions: Pair[Path] | None = None, t2w: Pair[Aligned] | None = None) -> Matched:
    """Both FLAIRs with matched intensities, and both T2w where they are given.

    The lesions of the visits, where they are known, are left out of the matching. A T2w is 0 where either visit does
    not show it; it is left out, with a warning, if that is half of the brain.
    """
    brain = read_mask(midway.brain)
    marked = np.zeros(brain.shape, bool)
    if lesions is not None:
        for lesion in on_midway(lesions, midway):
            marked |= lesion.data > 0.2
    flairs = match_intensities(*each(read_own, midway.flairs), brain=brain, lesions=brain.like(marked))
    files = write_pair(flairs, "{}.nii")
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
    return Matched(files, write_pair(matched, "{}_t2w.nii"))


def _seen_by_both(
    contrast: Pair[Aligned], midway: Midway, *, sample: Callable[..., tuple[Volume, Volume]] = to_midway
) -> tuple[Pair[Volume], Volume] | None:
    """A contrast of both visits on the midway grid, and the brain where both show it; None if that is little of it.

    ``sample`` brings the images there.
    """
    brain = read_mask(midway.brain)
    images = read_own(contrast[0].image), read_own(contrast[1].image)
    baseline, followup = (
        read_transform(path) @ read_transform(visit.to_flair)
        for path, visit in zip(midway.transforms, contrast, strict=True)
    )
    # Where its field of view or its brain ends, an image fades, and would look changed.
    shown = [image.like((image.data > 0).astype(np.float32)) for image in images]
    shares = [share.data for share in to_midway((shown[0], shown[1]), brain, transforms=(baseline, followup))]
    seen = brain.like(brain.data & (np.minimum(*shares) > FULLY_SHOWN))
    if np.count_nonzero(seen.data) < MIN_SHARE * np.count_nonzero(brain.data):
        return None
    return sample(images, seen, transforms=(baseline, followup)), seen


def deform(
    midway: Midway,
    *,
    flairs: Pair[Path],
    lesions: Pair[Path],
    t1w: Pair[Aligned] | None,
    classes: Pair[Path],
    years: float | None,
) -> Deformation:
    """Deform both visits until they meet half way, by the FLAIR, and the T1w where both show the brain on it.

    Parameters
    ----------
    midway : Midway
    flairs : pair of Path
        Of each visit, corrected.
    lesions : pair of Path
        Masks on the midway grid.
    t1w : pair of Aligned or None
    classes : pair of Path
        Tissue classes of each visit on the grid of its FLAIR.
    years : float or None
    """
    brain, transforms = read_mask(midway.brain), each(read_transform, midway.transforms)
    images = each(read_own, flairs)
    seen, slices_mm = [(sharp_on_midway(images, brain, transforms=transforms), brain)], [_slice_mm(images)]
    if t1w is not None and (both := _seen_by_both(t1w, midway, sample=sharp_on_midway)) is not None:
        seen.append(both)
        slices_mm.append(_slice_mm(each(lambda visit: read_own(visit.image), t1w)))
    marked = brain.like(np.logical_or(*(read_mask(path).data for path in lesions)))
    # Zero where not both show a contrast: there is nothing to compare.
    contrasts = [match_intensities(*sampled, brain=shown, lesions=marked) for sampled, shown in seen]
    log_jacobians = brain.like(log_jacobian(halfway_deformation(contrasts, brain=brain)) * brain.data)
    solid = [image.like(image.data > TissueClass.CSF) for image in each(read_own, classes)]
    shares = [
        resample(mask.like(mask.data.astype(np.float32)), brain, target_from_source=matrix)
        for mask, matrix in zip(solid, transforms, strict=True)
    ]
    inside = [share.like(share.data * brain.data) for share in shares]
    scalings = each(lambda matrix: abs(float(np.linalg.det(matrix[:3, :3]))), transforms)
    change = brain_volume_change(log_jacobians, inside, scalings=scalings)
    volumes = [np.count_nonzero(mask.data) * mask.voxel_volume_mm3 for mask in solid]
    by_masks = 100 * (volumes[1] / volumes[0] - 1) if volumes[0] else None
    figures = {"brain_volume_change_percent": change, "tissue_mask_change_percent": by_masks}
    return Deformation(
        write_volume(log_jacobians, Path("log_jacobian.nii")),
        years,
        {name: None if value is None else round(value, 3) for name, value in figures.items()},
        round(min(slices_mm), 2),
    )


def _slice_mm(images: Pair[Volume]) -> float:
    """Of the visit with the thicker slices."""
    return max(float(image.spacing.max()) for image in images)


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
    """Run CoactSeg both ways round: lesions at either visit (probabilities), new and vanished tissue (masks).

    Tissue that keeps to the brain's surface is neither lesion nor change, as in
    :func:`msrim.models.inference.find_lesions`. With ``plain`` it may be, and new tissue is that of the visits in their
    order alone.
    """
    from msrim.models.inference import SURFACE_MM, find_changes

    brain = read_mask(midway.brain)
    images = (image.data.astype(np.float32) for image in each(read_own, matched.flairs))
    lesions, changes = find_changes(*images, card=card, device=device, stride=stride, both_ways=not plain)
    # Lesions and changes together: the grown part of a lesion may lie at the surface, if the lesion reaches deeper.
    anything = np.maximum(lesions.max(axis=0), changes.max(axis=0)) * brain.data
    if not plain:
        anything = remove_superficial(brain.like(anything), brain, deeper_than_mm=SURFACE_MM).data
    vanished, new = (np.minimum(change, anything) >= threshold for change in changes)
    # Where both ways mark a change they contradict each other, and neither counts; plainly, new tissue is that of the
    # visits in their order.
    both = vanished & new
    return Compared(
        lesions=write_pair([brain.like(np.minimum(lesion, anything)) for lesion in lesions], "{}.nii"),
        new=write_volume(brain.like(new if plain else new & ~both), Path("new.nii")),
        vanished=write_volume(brain.like(vanished & ~both), Path("vanished.nii")),
    )


def decide_by_rule(
    midway: Midway,
    *,
    matched: Matched,
    scans: Pair[Path],
    compared: Compared,
    anatomies: Pair[Anatomical],
    probabilities: Pair[Probabilities],
    threshold: float,
) -> Tissue:
    """Lesions of both visits and changed tissue, see :mod:`msrim.lesions.change`; ``scans`` are the FLAIRs."""
    lesions = on_midway(each(lambda found: found.lesion, probabilities), midway)
    baseline, followup = on_midway(each(lambda found: found.sphere, probabilities), midway)
    resampled = _as_sampled_by_other(matched.flairs, midway, scans=scans)
    t2w = (None, None) if matched.t2w is None else each(read_own, matched.t2w)
    marked = read_mask(compared.vanished), read_mask(compared.new)
    one, other = (
        ComparedScan(flair, probability, marked[which], resampled[which], t2w[which])
        for which, (flair, probability) in enumerate(zip(each(read_own, matched.flairs), lesions, strict=True))
    )
    tissue = decide_change(one, other, brain=read_mask(midway.brain), threshold=threshold)
    sphere = write_volume(baseline.like((baseline.data + followup.data) / 2), Path("sphere.nii"))
    return _write_tissue(_plausible(tissue, midway, anatomies), lesions, sphere=sphere)


def _plausible(tissue: ChangedTissue, midway: Midway, anatomies: Pair[Anatomical]) -> ChangedTissue:
    """Without findings that no visit shows as a lesion, see :func:`msrim.lesions.plausible.implausible_everywhere`."""
    seen = []
    for marked, anatomy, transform in zip(
        (tissue.baseline, tissue.followup), anatomies, midway.transforms, strict=True
    ):
        brain = read_mask(anatomy.brain)
        flair, labels = (
            resample(read_own(anatomy.flair), brain),
            resample(read_own(anatomy.labels), brain, nearest=True),
        )
        seen.append(Seen(marked, flair, brain, labels, np.linalg.inv(read_transform(transform))))
    refused = implausible_everywhere(seen, thick_mm=THICK_SLICES_MM).data
    masks = (tissue.baseline, tissue.followup, tissue.new, tissue.vanished)
    return ChangedTissue(*(mask.like(mask.data & ~refused) for mask in masks))


def _as_sampled_by_other(flairs: Pair[Path], midway: Midway, *, scans: Pair[Path]) -> Pair[Volume]:
    """Each FLAIR on the midway grid as the voxels of the other visit's scan sample it."""
    images, voxels, transforms = (
        each(read_own, flairs),
        each(read_own, scans),
        each(read_transform, midway.transforms),
    )
    one, other = (
        resample(resample(image, scan, target_from_source=np.linalg.inv(matrix)), image, target_from_source=matrix)
        for image, scan, matrix in zip(images, voxels[::-1], transforms[::-1], strict=True)
    )
    return one, other


def decide_by_network(
    midway: Midway,
    *,
    matched: Matched,
    compared: Compared,
    anatomies: Pair[Anatomical],
    threshold: float,
    plain: bool = False,
) -> Tissue:
    """The same from CoactSeg's predictions alone.

    Unless ``plain``, a change must be clear on the images, and a lesion plausible at one visit at least.
    """
    brain = read_mask(midway.brain)
    z = difference_z(*each(read_own, matched.flairs), brain=brain)
    baseline, followup = lesions = each(read_own, compared.lesions)
    lesion = brain.like((baseline.data + followup.data) / 2 >= threshold)
    new, vanished = read_mask(compared.new), read_mask(compared.vanished)
    if not plain:
        new, vanished = clear_change(new, z), clear_change(vanished, z.like(-z.data))
    tissue = changed_tissue(lesion, new=new, vanished=vanished)
    return _write_tissue(tissue if plain else _plausible(tissue, midway, anatomies), lesions)


def correct_tissue(midway: Midway, *, tissue: Tissue, edits: Pair[Edit | None]) -> Tissue:
    """The decision with the tissue that was added to or removed from a visit's lesions by hand."""
    brain = read_mask(midway.brain)
    baseline, followup = (
        None if edit is None else _given(edit, brain, midway_from_flair=read_transform(transform))
        for edit, transform in zip(edits, midway.transforms, strict=True)
    )
    decided = ChangedTissue(*each(read_mask, tissue.lesions), read_mask(tissue.new), read_mask(tissue.vanished))
    after = with_corrections(decided, baseline=baseline, followup=followup)
    probabilities = each(read_own, tissue.probabilities)
    return _write_tissue(after, probabilities, sphere=tissue.sphere)


def _given(edit: Edit, midway: Volume, *, midway_from_flair: np.ndarray) -> Given:
    """A correction on the midway grid: the mask, the tissue that was added, and the tissue that was removed."""
    found = read_volume(edit.found, mask=True)
    corrected = on_grid_of(read_volume(edit.corrected, mask=True), found, name=edit.corrected, target_name=edit.found)
    mask, added, removed = (
        resample(found.like(part.astype(np.float32)), midway, target_from_source=midway_from_flair)
        for part in (corrected.data, corrected.data & ~found.data, found.data & ~corrected.data)
    )
    return mask, added, removed


def _write_tissue(tissue: ChangedTissue, probabilities: Pair[Volume], *, sphere: Path | None = None) -> Tissue:
    return Tissue(
        new=write_volume(tissue.new, Path("new.nii")),
        vanished=write_volume(tissue.vanished, Path("vanished.nii")),
        lesions=write_pair((tissue.baseline, tissue.followup), "{}.nii"),
        probabilities=write_pair(probabilities, "{}_probability.nii"),
        sphere=sphere,
    )


def tracked_lesions(midway: Midway, tissue: Tissue, *, min_mm3: float) -> tuple[Pair[Volume], list[TrackedLesion]]:
    """Numbered lesions of either visit on the midway grid, and what became of each."""
    brain, masks = read_mask(midway.brain), each(read_mask, tissue.lesions)
    sphere = None if tissue.sphere is None else read_own(tissue.sphere)
    parts = split_confluent(brain.like(masks[0].data | masks[1].data), sphere_probability=sphere)
    baseline, followup = (lesions_of_visit(parts, mask, min_mm3=min_mm3) for mask in masks)
    return (baseline, followup), track_lesions(baseline, followup)


def with_expansion(
    rows: list[TrackedLesion],
    deformation: Deformation,
    *,
    instances: Pair[Volume],
    midway: Midway,
    labels: Pair[Path],
    visits: str = "the visits",
) -> tuple[list[TrackedLesion], bool]:
    """The rows with the expansion of lesions that both visits have, and whether chance leaves room for the rest.

    The rest are candidates for slow expansion and the change of the brain's volume.

    ``labels`` are the head labels of each visit, in the world of its FLAIR; ``visits`` is how a warning calls them.
    """
    brain = read_mask(midway.brain)
    white = brain.data.copy()
    for path, transform in zip(labels, midway.transforms, strict=True):
        parsed = resample(read_own(path), brain, target_from_source=read_transform(transform), nearest=True)
        white &= np.isin(parsed.data, WHITE_MATTER)
    found, noise = lesion_expansions(
        numbered_as_rows(rows, instances),
        read_own(deformation.log_jacobian),
        brain=brain,
        white=brain.like(white),
        years=deformation.years,
    )
    trusted = noise <= MAX_NOISE
    if rows and not trusted:
        chance = "shows no white matter away from lesions: expansion,"
        if found:
            percent = f"{100 * np.expm1(noise):.0f} %"
            chance = f"does {percent} by chance in white matter: each lesion's expansion has its error beside it;"
        warnings.warn(
            f"the deformation between {visits} {chance} slowly expanding lesions and brain volume change are left out",
            Fallback,
            stacklevel=2,
        )
    measured = [
        replace(
            row,
            expansion_percent=found[row.id].percent,
            expansion_error_percent=found[row.id].error_percent,
            expansion_percent_per_year=found[row.id].percent_per_year,
            sel_candidate=found[row.id].candidate,
            concentricity=found[row.id].concentricity,
        )
        if row.baseline_ids and row.followup_ids and row.id in found
        else row
        for row in rows
    ]
    return measured, trusted


def each(read: Callable[[S], T], pair: Pair[S]) -> Pair[T]:
    """Read a file of either visit."""
    return read(pair[0]), read(pair[1])


def write_pair(images: Sequence[Volume], name: str) -> Pair[Path]:
    """Write an image of either visit; ``{}`` in the name stands for the visit."""
    baseline, followup = images
    return write_volume(baseline, Path(name.format("baseline"))), write_volume(followup, Path(name.format("followup")))


def on_midway(images: Pair[Path], midway: Midway) -> Pair[Volume]:
    """An image of each visit, sampled on the midway grid."""
    baseline, followup = (
        resample(read_own(image), read_own(flair), target_from_source=read_transform(transform))
        for image, flair, transform in zip(images, midway.flairs, midway.transforms, strict=True)
    )
    return baseline, followup
