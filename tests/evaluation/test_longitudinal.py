"""Measures of new lesions, by hand."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from msrim.cli.main import app
from msrim.evaluation.longitudinal import change_metrics, lesion_detection, split_change
from msrim.image import Volume
from msrim.transform import write_transform

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def row(*runs: tuple[int, int]) -> Volume:
    """A mask with runs (first, length) along x, three voxels wide in y."""
    data = np.zeros((60, 3, 3), bool)
    for first, length in runs:
        data[first : first + length, :, 1] = True
    return Volume(data, AFFINE)


def test_a_tenth_of_a_lesion_must_be_covered():
    truth = row((0, 20))
    assert lesion_detection(truth, row((19, 2)), min_voxels=1)["recall"] == 0  # a twentieth
    assert lesion_detection(truth, row((18, 3)), min_voxels=1)["recall"] == 1  # a tenth, a third of the claim outside


def test_a_claim_that_floods_the_brain_detects_nothing():
    found = lesion_detection(row((10, 5)), row((5, 20)), min_voxels=1)
    assert found["detected"] == 0  # three quarters of the claim lie outside
    assert lesion_detection(row((10, 7)), row((5, 20)), min_voxels=1)["detected"] == 1  # 65 %


def test_only_the_predicted_lesions_that_make_most_of_the_cover_are_asked():
    # The large claim covers 8 of 10 and lies inside; the small one covers 1 and lies outside by three quarters.
    truth = row((10, 10))
    assert lesion_detection(truth, row((10, 8), (19, 4)), min_voxels=1)["detected"] == 1
    assert lesion_detection(truth, row((19, 4)), min_voxels=1)["detected"] == 0


def test_small_components_count_neither_for_nor_against():
    truth, prediction = row((0, 4), (10, 3), (20, 2)), row((0, 4), (30, 3))
    found = lesion_detection(truth, prediction, min_voxels=11)
    assert (found["lesions"], found["prediction_lesions"], found["f1"]) == (1, 1, 1.0)
    assert lesion_detection(truth, prediction, min_voxels=1) == {
        "lesions": 3,
        "detected": 1,
        "prediction_lesions": 2,
        "true_positives": 1,
        "recall": 1 / 3,
        "precision": 0.5,
        "f1": pytest.approx(0.4),
    }


def test_pairs_without_new_lesions():
    empty, some = row(), row((0, 5), (10, 1))
    assert lesion_detection(empty, empty, min_voxels=1)["f1"] == 1
    found = change_metrics(empty, some)
    assert (found["false_lesions"], found["false_volume_mm3"]) == (2, 36.0)
    assert found["challenge"]["recall"] is None and found["challenge"]["f1"] == 0
    assert found["dice"] == 0
    json.dumps(found)


def test_the_smallest_lesions_are_those_of_paper_and_challenge():
    truth = row((0, 4))  # 12 voxels, 24 mm3
    small = Volume(np.zeros_like(truth.data), AFFINE)
    small.data[30, :2, 1] = True  # 2 voxels, 4 mm3
    both = truth.like(truth.data | small.data)
    found = change_metrics(truth, both)
    assert [found[rule]["prediction_lesions"] for rule in ("paper", "challenge")] == [1, 2]
    assert found["false_lesions"] == 1
    assert found["dice"] == pytest.approx(24 / 26)


def test_other_grids_are_refused():
    with pytest.raises(ValueError, match="different grids"):
        lesion_detection(row(), Volume(row().data, np.eye(4)), min_voxels=1)


def pair() -> tuple[Volume, Volume, Volume, Volume]:
    """FLAIRs with one lesion come and one gone, an expert's mask of both, and the brain."""
    rng = np.random.default_rng(0)
    before = rng.normal(100, 5, (30, 30, 30)).astype(np.float32)
    after = 2 * rng.normal(100, 5, (30, 30, 30)).astype(np.float32)
    change = np.zeros(before.shape, bool)
    change[5:9, 5:9, 5:9] = change[20:24, 20:24, 20:24] = True
    before[20:24, 20:24, 20:24] += 40
    after[5:9, 5:9, 5:9] += 80
    affine = np.eye(4)
    return Volume(before, affine), Volume(after, affine), Volume(change, affine), Volume(np.ones_like(change), affine)


def test_the_sign_of_the_difference_tells_growth_from_shrinking():
    before, after, change, brain = pair()
    grown, shrunk = split_change(change, before, after, brain=brain)
    assert grown.data[5:9, 5:9, 5:9].all() and grown.data.sum() == 64
    assert shrunk.data[20:24, 20:24, 20:24].all() and shrunk.data.sum() == 64


def test_the_command_judges_growth_alone_in_the_truth_s_space(tmp_path):
    before, after, change, brain = pair()
    shift = np.eye(4)
    shift[0, 3] = 3.0  # the follow-up lies 3 mm to the left of the truth's space
    grown = np.zeros(change.shape, bool)
    grown[5:9, 5:9, 5:9] = True
    here = np.linalg.inv(shift)
    files = {"baseline": before, "followup": Volume(after.data, here), "truth": change, "brain": brain}
    files["prediction"] = Volume(grown, here)
    arguments = ["evaluate", "longitudinal", "--truth-from-followup", str(write_transform(shift, tmp_path / "x.txt"))]
    for name, volume in files.items():
        nib.save(nib.Nifti1Image(volume.data.astype(np.float32), volume.affine), tmp_path / f"{name}.nii.gz")
        arguments += [f"--{name}", str(tmp_path / f"{name}.nii.gz")]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found["dice"] == 1.0
    assert (found["challenge"]["lesions"], found["challenge"]["f1"]) == (1, 1.0)


def test_a_brain_on_another_grid_is_refused_by_its_name(tmp_path):
    before, after, change, brain = pair()
    files = {"baseline": before, "followup": after, "truth": change, "prediction": change}
    files["brain"] = Volume(brain.data[:-1], brain.affine)
    arguments = ["evaluate", "longitudinal"]
    for name, volume in files.items():
        nib.save(nib.Nifti1Image(volume.data.astype(np.float32), volume.affine), tmp_path / f"{name}.nii.gz")
        arguments += [f"--{name}", str(tmp_path / f"{name}.nii.gz")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2 and "brain.nii.gz" in refused.stderr
