"""What the last steps say of the anatomy that they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msrim.errors import Fallback
from msrim.image import Volume, write_volume
from msrim.transform import write_transform
from msrim.workflows.results import write_anatomy

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def anatomy(folder: Path, *, cerebellum_voxels: int) -> dict[str, Path]:
    """Files of a 40 mm cube of brain, so much of it cerebellum."""
    labels = np.full(40**3, 5, np.uint8)
    labels[:cerebellum_voxels] = 6
    labels = labels.reshape(40, 40, 40)
    flair = Volume(np.random.default_rng(0).random((40, 40, 40), np.float32), AFFINE)
    files = {"flair": flair, "brain": flair.like(np.ones(flair.shape, bool)), "labels": flair.like(labels)}
    given = {name: write_volume(volume, folder / f"{name}.nii") for name, volume in files.items()}
    names = {"brain": "b.nii.gz", "tissue": "t.nii.gz", "tissue_table": "t.tsv", "labels": "l.nii.gz", "FLAIR": "x.txt"}
    return write_anatomy(
        **given,
        to_mni=write_transform(np.eye(4), folder / "to_mni.txt"),
        folder=folder,
        names=names,
    )


def test_a_missing_cerebellum_is_told(tmp_path):
    with pytest.warns(Fallback, match="only 40 ml of cerebellum and brainstem"):
        anatomy(tmp_path, cerebellum_voxels=5000)


def test_a_whole_cerebellum_is_nothing_to_tell(tmp_path, recwarn):
    files = anatomy(tmp_path, cerebellum_voxels=12500)
    assert not [warning for warning in recwarn if issubclass(warning.category, Fallback)]
    assert all(path.is_file() for path in files.values())
