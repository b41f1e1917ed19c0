"""``msrim segment --grade``: lesions of known size and contrast in the patient's own images, and how many are found.

The painted images go through the same networks, threshold and steps as the images themselves. What they were prepared
from is not painted: brain extraction, registration and bias correction are not graded.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cc3d
import numpy as np

from msrim.bids import GRADE, Subject
from msrim.errors import Remark
from msrim.evaluation.grade import CONTRASTS, GRADE_COLUMNS, PaintedLesion, summarise_grade, write_grade_tsv
from msrim.files import write_json
from msrim.image import Volume, read_volume, resample, write_volume
from msrim.lesions.plausible import plausible_lesions
from msrim.models.registry import THICK_SLICES_MM
from msrim.preprocess.masks import grown_mask
from msrim.preprocess.scan import scanned
from msrim.workflows.anatomy import Anatomy, Working, read_mask, read_own
from msrim.workflows.painting import nearest_lesion, painted_contrasts, quartiles, scattered, showing

# From 2.7 to 12.4 mm wide: how many of each, a third with each contrast. Where scans differ most are the most.
SIZES_MM3 = {10.0: 18, 25.0: 18, 63.0: 12, 160.0: 9, 400.0: 6, 1000.0: 3}
LEAST_LESIONS = 30
# A painted lesion's blur reaches beyond it, by a slice where slices are thicker; what is found so near is no false
# positive.
NEAR_MM = 3.0


@dataclass(frozen=True)
class Painted:
    """What the FLAIR shows of a painted lesion.

    Attributes
    ----------
    contrast : str
        Which of CONTRASTS.
    volume_mm3, flair_contrast : float
        Of the FLAIR's voxels that show it: their volume, and the upper quartile of its contrast in them.
    """

    contrast: str
    volume_mm3: float
    flair_contrast: float


@dataclass(frozen=True)
class PaintedImages:
    """What the networks see of painted lesions.

    Attributes
    ----------
    working : Working
        The visit's, with painted images.
    lesions : Path
        Painted lesions on the working grid, numbered.
    shown : Path
        The same where the FLAIR shows them, on the grid of the corrected FLAIR.
    painted : dict of int to Painted
        By number.
    """

    working: Working
    lesions: Path
    shown: Path
    painted: dict[int, Painted]


@dataclass(frozen=True)
class GradeFiles:
    """What the user gets: the table of painted lesions, and what its columns mean."""

    table: Path
    table_columns: Path


@dataclass(frozen=True)
class Grade:
    """The files and the figures."""

    files: GradeFiles
    summary: dict[str, Any]


def paint_lesions(anatomy: Anatomy, *, lesion: Path, threshold: float, seed: int) -> PaintedImages:
    """Paint lesions into the working images.

    Parameters
    ----------
    anatomy : Anatomy
    lesion : Path
        Probability of lesion on the working grid.
    threshold : float
    seed : int
    """
    import torch

    from msrim.training.painting import painted_share

    rng = np.random.default_rng(seed)
    volumes = [size for size, count in SIZES_MM3.items() for _ in range(count)]
    canvas, lesions, boxes = scattered(anatomy, volumes, lesion=lesion, threshold=threshold, rng=rng)
    if (count := len(boxes)) < LEAST_LESIONS:
        warnings.warn(
            f"only {count} lesions could be painted, for want of white matter away from lesions: the grade is coarse",
            Remark,
            stacklevel=2,
        )
    share = np.zeros(lesions.shape, np.float32)
    parts = {}
    for number, box in boxes.items():
        parts[number] = painted_share(torch.from_numpy(lesions.data[box] == number), rng)[0].numpy()
        share[box] += parts[number]
    excess = {name: np.zeros(lesions.shape, np.float32) for name in canvas.images}
    contrast_of = {}
    for number, bounds in painted_contrasts(canvas, lesions, share).items():
        contrast_of[number], way = list(CONTRASTS.items())[(number - 1) % len(CONTRASTS)]
        for name, (faint, own) in bounds.items():
            excess[name][boxes[number]] += (faint + way * (own - faint)) * parts[number]
    images = {}
    for name, image in canvas.images.items():
        added = canvas.as_shown(excess[name], name) * canvas.brain
        images[name] = write_volume(image.like(image.data + added), Path(f"{name}.nii"))
    flair = read_own(anatomy.corrected["FLAIR"])
    shown, painted = _on_scan(flair, lesions, lesions.like(excess["FLAIR"]), contrast_of)
    return PaintedImages(
        working=replace(anatomy.working, images=images),
        lesions=write_volume(lesions, Path("painted.nii")),
        shown=write_volume(shown, Path("shown.nii")),
        painted=painted,
    )


def _on_scan(
    flair: Volume, lesions: Volume, excess: Volume, contrast_of: dict[int, str]
) -> tuple[Volume, dict[int, Painted]]:
    """Painted lesions as the FLAIR's voxels show them: numbered on its grid, and the figures of each by its number."""
    seen = scanned(excess, flair, scan_from_drawn=np.eye(4))
    nearest = resample(lesions.like(nearest_lesion(lesions)), seen, nearest=True).data.astype(int)
    shown = showing(seen.data, nearest)
    brightest, counts = quartiles(seen.data, shown), np.bincount(shown.ravel())
    painted = {
        number: Painted(contrast, round(float(counts[number]) * seen.voxel_volume_mm3, 3), round(brightest[number], 3))
        for number, contrast in contrast_of.items()
        if number in brightest
    }
    return seen.like(shown.astype(np.int16)), painted


def grade_lesions(
    subject: Subject,
    painted: PaintedImages,
    *,
    out: Path,
    flair: Path,
    brain: Path,
    labels: Path,
    lesion: Path,
    painted_lesion: Path,
    threshold: float,
    min_lesion_mm3: float,
    seed: int,
) -> Grade:
    """Compare what is found with and without painted lesions, on the grid of the user's FLAIR.

    Parameters
    ----------
    subject : Subject
    painted : PaintedImages
    out : Path
    flair : Path
        As the networks see it, without painted lesions.
    brain, labels : Path
        On the grid of the user's FLAIR.
    lesion, painted_lesion : Path
        Probability of lesion on the working grid, without and with painted lesions.
    threshold, min_lesion_mm3 : float
    seed : int
    """
    target, inside, parsed = read_volume(subject.contrasts["FLAIR"]), read_mask(brain), read_own(labels)
    before, after = (
        _kept(
            plausible_lesions(
                target.like((resample(read_own(path), target).data >= threshold) & inside.data),
                flair=resample(read_own(image), target),
                brain=inside,
                labels=parsed,
                thick_mm=THICK_SLICES_MM,
            ),
            min_mm3=min_lesion_mm3,
        )
        for path, image in ((lesion, flair), (painted_lesion, painted.working.images["FLAIR"]))
    )
    truth = resample(read_own(painted.shown), target, nearest=True).data.astype(int)
    added = cc3d.connected_components((after & ~before).astype(np.uint8), connectivity=26)
    sizes = np.bincount(added.ravel()) * target.voxel_volume_mm3
    parts = {number: set(np.unique(added[truth == number]).tolist()) - {0} for number in painted.painted}
    rows = _rows(painted, {number: float(sizes[list(own)].sum()) for number, own in parts.items() if own})
    matched = {0}.union(*parts.values())
    near = grown_mask(target.like((truth > 0) | before), by_mm=max(NEAR_MM, float(target.spacing.max()))).data
    elsewhere = set(range(sizes.size)) - matched - set(np.unique(added[near]).tolist())
    own = cc3d.connected_components(before.astype(np.uint8), connectivity=26)
    still = np.unique(own[after & before])
    summary = summarise_grade(
        rows,
        sizes_mm3=list(SIZES_MM3),
        false_positives_mm3=[float(sizes[part]) for part in sorted(elsewhere)],
        lost=int(own.max()) - int(np.count_nonzero(still)),
        seed=seed,
    )
    names = subject.outputs(out, GRADE)
    files = GradeFiles(write_grade_tsv(rows, names["table"]), write_json(GRADE_COLUMNS, names["table_columns"]))
    return Grade(files, summary)


def _rows(painted: PaintedImages, found_mm3: dict[int, float]) -> list[PaintedLesion]:
    """One row for each painted lesion, with the volume that was found of it, by its number."""
    lesions, rows = read_own(painted.lesions), []
    for number, shown in painted.painted.items():
        voxels = np.argwhere(lesions.data == number)
        centre = lesions.affine[:3, :3] @ voxels.mean(axis=0) + lesions.affine[:3, 3]
        rows.append(
            PaintedLesion(
                id=number,
                volume_mm3=shown.volume_mm3,
                drawn_mm3=round(len(voxels) * lesions.voxel_volume_mm3, 3),
                contrast=shown.contrast,
                flair_contrast=shown.flair_contrast,
                centre_x_mm=round(float(centre[0]), 2),
                centre_y_mm=round(float(centre[1]), 2),
                centre_z_mm=round(float(centre[2]), 2),
                found_mm3=round(found_mm3[number], 3) if number in found_mm3 else None,
            )
        )
    return rows


def _kept(mask: Volume, *, min_mm3: float) -> np.ndarray:
    """Without what is smaller than a lesion that counts: (X, Y, Z) bool."""
    parts = cc3d.connected_components(mask.data.astype(np.uint8), connectivity=26)
    large = np.bincount(parts.ravel()) * mask.voxel_volume_mm3 >= min_mm3
    large[0] = False
    return large[parts]
