"""What is refused before a run writes anything."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from volumes import LPS, OBLIQUE, PIL, RAS, pose

from msrim.bids import Subject
from msrim.errors import InputError, OutputError
from msrim.image import Volume, write_volume
from msrim.workflows.inputs import check_output_folder, field_of_view, read_subject


def head(folder: Path, name: str, *, affine: np.ndarray, shape=(24, 24, 16)) -> Path:
    data = np.random.default_rng(0).random(shape, np.float32)
    return write_volume(Volume(data, affine), folder / f"{name}.nii.gz")


def centred(orientation, spacing_mm, shape=(24, 24, 16), at_mm=(0.0, 0.0, 0.0)) -> np.ndarray:
    affine = pose(orientation, spacing_mm, origin_mm=(0, 0, 0))
    affine[:3, 3] = np.array(at_mm) - affine[:3, :3] @ (np.array(shape) / 2)
    return affine


@pytest.mark.parametrize(
    "other",
    [
        centred(PIL, (8.0, 8.0, 8.0)),
        centred(OBLIQUE, (10.0, 10.0, 6.0), at_mm=(30, -30, 60)),
        centred(LPS, (10.0, 10.0, 15.0)),
        centred(RAS, (6.0, 6.0, 9.0)),
    ],
    ids=["sagittal", "oblique and moved", "with neck", "brain extracted"],
)
def test_images_of_one_head_are_taken(tmp_path, other):
    flair = head(tmp_path, "FLAIR", affine=centred(RAS, (10.0, 10.0, 8.0)))
    subject = Subject("1", None, {"FLAIR": flair, "T1w": head(tmp_path, "T1w", affine=other)})
    assert {name: volume.shape for name, volume in read_subject(subject).items()} == {
        "FLAIR": (24, 24, 16),
        "T1w": (24, 24, 16),
    }


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (centred(RAS, (4.0, 4.0, 5.0)), "240 mm and 96 mm across, not one head"),
        (centred(RAS, (22.0, 22.0, 9.0)), "240 mm and 528 mm across, not one head"),
        (centred(RAS, (10.0, 10.0, 8.0), at_mm=(0, 0, 400)), "lie beside each other in space"),
    ],
    ids=["small", "large", "apart"],
)
def test_images_of_different_heads_are_refused_by_name(tmp_path, other, message):
    flair = head(tmp_path, "FLAIR", affine=centred(RAS, (10.0, 10.0, 8.0)))
    t2 = head(tmp_path, "T2w", affine=other)
    with pytest.raises(InputError) as caught:
        read_subject(Subject("1", None, {"FLAIR": flair, "T2w": t2}))
    assert str(caught.value).startswith(f"{flair} and {t2}: ")
    assert message in str(caught.value)


def test_field_of_view_does_not_depend_on_storage():
    straight = field_of_view(Volume(np.zeros((10, 20, 30)), pose(RAS, (1.0, 1.0, 2.0), origin_mm=(0, 0, 0))))
    flipped = field_of_view(Volume(np.zeros((10, 20, 30)), pose(LPS, (1.0, 1.0, 2.0), origin_mm=(9, 19, 0))))
    np.testing.assert_allclose(straight, [[-0.5, -0.5, -1.0], [9.5, 19.5, 59.0]])
    np.testing.assert_allclose(straight, flipped)


def test_checking_the_output_folder_leaves_no_trace(tmp_path):
    check_output_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_output_folder_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(OutputError, match="file: is a file, not a folder"):
            check_output_folder(out)


def test_output_folder_in_a_read_only_file_system():
    with pytest.raises(OutputError, match="/proc: cannot be written"):
        check_output_folder(Path("/proc/msrim"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_folder_without_rights(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="cannot be written"):
        check_output_folder(tmp_path / "out")
