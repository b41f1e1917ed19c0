"""Registration: known misplacements, published transforms, and the template."""

from __future__ import annotations

import numpy as np
import pytest
from volumes import LPS, OBLIQUE, pose, rotation

from msrim.image import Volume, read_volume, resample, to_ras
from msrim.models import read_card
from msrim.models.brain import extract_brain
from msrim.preprocess.bias import correct_bias
from msrim.preprocess.register import align_by_volume, register_affine, register_rigid
from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.transform import apply_transform, read_transform
from tests.benchmarks.no_change import rescanned


def mean_gap_mm(a: np.ndarray, b: np.ndarray, points_mm: np.ndarray) -> float:
    return np.linalg.norm(apply_transform(a, points_mm) - apply_transform(b, points_mm), axis=-1).mean()


def misplacement(*, degrees: float, shift_mm: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(x_deg=degrees * 0.8, y_deg=degrees * 0.3, z_deg=-degrees * 0.5)
    matrix[:3, 3] = np.array([2.0, -2.0, 1.0]) / 3 * shift_mm
    return matrix


@pytest.fixture(scope="module")
def template() -> tuple[Volume, Volume]:
    return load_template(), load_template_brain_mask()


@pytest.fixture(scope="module")
def inverted_slices(template):
    """The template in 3 mm oblique slices, its contrast turned round as on T2w: image and mask."""
    image, mask = template
    affine = pose(OBLIQUE @ LPS, (1.5, 1.5, 3.0), origin_mm=(110.0, 95.0, -75.0))
    grid = Volume(np.zeros((140, 160, 62), np.float32), affine)
    brain = resample(mask, grid, nearest=True)
    return brain.like(np.where(brain.data, 1.2 - resample(image, grid).data, 0).astype(np.float32)), brain


def test_rigid_recovers_15_degrees_and_30_mm_across_contrasts(template, inverted_slices):
    fixed, fixed_mask = template
    image, brain = inverted_slices
    truth = misplacement(degrees=15, shift_mm=30)
    affine = np.linalg.inv(truth) @ image.affine
    found = register_rigid(
        Volume(image.data, affine), fixed, moving_mask=Volume(brain.data, affine), fixed_mask=fixed_mask
    )
    inside = apply_transform(affine, np.argwhere(brain.data)[::50])
    assert mean_gap_mm(found, truth, inside) < 1.0
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-9)


def test_a_mask_that_took_in_the_neck_misleads_no_one(template, inverted_slices):
    """Its centre lies 6 cm too low; the scanner's own placing, 3 degrees and 4 mm off, is the better start."""
    fixed, fixed_mask = template
    image, brain = inverted_slices
    truth = misplacement(degrees=3, shift_mm=4)
    affine = np.linalg.inv(truth) @ image.affine
    low = brain.like(np.roll(brain.data, 20, axis=2))
    found = register_rigid(
        Volume(image.data, affine), fixed, moving_mask=Volume(low.data, affine), fixed_mask=fixed_mask
    )
    assert mean_gap_mm(found, truth, apply_transform(affine, np.argwhere(brain.data)[::50])) < 1.0


def test_affine_recovers_scale_and_shear(template, inverted_slices):
    fixed, fixed_mask = template
    image, _ = inverted_slices
    # Applied to what is fixed, because an image grid cannot be sheared.
    truth = misplacement(degrees=10, shift_mm=15) @ np.array(
        [[1.08, 0.03, 0, 0], [0, 0.93, 0.05, 0], [0, 0, 1.12, 0], [0, 0, 0, 1.0]]
    )
    smaller = resample(fixed, image, target_from_source=np.linalg.inv(truth))
    smaller_brain = smaller.like(smaller.data > 0)
    found = register_affine(smaller, fixed, moving_mask=smaller_brain, fixed_mask=fixed_mask)
    assert mean_gap_mm(found, truth, apply_transform(image.affine, np.argwhere(smaller_brain.data)[::50])) < 1.0


PAIRS = [
    ("sub-03", "ses-02", "T1w"),
    ("sub-04", "ses-01", "T2w"),
    ("sub-12", "ses-01", "T1w"),
    ("sub-20", "ses-02", "T1w"),
]


@pytest.mark.parametrize(("subject", "session", "contrast"), PAIRS)
def test_raw_scans_agree_with_the_published_transform(shared_data, subject, session, contrast):
    raw, expert = shared_data / "bids" / subject / session / "anat", shared_data / "bids/derivatives/expert" / subject
    flair = read_volume(raw / f"{subject}_{session}_FLAIR.nii.gz")
    moving = read_volume(raw / f"{subject}_{session}_{contrast}.nii.gz")
    published, common = (
        read_transform(expert / session / "xfm" / f"{subject}_{session}_from-{a}_to-{b}_mode-image_xfm.txt")
        for a, b in ((contrast, "FLAIR"), ("FLAIR", "common"))
    )
    mask = read_volume(expert / "anat" / f"{subject}_space-common_desc-brain_mask.nii.gz", mask=True)
    brain = resample(mask, flair, target_from_source=np.linalg.inv(common), nearest=True)
    moving_brain = resample(brain, moving, target_from_source=np.linalg.inv(published), nearest=True)
    # Away from where the scanner left it, so that doing nothing is not an answer.
    away = misplacement(degrees=15, shift_mm=30)
    corrected = correct_bias(moving, moving_brain)
    found = register_rigid(
        Volume(corrected.data, away @ moving.affine),
        correct_bias(flair, brain),
        moving_mask=Volume(moving_brain.data, away @ moving.affine),
        fixed_mask=brain,
    )
    inside = apply_transform(moving.affine, np.argwhere(moving_brain.data)[::50])
    assert mean_gap_mm(found @ away, published, inside) < 1.0


def test_a_patient_already_in_mni_space_stays_there(shared_data, template):
    (path,) = (shared_data / "mni/sub-mslesseg14/ses-01").rglob("*desc-brain_FLAIR.nii.gz")
    flair = read_volume(path)
    brain = flair.like(flair.data > 0)
    found = register_affine(flair, template[0], moving_mask=brain, fixed_mask=template[1])
    assert mean_gap_mm(found, np.eye(4), apply_transform(flair.affine, np.argwhere(brain.data)[::50])) < 3.0


def test_volume_alone_gives_a_rough_alignment(template, inverted_slices):
    fixed, fixed_mask = template
    image, brain = inverted_slices
    truth = misplacement(degrees=5, shift_mm=10) @ np.diag([1.15, 1.15, 1.15, 1.0])
    affine = np.linalg.inv(truth) @ image.affine
    small, small_brain = Volume(image.data, affine), Volume(brain.data, affine)
    found = align_by_volume(small, fixed, moving_mask=small_brain, fixed_mask=fixed_mask)
    assert mean_gap_mm(found, truth, apply_transform(affine, np.argwhere(brain.data)[::50])) < 5.0


def test_an_affine_does_not_run_past_collapsing(shared_data, template):
    """Longer steps of the optimiser once made this brain, in another pose and slices of 2.5 mm, 20 times as wide."""
    (path,) = (shared_data / "bids/sub-12/ses-01").rglob("*_FLAIR.nii.gz")
    again, _ = rescanned(to_ras(read_volume(path)), np.random.default_rng(1))
    again = to_ras(again)
    brain = extract_brain(again, card=read_card("synthstrip"))
    corrected = correct_bias(again, brain)
    found = register_affine(corrected, template[0], moving_mask=brain, fixed_mask=template[1])
    scales = np.linalg.svd(found[:3, :3], compute_uv=False)
    assert np.linalg.det(found[:3, :3]) > 0 and scales.min() > 0.7
    assert scales.max() < 1.25
