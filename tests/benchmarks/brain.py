"""Brain masks and rigid registrations of raw scans against the published ones.

    python -m tests.benchmarks.brain --data ../shared/data/bids --out DIR

For every visit with published transforms: Dice of the brain mask from the FLAIR alone and from all contrasts, and the
mean distance over the brain between our T1w and T2w to FLAIR and the published ones, as the files are and with T1w and
T2w misplaced by 15 degrees and 30 mm.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from rich.console import Console as Page
from rich.table import Table
from scipy.spatial.transform import Rotation

from msrim.bids import Subject, find_subject, subject_from_files
from msrim.console import Console
from msrim.evaluation.metrics import segmentation_metrics
from msrim.image import Volume, read_volume, resample
from msrim.recipe import Recipe
from msrim.transform import apply_transform, read_transform
from msrim.workflows.anatomy import Anatomy, preprocess_visit

QUIET = Console(quiet=True)


def main() -> None:
    """Preprocess every visit three times and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="BIDS dataset with derivatives/expert")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    table = Table(title="raw scans against the published masks and transforms")
    columns = (
        "visit",
        "brain Dice, FLAIR alone",
        "all contrasts",
        "T1w mm",
        "T2w mm",
        "T1w misplaced",
        "T2w misplaced",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for visit in sorted(given.data.glob("sub-*/ses-*")):
        subject = find_subject(visit)
        expert = given.data / "derivatives" / "expert" / f"sub-{subject.label}"
        alone = subject_from_files(subject.contrasts["FLAIR"])
        of_flair = preprocess_visit(
            alone, Recipe(), given.out / "flair" / visit.parent.name / visit.name, console=QUIET
        )
        of_all = preprocess_visit(subject, Recipe(), given.out / "all", console=QUIET)
        moved, shift = misplaced(subject, given.out / "misplaced")
        of_moved = preprocess_visit(moved, Recipe(), given.out / "misplaced" / "results", console=QUIET)
        truth = published_brain(expert, subject, read_volume(of_flair.files.brain, mask=True))
        dice = [
            segmentation_metrics(truth, read_volume(run.files.brain, mask=True))["dice"] for run in (of_flair, of_all)
        ]
        points = apply_transform(truth.affine, np.argwhere(truth.data)[::50])
        row = [f"{value:.3f}" for value in dice]
        for run, known in ((of_all, np.eye(4)), (of_moved, shift)):
            for contrast in ("T1w", "T2w"):
                row.append(distance(run, expert, subject, contrast, points=points, shift=known))
        table.add_row(f"{subject.label} {subject.session}", *row)
    Page(width=120).print(table)


def published_brain(expert: Path, subject: Subject, grid: Volume) -> Volume:
    """The published mask of both visits' common space, on the FLAIR's grid."""
    mask = read_volume(expert / "anat" / f"sub-{subject.label}_space-common_desc-brain_mask.nii.gz", mask=True)
    common_from_flair = published(expert, subject, "FLAIR", "common")
    here = resample(mask.like(mask.data.astype(np.float32)), grid, target_from_source=np.linalg.inv(common_from_flair))
    return grid.like(here.data > 0.5)


def published(expert: Path, subject: Subject, source: str, target: str) -> np.ndarray:
    """A transform that came with the data: (4, 4), target from source, RAS mm."""
    name = f"sub-{subject.label}_ses-{subject.session}_from-{source}_to-{target}_mode-image_xfm.txt"
    return read_transform(expert / f"ses-{subject.session}" / "xfm" / name)


def misplaced(subject: Subject, folder: Path) -> tuple[Subject, np.ndarray]:
    """The subject with T1w and T2w turned by 15 degrees about a slanted axis and shifted by 30 mm; and that pose."""
    shift = np.eye(4)
    axis = np.ones(3) / np.sqrt(3)
    shift[:3, :3] = Rotation.from_rotvec(15 * axis, degrees=True).as_matrix()
    shift[:3, 3] = 30 * axis
    place = folder / f"sub-{subject.label}" / f"ses-{subject.session}"
    place.mkdir(parents=True, exist_ok=True)
    for contrast, path in subject.contrasts.items():
        image = nib.load(path)
        affine = image.affine if contrast == "FLAIR" else shift @ image.affine
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), place / path.name)
    return find_subject(place), shift


def distance(
    run: Anatomy, expert: Path, subject: Subject, contrast: str, *, points: np.ndarray, shift: np.ndarray
) -> str:
    """Mean distance over points of the FLAIR, mm, between where a run and the publication look for them."""
    if contrast not in subject.contrasts:
        return ""
    found = read_transform(run.to_flair[contrast]) @ shift
    known = published(expert, subject, contrast, "FLAIR")
    there = [apply_transform(np.linalg.inv(matrix), points) for matrix in (found, known)]
    return f"{np.linalg.norm(there[0] - there[1], axis=1).mean():.2f}"


if __name__ == "__main__":
    main()
