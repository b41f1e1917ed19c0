"""The FSL backend: matrices by hand, the calls with stand-in programs, and FSL itself where it is installed."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from fsl_programs import BET, answer, arguments_of_flirt

from msrim.errors import BackendError
from msrim.image import Volume
from msrim.preprocess import fsl
from msrim.preprocess.register import register_rigid
from msrim.preprocess.template import load_template, load_template_brain_mask


def shifted(x: float, y: float, z: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def test_matrix_between_radiological_images():
    # Voxel (i, j, k) lies at FSL (2i, 2j, 3k) and at world (90 - 2i, 2j - 126, 3k - 72).
    moving = Volume(np.zeros((91, 109, 61)), shifted(90, -126, -72) @ np.diag([-2.0, 2, 3, 1]))
    fixed = Volume(np.zeros((50, 50, 50)), shifted(30, 0, 0) @ np.diag([-1.0, 1, 1, 1]))
    found = fsl.fixed_from_flirt(shifted(5, 6, 7), moving=moving, fixed=fixed)
    # World (90, -126, -72) is FSL 0 of moving, is FSL (5, 6, 7) of fixed, is world (25, 6, 7).
    np.testing.assert_allclose(found, shifted(25 - 90, 6 + 126, 7 + 72), atol=1e-9)


def test_matrix_from_a_neurologically_stored_image():
    # Positive determinant: FSL's first axis runs backwards, so voxel i of 10 lies at FSL 2 (9 - i).
    moving = Volume(np.zeros((10, 10, 10)), np.diag([2.0, 2, 2, 1]))
    fixed = Volume(np.zeros((10, 10, 10)), np.diag([-1.0, 1, 1, 1]))
    found = fsl.fixed_from_flirt(np.eye(4), moving=moving, fixed=fixed)
    # World x = 2i is FSL 18 - x, which in fixed is world x' = -(18 - x).
    np.testing.assert_allclose(found, shifted(-18, 0, 0), atol=1e-9)


@pytest.fixture
def image() -> Volume:
    data = np.random.default_rng(2).random((12, 12, 12)).astype(np.float32) + 1
    return Volume(data, np.diag([-1.0, 1, 1, 1]))


def test_found_by_fsldir(stand_in, monkeypatch):
    stand_in()
    assert fsl.is_available()
    assert fsl.fsl_version() == "6.0.7.4"
    monkeypatch.delenv("FSLDIR")
    assert not fsl.is_available()
    with pytest.raises(BackendError, match="FSLDIR"):
        fsl.fsl_version()


def test_bet_that_writes_nothing_is_an_error(stand_in, image):
    stand_in(bet="exit 0")
    with pytest.raises(BackendError, match="BET"):
        fsl.extract_brain(image)


def test_bet_that_fails_says_why(stand_in, image):
    stand_in(bet="echo 'Segmentation fault' >&2; exit 1")
    with pytest.raises(BackendError, match="Segmentation fault"):
        fsl.extract_brain(image)


def test_bet_mask_comes_back_on_the_same_grid(stand_in, image):
    stand_in(bet=f'[ "$FSLOUTPUTTYPE" = NIFTI_GZ ] && {BET}')
    mask = fsl.extract_brain(image)
    assert mask.data.dtype == bool
    assert mask.data.all()
    np.testing.assert_array_equal(mask.affine, image.affine)


@pytest.mark.parametrize("masked", [False, True], ids=["whole heads", "brains"])
@pytest.mark.parametrize(("register", "dof"), [(fsl.register_rigid, 6), (fsl.register_affine, 12)])
def test_flirt_is_asked_for_images_without_weights(stand_in, image, register, dof, masked):
    """Masks as weights make FLIRT's search end where the brains do not meet: it gets blanked images instead."""
    home = stand_in()
    fixed = Volume(image.data + 5, image.affine)
    masks = {"moving_mask": image.like(image.data > 1.5), "fixed_mask": image.like(image.data > 1.2)} if masked else {}
    answer(home, shifted(3, -2, 1), moving=image, fixed=fixed)
    np.testing.assert_allclose(register(image, fixed, **masks), shifted(3, -2, 1), atol=1e-6)
    assert arguments_of_flirt(home) == {
        "-in": "moving.nii.gz",
        "-ref": "fixed.nii.gz",
        "-out": "moved.nii.gz",
        "-omat": "matrix.txt",
        "-cost": "normmi",
        "-searchcost": "normmi",
        "-dof": str(dof),
    }
    for name, given in (("moving", image), ("fixed", fixed)):
        expected = np.where(masks[f"{name}_mask"].data, given.data, 0) if masked else given.data
        np.testing.assert_array_equal(nib.load(home / f"{name}.nii.gz").get_fdata(dtype=np.float32), expected)


def test_fast_labels(stand_in, image):
    stand_in()
    brain = image.like(image.data > 1.5)
    labels = fsl.classify_tissue(image, brain).data
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 2}
    np.testing.assert_array_equal(labels > 0, brain.data)


@pytest.mark.skipif(not fsl.is_available(), reason="FSL is not installed: FSLDIR is not set")
def test_both_backends_agree_on_a_rigid_pair():
    template, brain = load_template(), load_template_brain_mask()
    away = shifted(6, -9, 4)
    moved = Volume(template.data, away @ template.affine)
    masks = {"moving_mask": Volume(brain.data, moved.affine), "fixed_mask": brain}
    for register in (fsl.register_rigid, register_rigid):
        np.testing.assert_allclose(register(moved, template, **masks) @ away, np.eye(4), atol=1)
