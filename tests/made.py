"""Small made data of the shapes that trainings take."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from msrim.files import write_text
from msrim.image import Volume, write_volume

AFFINE = np.diag([0.75, 0.75, 3.0, 1.0])


def write_rim_subject(root: Path, number: int, rng: np.random.Generator) -> None:
    """Two lesions on noise; the first is a ring in QSM, the second a plain disc. The raters miss the ring of sub-3."""
    index = np.stack(np.meshgrid(*map(np.arange, (64, 64, 12)), indexing="ij"), axis=-1)
    qsm = rng.normal(-0.02, 0.01, index.shape[:3])
    instances = np.zeros(qsm.shape, np.uint8)
    for label, centre in enumerate(((18, 18, 6), (44, 44, 6)), start=1):
        distance = np.linalg.norm((index - centre)[..., :2], axis=-1)
        inside = (distance < 7) & (np.abs(index[..., 2] - 6) < 2)
        instances[inside] = label
        qsm[inside & (distance > (4.5 if label == 1 else -1))] += 0.06
    name, kept = f"sub-{number}", root / "derivatives" / "truth" / f"sub-{number}" / "anat"
    write_volume(Volume(qsm.astype(np.float32), AFFINE), root / name / "anat" / f"{name}_Chimap.nii.gz")
    flair = Volume(rng.normal(100, 10, qsm.shape).astype(np.float32), AFFINE)
    write_volume(flair, root / name / "anat" / f"{name}_FLAIR.nii.gz")
    write_volume(Volume(instances, AFFINE), kept / f"{name}_seg-lesions_dseg.nii.gz")
    seen = "false" if number == 3 else "true"
    write_text(f"id\trim\ttruth\n1\t{seen}\ttrue\n2\tfalse\tfalse\n", kept / f"{name}_desc-lesions.tsv")


def write_lits_scan(folder: Path, number: int, rng: np.random.Generator) -> None:
    """A block of liver with a block of tumour inside, in Hounsfield units, named as the challenge names them."""
    labels = np.zeros((70, 90, 9), np.uint8)
    labels[20:40, 30:60, 3:7] = 1
    labels[26:32, 40:50, 4:6] = 2
    image = np.where(labels == 2, 60, 100) + rng.normal(0, 10, labels.shape) - 1000 * (labels == 0)
    write_volume(Volume(image.astype(np.float32), np.eye(4)), folder / f"volume-{number}.nii")
    write_volume(Volume(labels, np.eye(4)), folder / f"segmentation-{number}.nii")
