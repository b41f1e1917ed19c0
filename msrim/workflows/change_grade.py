"""``msrim longitudinal --grade``: a pair of visits whose changes are known, made of the baseline; how many are found.

Lesions are painted into the baseline's white matter: some at one visit alone, some larger at one than at the other. The
follow-up is then laid where the patient lay at the real one and sampled on its voxels, with noise as large as the
difference of the real pair and a bias field of its own. From there on all is as with the real pair: registration,
networks and rule. Brain extraction and the registration of other contrasts are not graded.

Where the expansion is measured, the follow-up is deformed as well: some lesions expand, the ventricles widen, and what
is measured of both is told beside what was injected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from msrim.bids import GRADE, Subject
from msrim.evaluation.change_grade import (
    CHANGE_GRADE_COLUMNS,
    EXPANDING,
    PaintedChange,
    summarise_change_grade,
    summarise_expansion,
)
from msrim.evaluation.grade import write_grade_tsv
from msrim.files import write_json
from msrim.image import Volume, labels_on_grid, resample, write_volume
from msrim.lesions.track import TrackedLesion, numbered_as_rows
from msrim.models.registry import Card
from msrim.preprocess.normalise import DEVIATION_OF_MAD
from msrim.preprocess.scan import scanned
from msrim.preprocess.tissue import tissue_of
from msrim.recipe import Recipe
from msrim.simulation.deformation import Pull, atrophy, growth, tissue_share, together
from msrim.transform import apply_transform, read_transform, write_transform
from msrim.workflows.anatomy import Anatomy, make_working_images, read_mask, read_own
from msrim.workflows.changes import (
    VISITS,
    Comparison,
    Matched,
    Midway,
    Pair,
    PreparedVisit,
    compare_pair,
    each,
    tracked_lesions,
    with_expansion,
)
from msrim.workflows.painting import SEED, Canvas, flair_from, nearest_lesion, painted_contrasts, scattered
from msrim.workflows.run import Run
from msrim.workflows.segment import Lesions, find_lesions

# In the names of steps.
OF_MADE = "_of_made"
# Volumes at baseline and at follow-up in mm3, and how many of each.
APPEARING = {(0, 25): 5, (0, 63): 4, (0, 160): 3}
GROWING = {(63, 126): 4, (160, 240): 4, (400, 520): 2}
STAYING = {(25, 25): 4, (63, 63): 4, (160, 160): 2}
PLAN = {
    "new": APPEARING,
    "vanished": {pair[::-1]: count for pair, count in APPEARING.items()},
    "enlarging": GROWING,
    "shrinking": {pair[::-1]: count for pair, count in GROWING.items()},
    "stable": STAYING,
}
# Volume of those that expand, and by what ratios; loss of tissue, percent. As if in a year.
EXPANDING_MM3, RATIOS, YEARS, LOSS_PERCENT = 250, (1.15, 1.25, 1.4) * 3, 1.0, 1.0
# Deviation of the follow-up's bias field that its correction left, and its knots along each axis.
BIAS, BIAS_KNOTS = 0.04, 4


@dataclass(frozen=True)
class PaintedChanges:
    """Lesions on the baseline's working grid.

    Attributes
    ----------
    lesions : pair of Path
        Of either visit, numbered.
    excess : dict of str to pair of Path
        By contrast: what they add to the normalised image.
    rows : list of PaintedChange
    pull : Path or None
        Where each voxel of the follow-up lay at baseline, see :class:`msrim.simulation.deformation.Pull`: (3, X, Y, Z)
        voxels, as NumPy writes it. None where nothing is deformed.
    loss_percent : float or None
        Of the tissue by it.
    """

    lesions: Pair[Path]
    excess: dict[str, Pair[Path]]
    rows: list[PaintedChange]
    pull: Path | None = None
    loss_percent: float | None = None


@dataclass(frozen=True)
class MadeFollowup:
    """The images of the made follow-up before they lie on a working grid."""

    corrected: dict[str, Path]
    brain: Path
    labels: Path
    to_mni: Path


@dataclass(frozen=True)
class ChangeGrade:
    """The files, and the figures."""

    table: Path
    table_columns: Path
    summary: dict[str, Any]


def grade_pair(
    visits: Pair[PreparedVisit], found: Comparison, recipe: Recipe, run: Run, *, card: Card, folder: Path
) -> ChangeGrade:
    """Make a pair whose changes are known, find them as those of the real pair are found, and count.

    Parameters
    ----------
    visits : pair of PreparedVisit
        With lesions.
    found : Comparison
        Of the real pair: where the patient lay, and how much the images differ.
    recipe : Recipe
    run : Run
        Of the pair.
    card : Card
        Of the model that found the lesions.
    folder : Path
        Of the pair's results.
    """
    painted, made = make_pair(visits, found, recipe, run, card=card)
    working = each(lambda visit: visit.anatomy.working, made)
    classes = each(lambda images: images.tissue, working)
    found = compare_pair(made, recipe, run, card=card, classes=classes, years=YEARS, of=OF_MADE)
    return run(
        grade_changes,
        visits[0].subject,
        painted,
        found=found,
        labels=each(lambda images: images.labels, working),
        min_lesion_mm3=recipe.min_lesion_mm3,
        folder=folder,
        seed=SEED,
    )


def make_pair(
    visits: Pair[PreparedVisit], found: Comparison, recipe: Recipe, run: Run, *, card: Card
) -> tuple[PaintedChanges, Pair[PreparedVisit]]:
    """Two visits made of the baseline, with painted changes, and their lesions; parameters as :func:`grade_pair`."""
    anatomies = each(lambda visit: visit.anatomy, visits)
    lesions = each(_lesions_of, visits)
    painted = run(
        paint_changes,
        anatomies[0],
        lesion=lesions[0].probabilities.lesion,
        threshold=lesions[0].threshold,
        deformed=recipe.expansion,
        seed=SEED,
    )
    baseline = run(make_baseline, anatomies[0], painted=painted)
    made = run(make_followup, anatomies, painted=painted, midway=found.midway, matched=found.matched, seed=SEED)
    followup = _prepared(anatomies[1], made, run)
    prepared = []
    for name, visit, anatomy, own in zip(VISITS, visits, (baseline, followup), lesions, strict=True):
        probabilities = run.step(
            f"find_lesions{OF_MADE}_{name}",
            find_lesions,
            anatomy.working,
            to_mni=anatomy.to_mni,
            card=card,
            device=recipe.device,
        )
        prepared.append(PreparedVisit(visit.subject, anatomy, replace(own, probabilities=probabilities)))
    return painted, (prepared[0], prepared[1])


def _prepared(followup: Anatomy, made: MadeFollowup, run: Run) -> Anatomy:
    """The anatomy of a made follow-up, from that of the real one."""
    to_flair = {contrast: path for contrast, path in followup.to_flair.items() if contrast in made.corrected}
    working = run.step(
        f"make_working_images{OF_MADE}_followup",
        make_working_images,
        made.corrected,
        brain=made.brain,
        labels=made.labels,
        labelled="FLAIR",
        to_mni=made.to_mni,
        to_flair=to_flair,
    )
    return replace(
        followup,
        corrected=made.corrected,
        brain=made.brain,
        to_flair=to_flair,
        to_mni=made.to_mni,
        working=working,
    )


def _lesions_of(visit: PreparedVisit) -> Lesions:
    if visit.lesions is None:
        raise ValueError("a grade needs a model that finds the lesions of each visit")
    return visit.lesions


def paint_changes(
    anatomy: Anatomy, *, lesion: Path, threshold: float, seed: int, deformed: bool = False
) -> PaintedChanges:
    """Draw lesions of either visit in the baseline's white matter, and what they add to each contrast.

    Parameters
    ----------
    anatomy : Anatomy
        Of the baseline.
    lesion : Path
        Probability of lesion on its working grid.
    threshold : float
    seed : int
    deformed : bool
        Some lesions expand, and the tissue loses volume.
    """
    import torch

    from msrim.training.painting import painted_share

    rng = np.random.default_rng(seed)
    plan = [(change, pair) for change, pairs in PLAN.items() for pair, count in pairs.items() for _ in range(count)]
    if deformed:
        plan += [(EXPANDING, (EXPANDING_MM3, EXPANDING_MM3))] * len(RATIOS)
    volumes = [max(pair) for _, pair in plan]
    canvas, larger, boxes = scattered(anatomy, volumes, lesion=lesion, threshold=threshold, rng=rng)
    lesions = [np.zeros(larger.shape, np.int16) for _ in VISITS]
    shares = [np.zeros(larger.shape, np.float32) for _ in VISITS]
    rows = []
    for number, box in boxes.items():
        change, pair = plan[number - 1]
        whole = larger.data[box] == number
        drawn_mm3 = [0.0, 0.0]
        for visit, volume in enumerate(pair):
            mask = innermost(whole, volume, spacing_mm=larger.spacing)
            drawn_mm3[visit] = round(float(np.count_nonzero(mask) * larger.voxel_volume_mm3), 3)
            lesions[visit][box][mask] = number
            if mask.any():
                # One texture at both visits.
                texture = np.random.default_rng((seed, number))
                shares[visit][box] += painted_share(torch.from_numpy(mask), texture)[0].numpy()
        rows.append(PaintedChange(number, change, drawn_mm3[0], drawn_mm3[1]))
    # One contrast at both visits, that of the larger.
    contrasts = painted_contrasts(canvas, larger, np.maximum(*shares))
    nearest = nearest_lesion(larger)
    excess = {}
    for name in canvas.images:
        bright = np.zeros(int(nearest.max()) + 1, np.float32)
        for number, bounds in contrasts.items():
            bright[number] = bounds[name][1]
        excess[name] = [bright[nearest] * share for share in shares]
    painted = PaintedChanges(
        lesions=_write(larger, lesions, "{}_lesions.nii"),
        excess={name: _write(larger, added, f"{{}}_{name}.nii") for name, added in excess.items()},
        rows=rows,
    )
    return _deformed(painted, canvas, larger.like(lesions[0])) if deformed else painted


def _deformed(painted: PaintedChanges, canvas: Canvas, baseline: Volume) -> PaintedChanges:
    """Pull the follow-up apart: the lesions of the baseline that are to expand do, and the tissue loses volume."""
    grown = [np.argwhere(baseline.data == row.id) for row in painted.rows if row.change == EXPANDING]
    moved = together([atrophy(canvas.labels, loss_percent=LOSS_PERCENT), growth(baseline, grown, RATIOS[: len(grown)])])
    rows = [
        replace(row, expansion_percent=round(100 * (moved.ratio(baseline.data == row.id) - 1), 2))
        if row.change in (EXPANDING, "stable")
        else row
        for row in painted.rows
    ]
    pull = Path("pull.npy").absolute()
    np.save(pull, moved.voxels)
    loss = round(100 * (1 - moved.ratio(tissue_share(canvas.labels))), 4)
    return replace(painted, rows=rows, pull=pull, loss_percent=loss)


def innermost(lesion: np.ndarray, volume_mm3: float, *, spacing_mm: np.ndarray) -> np.ndarray:
    """The innermost part of a lesion that has a volume: (X, Y, Z) bool.

    Examples
    --------
    >>> ball = np.linalg.norm(np.indices((9, 9, 9)) - 4, axis=0) < 4
    >>> part = innermost(ball, 33, spacing_mm=np.ones(3))
    >>> int(part.sum()), bool(part[4, 4, 4]), bool((part & ~ball).any())
    (33, True, False)
    """
    count = min(round(volume_mm3 / float(np.prod(spacing_mm))), int(np.count_nonzero(lesion)))
    # Voxels of one depth from the middle outwards, so that a part is not ragged.
    depth = ndimage.distance_transform_edt(np.pad(lesion, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    away = (np.moveaxis(np.indices(lesion.shape), 0, -1) - ndimage.center_of_mass(lesion)) * spacing_mm
    order = np.argsort(np.where(lesion, np.linalg.norm(away, axis=-1) - depth, np.inf), axis=None, kind="stable")
    part = np.zeros(lesion.size, bool)
    part[order[:count]] = True
    return part.reshape(lesion.shape)


def make_baseline(anatomy: Anatomy, *, painted: PaintedChanges) -> Anatomy:
    """The baseline with its painted lesions."""
    corrected, images = {}, {}
    for name, path in anatomy.corrected.items():
        scan, from_scan = read_own(path), flair_from(anatomy, name)
        seen = scanned(read_own(painted.excess[name][0]), scan, scan_from_drawn=np.linalg.inv(from_scan))
        shown = scan.like((scan.data + _scale(anatomy, name, scan) * seen.data).astype(np.float32))
        corrected[name] = write_volume(shown, Path(f"corrected_{name}.nii"))
        working, inside = read_own(anatomy.working.images[name]), read_mask(anatomy.working.brain).data
        added = resample(seen, working, target_from_source=from_scan)
        images[name] = write_volume(working.like(working.data + added.data * inside), Path(f"{name}.nii"))
    # The follow-up's classes are those of the head labels, whoever found the baseline's.
    tissue = write_volume(tissue_of(read_own(anatomy.working.labels)), Path("tissue.nii"))
    return replace(anatomy, corrected=corrected, working=replace(anatomy.working, images=images, tissue=tissue))


def make_followup(
    anatomies: Pair[Anatomy], *, painted: PaintedChanges, midway: Midway, matched: Matched, seed: int
) -> MadeFollowup:
    """The baseline's images with the follow-up's painted lesions, as the follow-up's scanner would have shown them.

    Contrasts that only one visit has are left out.
    """
    baseline, followup = anatomies
    from_baseline, from_followup = each(read_transform, midway.transforms)
    moved = np.linalg.inv(from_followup) @ from_baseline
    one, other = each(read_own, matched.flairs)
    difference = np.abs(other.data - one.data)[read_mask(midway.brain).data]
    pull = None
    if painted.pull is not None:
        pull = Pull(np.load(painted.pull), read_own(baseline.working.labels).affine)
    # In deviations of the image inside the brain.
    noise = DEVIATION_OF_MAD * float(np.median(difference))
    rng = np.random.default_rng(seed)
    corrected = {}
    for name, path in followup.corrected.items():
        if name not in baseline.corrected:
            continue
        scan, before = read_own(path), read_own(baseline.corrected[name])
        from_flair, to_baseline = np.linalg.inv(flair_from(followup, name)) @ moved, flair_from(baseline, name)
        image = scanned(
            before,
            scan,
            scan_from_drawn=from_flair @ to_baseline,
            pull=None if pull is None else partial(_pulled, pull=pull, flair_from_drawn=to_baseline),
            cubic=True,
        )
        # Painted lesions are finer than any scan: the follow-up's scanner saw them itself, not the baseline's image.
        added = scanned(read_own(painted.excess[name][1]), scan, scan_from_drawn=from_flair, pull=pull)
        image = image.like(np.maximum(image.data + _scale(baseline, name, before) * added.data, 0))
        knots = rng.normal(0, BIAS, (BIAS_KNOTS,) * 3)
        field = np.exp(ndimage.zoom(knots, np.array(scan.shape) / BIAS_KNOTS, order=3))
        shown = image.data > 0
        level = float(image.data[shown].std()) if shown.any() else 0.0
        noisy = image.data * field + rng.normal(0, noise * level, scan.shape)
        corrected[name] = write_volume(scan.like((noisy * shown).astype(np.float32)), Path(f"{name}.nii"))
    flair = read_own(followup.corrected["FLAIR"])
    brain = read_mask(baseline.brain)
    inside = resample(brain.like(brain.data.astype(np.float32)), flair, target_from_source=moved).data > 0.5
    labels = read_own(baseline.working.labels)
    if pull is not None:
        labels = labels.like(pull.sampled(labels.data, order=0))
    return MadeFollowup(
        corrected=corrected,
        brain=write_volume(flair.like(inside), Path("brain.nii")),
        labels=write_volume(Volume(labels.data, moved @ labels.affine), Path("labels.nii")),
        to_mni=write_transform(read_transform(baseline.to_mni) @ np.linalg.inv(moved), Path("to_mni.txt")),
    )


def _pulled(points_mm: np.ndarray, *, pull: Pull, flair_from_drawn: np.ndarray) -> np.ndarray:
    """Where places of a contrast lay before, in its own world; the deformation is known in the FLAIR's."""
    return apply_transform(np.linalg.inv(flair_from_drawn), pull(apply_transform(flair_from_drawn, points_mm)))


def grade_changes(
    subject: Subject,
    painted: PaintedChanges,
    *,
    found: Comparison,
    labels: Pair[Path],
    min_lesion_mm3: float,
    folder: Path,
    seed: int,
) -> ChangeGrade:
    """Compare what was found of the made pair with what was painted.

    Parameters
    ----------
    subject : Subject
    painted : PaintedChanges
    found : Comparison
        Of the made pair.
    labels : pair of Path
        The head labels of the made visits.
    min_lesion_mm3 : float
    folder : Path
        Of the pair's results.
    seed : int
    """
    midway, deformation = found.midway, found.deformation
    brain, from_baseline = read_mask(midway.brain), read_transform(midway.transforms[0])
    (baseline, followup), rows = tracked_lesions(midway, found.tissue, min_mm3=min_lesion_mm3)
    trusted = False
    if deformation is not None:
        rows, trusted = with_expansion(
            rows,
            deformation,
            instances=(baseline, followup),
            midway=midway,
            labels=labels,
            visits="the grade's simulated visits",
        )
    truth = np.maximum(*(
        labels_on_grid(read_own(path), brain, target_from_source=from_baseline).data for path in painted.lesions
    ))  # fmt: skip
    judged, own = _judged(painted.rows, rows, truth=truth, tracked=numbered_as_rows(rows, (baseline, followup)).data)
    summary = summarise_change_grade(judged, [row.change for row in own], seed=seed)
    if deformation is not None:
        measured = {name: value if trusted else None for name, value in deformation.brain.items()}
        summary["expansion"] = summarise_expansion(
            judged,
            [row.sel_candidate for row in own if row.sel_candidate is not None],
            brain={"injected_percent": -(painted.loss_percent or 0.0), **measured},
            trusted=trusted,
            seed=seed,
        )
    patient = Subject(subject.label, None, {})
    names = {key: patient.below(folder, suffix) for key, suffix in GRADE.items()}
    return ChangeGrade(
        table=write_grade_tsv(judged, names["table"], columns=CHANGE_GRADE_COLUMNS),
        table_columns=write_json(CHANGE_GRADE_COLUMNS, names["table_columns"]),
        summary=summary,
    )


def _judged(
    painted: Sequence[PaintedChange], rows: Sequence[TrackedLesion], *, truth: np.ndarray, tracked: np.ndarray
) -> tuple[list[PaintedChange], list[TrackedLesion]]:
    """Painted changes with what was found of each, and the rows of lesions that were not painted.

    ``truth`` holds the numbers of the painted lesions and ``tracked`` those of the rows, on one grid.
    """
    shared, voxels = np.unique(np.stack([truth, tracked])[:, (truth > 0) & (tracked > 0)], axis=1, return_counts=True)
    # The lesion that a painted one shares most with comes last and stays.
    row_of = {number: rows[row - 1] for number, row in shared[:, np.argsort(voxels, kind="stable")].T.tolist()}
    judged = []
    for change in painted:
        if row := row_of.get(change.id):
            change = replace(
                change,
                found_change=row.change,
                found_baseline_mm3=row.baseline_mm3,
                found_followup_mm3=row.followup_mm3,
                found_expansion_percent=row.expansion_percent,
                found_sel_candidate=row.sel_candidate,
            )
        judged.append(change)
    return judged, [row for row in rows if row.id not in shared[1]]


def _scale(anatomy: Anatomy, contrast: str, scan: Volume) -> float:
    """What one of a normalised contrast is in the intensities of its scan: normalisation is linear."""
    normalised = read_own(anatomy.working.images[contrast])
    inside = read_mask(anatomy.working.brain).data
    seen = resample(scan, normalised, target_from_source=flair_from(anatomy, contrast)).data
    return float(np.polyfit(normalised.data[inside], seen[inside], 1)[0])


def _write(grid: Volume, images: list[np.ndarray], name: str) -> Pair[Path]:
    baseline, followup = (
        write_volume(grid.like(image), Path(name.format(visit))) for image, visit in zip(images, VISITS, strict=True)
    )
    return baseline, followup
