"""A small head with lesions of its own, prepared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from msrim.image import Volume, write_volume
from msrim.labels import HeadLabel
from msrim.transform import write_transform
from msrim.workflows.anatomy import Anatomy, AnatomyFiles, Working

SHAPE = (96, 96, 80)
# Of the head's own lesions.
BRIGHT, DARK, THRESHOLD = 3.0, -1.5, 0.5
OWN = ((30, 48, 40), (60, 40, 40), (48, 60, 30))


def head(folder: Path, *, slice_mm: float = 1.0) -> tuple[Anatomy, Path]:
    """A ball of white matter in a shell of cortex, and the probabilities of its own lesions."""
    points = np.moveaxis(np.indices(SHAPE), 0, -1) - (np.array(SHAPE) - 1) / 2
    depth = 38 - np.linalg.norm(points, axis=-1)
    labels = np.select([depth > 5, depth > 0], [HeadLabel.CEREBRAL_WHITE, HeadLabel.CORTEX], 0).astype(np.uint8)
    grid = Volume(labels, np.eye(4))
    own = np.zeros(SHAPE, np.float32)
    for centre in OWN:
        own[np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - centre, axis=-1) < 3.5] = 1
    noise = np.random.default_rng(0).normal(0, 0.3, SHAPE)
    images = {"FLAIR": BRIGHT * own + noise, "T1w": DARK * own + noise}
    brain = write_volume(grid.like(depth > 0), folder / "brain.nii")
    parsed = write_volume(grid, folder / "labels.nii")
    scan = Volume(np.zeros((*SHAPE[:2], round(SHAPE[2] / slice_mm)), np.float32), np.diag([1.0, 1.0, slice_mm, 1.0]))
    working = Working(
        images={
            name: write_volume(grid.like((image * (depth > 0)).astype(np.float32)), folder / f"{name}.nii")
            for name, image in images.items()
        },
        brain=brain,
        labels=parsed,
        tissue=parsed,
    )
    identity = write_transform(np.eye(4), folder / "identity.txt")
    thick = write_volume(scan, folder / "scan.nii")
    anatomy = Anatomy(
        corrected={"FLAIR": thick, "T1w": thick},
        brain=brain,
        to_flair={"T1w": identity},
        to_mni=identity,
        working=working,
        files=AnatomyFiles(brain, parsed, Path(), parsed, {}),
    )
    return anatomy, write_volume(grid.like(0.9 * own), folder / "lesion.nii")
