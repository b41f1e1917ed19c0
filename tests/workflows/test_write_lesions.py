"""From probabilities to the user's files, without the run around it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from msrim.bids import Subject
from msrim.image import Volume, read_labels, read_volume, write_volume
from msrim.workflows.anatomy import AnatomyFiles
from msrim.workflows.segment import LesionRule, Probabilities, write_lesions

SHAPE = (24, 24, 24)
AFFINE = np.eye(4)


@pytest.fixture
def visit(tmp_path) -> tuple[Subject, AnatomyFiles, Probabilities]:
    """Three blocks of 125 voxels: exactly at the threshold, a hair below, and above but outside the brain."""
    probability = np.full(SHAPE, 0.05, np.float32)
    probability[4:9, 4:9, 4:9] = 0.5
    probability[12:17, 12:17, 12:17] = np.nextafter(np.float32(0.5), np.float32(0))
    probability[4:9, 18:23, 4:9] = 0.9
    brain = np.ones(SHAPE, bool)
    brain[:, 17:] = False
    files = {
        "flair": Volume(np.indices(SHAPE).sum(axis=0).astype(np.float32), AFFINE),
        "brain": Volume(brain, AFFINE),
        "labels": Volume(np.full(SHAPE, 5, np.uint8), AFFINE),
        "lesion": Volume(probability, AFFINE),
        "sphere": Volume(np.zeros(SHAPE, np.float32), AFFINE),
        "network": Volume(np.minimum(2 * probability, 1), AFFINE),
    }
    paths = {name: write_volume(volume, tmp_path / f"{name}.nii") for name, volume in files.items()}
    anatomy = AnatomyFiles(paths["brain"], paths["labels"], Path(), paths["labels"], {})
    return (
        Subject("1", None, {"FLAIR": paths["flair"]}),
        anatomy,
        Probabilities(paths["lesion"], paths["sphere"], paths["network"]),
    )


def test_a_lesion_is_what_reaches_the_threshold_inside_the_brain(visit, tmp_path):
    subject, anatomy, probabilities = visit
    written = write_lesions(
        subject, out=tmp_path / "out", probabilities=probabilities, anatomy=anatomy, flair=subject.contrasts["FLAIR"],
        rule=LesionRule("made", threshold=0.5, min_mm3=3.0),
    )  # fmt: skip
    expected = np.zeros(SHAPE, bool)
    expected[4:9, 4:9, 4:9] = True
    np.testing.assert_array_equal(read_volume(written.files.mask, mask=True).data, expected)
    np.testing.assert_array_equal(read_labels(written.files.instances).data, expected)
    assert [(row.id, row.volume_mm3) for row in written.rows] == [(1, 125.0)]
    # What the network said itself lies beside it, and decides nothing.
    network = read_volume(written.files.network).data
    assert network[6, 6, 6] == 1.0 and network[0, 0, 0] == np.float32(0.1) and not network[:, 17:].any()
    assert json.loads(written.files.mask_sidecar.read_text(encoding="utf-8"))["Threshold"] == 0.5
