"""The FSL backend: matrices by hand, the calls with stand-in programs, and FSL itself where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

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
def stand_in(tmp_path, monkeypatch):
    """An FSLDIR whose programs are shell scripts given by the test."""

    def install(**scripts: str) -> None:
        for tool in ("bet", "flirt", "fast"):
            program = tmp_path / "fsl" / "bin" / tool
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f"#!/bin/sh\n{scripts.get(tool, 'exit 0')}\n")
            program.chmod(0o755)
        (tmp_path / "fsl" / "etc").mkdir(exist_ok=True)
        (tmp_path / "fsl" / "etc" / "fslversion").write_text("6.0.7.4\n")
        monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))
        monkeypatch.delenv("FSLOUTPUTTYPE", raising=False)

    return install


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
    stand_in(bet='[ "$FSLOUTPUTTYPE" = NIFTI_GZ ] && cp "$1" "$2" && cp "$1" "${2%.nii.gz}_mask.nii.gz"')
    mask = fsl.extract_brain(image)
    assert mask.data.dtype == bool
    assert mask.data.all()
    np.testing.assert_array_equal(mask.affine, image.affine)


WRITE_MATRIX = """
while [ $# -gt 0 ]; do
  case "$1" in
    -omat) matrix="$2" ;;
    -out) cp fixed.nii.gz "$2" ;;
    -dof) dof="$2" ;;
  esac
  shift
done
echo "1 0 0 $dof
0 1 0 0
0 0 1 0
0 0 0 1" > "$matrix"
"""


def test_flirt_matrix_is_brought_to_world(stand_in, image):
    stand_in(flirt=WRITE_MATRIX)
    mask = image.like(image.data > 1.5)
    np.testing.assert_allclose(fsl.register_rigid(image, image, moving_mask=mask, fixed_mask=mask), shifted(-6, 0, 0))
    np.testing.assert_allclose(fsl.register_affine(image, image, fixed_mask=mask), shifted(-12, 0, 0))


def test_fast_labels(stand_in, image):
    stand_in(fast="for f in seg pve_0 pve_1 pve_2 pveseg; do cp brain.nii.gz tissue_$f.nii.gz; done")
    brain = image.like(image.data > 1.5)
    labels = fsl.classify_tissue(image, brain).data
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 2}
    np.testing.assert_array_equal(labels > 0, brain.data)


@pytest.mark.skipif(not fsl.is_available(), reason="FSL is not installed: FSLDIR is not set")
def test_both_backends_agree_on_a_rigid_pair():
    template, mask = load_template(), load_template_brain_mask()
    moved = Volume(template.data, shifted(6, -9, 4) @ template.affine)
    found = fsl.register_rigid(moved, template)
    np.testing.assert_allclose(found, register_rigid(moved, template, moving_mask=mask, fixed_mask=mask), atol=1)
