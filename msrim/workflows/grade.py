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
from scipy import ndimage

from msrim.bids import GRADE, Subject
from msrim.errors import Remark
from msrim.evaluation.grade import CONTRASTS, GRADE_COLUMNS, PaintedLesion, summarise_grade, write_grade_tsv
from msrim.files import write_json
from msrim.image import Volume, labels_on_grid, read_volume, resample, write_volume
from msrim.labels import WHITE_MATTER
from msrim.lesions.plausible import plausible_lesions
from msrim.lesions.scatter import scatter_lesions
from msrim.models.registry import THICK_SLICES_MM
from msrim.preprocess.masks import grown_mask
from msrim.preprocess.scan import as_scanned
from msrim.transform import read_transform
from msrim.workflows.anatomy import Anatomy, Working, read_mask, read_own

SEED = 1
# From 2.7 to 12.4 mm wide: how many of each, a third with each contrast. Where scans differ most are the most.
SIZES_MM3 = {10.0: 18, 25.0: 18, 63.0: 12, 160.0: 9, 400.0: 6, 1000.0: 3}
LEAST_LESIONS = 30
# From the patient's own lesions, and between painted ones: what was found of one is not taken for another's.
GAP_MM = 5.0
# The patient's own contrast is measured on lesions of this size or more; smaller ones are blurred by voxels.
MEASURED_MM3 = 30.0
# White matter around a lesion, from and to.
AROUND_MM = (2.0, 6.0)
# A painted lesion's blur reaches beyond it; what is found so near is no false positive.
NEAR_MM = 3.0


@dataclass(frozen=True)
class PaintedImages:
    """What the networks see of painted lesions.

    Attributes
    ----------
    working : Working
        The visit's, with painted images.
    lesions : Path
        Painted lesions on the working grid, numbered.
    contrasts : dict of int to (str, float)
        By number: which of CONTRASTS, and what it is on the FLAIR.
    """

    working: Working
    lesions: Path
    contrasts: dict[int, tuple[str, float]]


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

    from msrim.training.contrasts import PAINTED_CONTRAST
    from msrim.training.painting import painted_share

    working = anatomy.working
    images = {name: read_own(path) for name, path in working.images.items()}
    flair = images["FLAIR"]
    own = flair.like(read_own(lesion).data >= threshold)
    white = np.isin(read_own(working.labels).data, WHITE_MATTER) & read_mask(working.brain).data
    allowed = flair.like(white & ~grown_mask(own, by_mm=GAP_MM).data)
    volumes = [size for size, count in SIZES_MM3.items() for _ in range(count)]
    rng = np.random.default_rng(seed)
    lesions = scatter_lesions(allowed, volumes, gap_mm=GAP_MM, rng=rng)
    boxes = ndimage.find_objects(lesions.data, max_label=len(volumes))
    if (count := sum(box is not None for box in boxes)) < LEAST_LESIONS:
        warnings.warn(
            f"only {count} lesions could be painted, for want of white matter away from lesions: the grade is coarse",
            Remark,
            stacklevel=2,
        )
    # (contrast in CONTRASTS, image contrast): how bright.
    faint = {name: min(PAINTED_CONTRAST[name], key=abs) for name in images}
    bright = likely_contrast(images, lesions=own, white=white)
    excess = {name: np.zeros(flair.shape, np.float32) for name in images}
    contrasts = {}
    for index, box in enumerate(boxes):
        if box is None:
            continue
        margin = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in box)
        mask = lesions.data[margin] == index + 1
        share = painted_share(torch.from_numpy(mask), rng)[0].numpy()
        contrast, way = list(CONTRASTS.items())[index % len(CONTRASTS)]
        values = {name: faint[name] + way * (bright[name] - faint[name]) for name in images}
        for name, value in values.items():
            excess[name][margin] += value * share
        contrasts[index + 1] = contrast, round(values["FLAIR"], 3)
    painted = {}
    for name, image in images.items():
        scan = read_own(anatomy.corrected[name])
        # The transforms lead to the FLAIR's world, in which the working grid lies.
        scan_from_flair = np.eye(4) if name == "FLAIR" else np.linalg.inv(read_transform(anatomy.to_flair[name]))
        added = as_scanned(image.like(excess[name]), scan, scan_from_drawn=scan_from_flair)
        inside = read_mask(working.brain).data
        painted[name] = write_volume(image.like(image.data + added.data * inside), Path(f"{name}.nii"))
    return PaintedImages(replace(working, images=painted), write_volume(lesions, Path("painted.nii")), contrasts)


def likely_contrast(images: dict[str, Volume], *, lesions: Volume, white: np.ndarray) -> dict[str, float]:
    """The patient's own contrast, or raters' usual one where the patient has no lesion, within what raters mark."""
    from msrim.training.contrasts import PAINTED_CONTRAST

    seen = own_contrast(images, lesions=lesions, white=white)
    return {
        name: float(np.clip(np.mean(PAINTED_CONTRAST[name]) if seen is None else seen[name], *PAINTED_CONTRAST[name]))
        for name in images
    }


def own_contrast(images: dict[str, Volume], *, lesions: Volume, white: np.ndarray) -> dict[str, float] | None:
    """How the patient's own lesions differ from the white matter around them, in the median over lesions.

    Parameters
    ----------
    images : dict of str to Volume
        Normalised contrasts on one grid.
    lesions : Volume of bool
    white : (X, Y, Z) bool

    Returns
    -------
    dict of str to float, or None
        By contrast: the quartile of the lesion that differs more, less the median around it. None without any lesion.
    """
    parts = cc3d.connected_components(lesions.data.astype(np.uint8), connectivity=26)
    sizes = np.bincount(parts.ravel())[1:] * lesions.voxel_volume_mm3
    large = sizes >= MEASURED_MM3 if (sizes >= MEASURED_MM3).any() else sizes > 0
    reach = np.ceil(AROUND_MM[1] / lesions.spacing).astype(int)
    found: dict[str, list[float]] = {name: [] for name in images}
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        if not large[number - 1]:
            continue
        box = tuple(slice(max(s.start - r, 0), s.stop + r) for s, r in zip(box, reach, strict=True))
        inside = parts[box] == number
        distance = ndimage.distance_transform_edt(~lesions.data[box].astype(bool), sampling=lesions.spacing)
        around = white[box] & (distance >= AROUND_MM[0]) & (distance <= AROUND_MM[1])
        if not around.any():
            continue
        for name, image in images.items():
            quartile = 25 if name == "T1w" else 75
            value = np.percentile(image.data[box][inside], quartile) - np.median(image.data[box][around])
            found[name].append(float(value))
    if not found["FLAIR"]:
        return None
    return {name: float(np.median(values)) for name, values in found.items()}


def grade_lesions(
    subject: Subject,
    painted: PaintedImages,
    *,
    out: Path,
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
    brain, labels : Path
        On the grid of the user's FLAIR.
    lesion, painted_lesion : Path
        Probability of lesion on the working grid, without and with painted lesions.
    threshold, min_lesion_mm3 : float
    seed : int
    """
    target, inside, parsed = read_volume(subject.contrasts["FLAIR"]), read_mask(brain), read_own(labels)
    marked = [
        target.like((resample(read_own(path), target).data >= threshold) & inside.data)
        for path in (lesion, painted_lesion)
    ]
    before, after = (
        _kept(plausible_lesions(mask, brain=inside, labels=parsed, thick_mm=THICK_SLICES_MM), min_mm3=min_lesion_mm3)
        for mask in marked
    )
    lesions = read_own(painted.lesions)
    truth = labels_on_grid(lesions, target, target_from_source=np.eye(4)).data
    added = cc3d.connected_components((after & ~before).astype(np.uint8), connectivity=26)
    unit = target.voxel_volume_mm3
    sizes = np.bincount(added.ravel()) * unit
    rows, matched = [], {0}
    for number, (contrast, flair_contrast) in painted.contrasts.items():
        parts = set(np.unique(added[truth == number]).tolist()) - {0}
        matched |= parts
        voxels = np.argwhere(lesions.data == number)
        centre = lesions.affine[:3, :3] @ voxels.mean(axis=0) + lesions.affine[:3, 3]
        rows.append(
            PaintedLesion(
                number,
                round(len(voxels) * lesions.voxel_volume_mm3, 3),
                contrast,
                flair_contrast,
                *(round(float(c), 2) for c in centre),
                round(float(sizes[list(parts)].sum()), 3) if parts else None,
            )
        )
    near = grown_mask(target.like((truth > 0) | before), by_mm=NEAR_MM).data
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


def _kept(mask: Volume, *, min_mm3: float) -> np.ndarray:
    """Without what is smaller than a lesion that counts: (X, Y, Z) bool."""
    parts = cc3d.connected_components(mask.data.astype(np.uint8), connectivity=26)
    large = np.bincount(parts.ravel()) * mask.voxel_volume_mm3 >= min_mm3
    large[0] = False
    return large[parts]
