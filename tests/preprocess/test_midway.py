"""Half way between two visits: known misplacements, published transforms, and neither visit favoured."""

from __future__ import annotations

import numpy as np
import pytest
from volumes import LPS, OBLIQUE, pose, rotation

from msrim.errors import InputError
from msrim.image import Volume, read_volume, resample
from msrim.preprocess import midway
from msrim.preprocess.bias import correct_bias
from msrim.preprocess.midway import Midway, brain_overlap, find_midway, halfway_transform, to_midway
from msrim.preprocess.register import register_rigid
from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.transform import apply_transform, read_transform


def misplacement(*, degrees: float, shift_mm: float, scale: float = 1.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(x_deg=degrees, y_deg=-degrees / 2) * scale
    matrix[:3, 3] = np.array([0.6, -0.8, 0.0]) * shift_mm
    return matrix


def test_half_of_a_turn_and_both_halves_make_a_whole():
    there = misplacement(degrees=12, shift_mm=9, scale=1.01)
    one, other = halfway_transform(there, np.linalg.inv(there)), halfway_transform(np.linalg.inv(there), there)
    np.testing.assert_allclose(one @ one, there, atol=1e-9)
    np.testing.assert_allclose(np.linalg.inv(other) @ one, there, atol=1e-9)


def test_registrations_that_disagree_meet_in_their_mean():
    forth, back = np.eye(4), np.eye(4)
    forth[:3, 3], back[:3, 3] = (4, 0, 0), (-6, 2, 0)
    np.testing.assert_allclose(halfway_transform(forth, back)[:3, 3], (2.5, -0.5, 0), atol=1e-12)


@pytest.fixture(scope="module")
def visits() -> tuple[Volume, Volume, Volume, Volume, np.ndarray]:
    """The template seen twice in thick slices, the second time moved, and its true transform from the first."""
    image, mask = load_template(), load_template_brain_mask()
    followup_from_baseline = misplacement(degrees=6, shift_mm=8, scale=1.005)
    empty = np.zeros((100, 120, 62), np.float32)
    poses = [pose(LPS, (2, 2, 3), origin_mm=(98, 95, -70)), pose(OBLIQUE @ LPS, (2, 2, 3), origin_mm=(110, 95, -85))]
    scans = []
    for affine, moved in zip(poses, (np.eye(4), followup_from_baseline), strict=True):
        grid = Volume(empty, affine)
        scans += [resample(image, grid, target_from_source=moved)]
        scans += [resample(mask, grid, target_from_source=moved, nearest=True)]
    return *scans, followup_from_baseline


@pytest.fixture(scope="module")
def met(visits) -> Midway:
    one, one_brain, other, other_brain, _ = visits
    return find_midway(
        one, other, baseline_brain=one_brain, followup_brain=other_brain, upright=np.stack([np.eye(4)] * 2)
    )


def test_a_known_misplacement_is_found(visits, met):
    _, one_brain, *_, truth = visits
    points = apply_transform(one_brain.affine, np.argwhere(one_brain.data))
    found = np.linalg.inv(met.from_followup) @ met.from_baseline
    gap = np.linalg.norm(apply_transform(found, points) - apply_transform(truth, points), axis=1)
    assert gap.mean() < 0.5


def test_an_affine_that_matches_worse_is_not_taken(visits, monkeypatch):
    """What the scanners' length scales are worth is lost where the affine goes astray."""
    one, one_brain, other, other_brain, _ = visits
    away = misplacement(degrees=0, shift_mm=6)
    monkeypatch.setattr(midway, "refine_affine", lambda *_, fixed_from_moving, **__: away @ fixed_from_moving)
    found = midway._register(one, other, moving_brain=one_brain, fixed_brain=other_brain)
    rigid = register_rigid(one, other, moving_mask=one_brain, fixed_mask=other_brain)
    np.testing.assert_array_equal(found, rigid)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [(np.diag([-1.0, 1, 1, 1]), "mirrors the head"), (misplacement(degrees=0, shift_mm=120), "of the smaller brain")],
    ids=["mirrored", "brains apart"],
)
def test_a_registration_that_cannot_be_right_is_refused(visits, monkeypatch, wrong, told):
    one, one_brain, other, other_brain, _ = visits
    monkeypatch.setattr(midway, "register_rigid", lambda *_, **__: wrong)
    monkeypatch.setattr(midway, "refine_affine", lambda *_, fixed_from_moving, **__: fixed_from_moving)
    with pytest.raises(InputError, match=f"FLAIRs of the two visits cannot be registered: .*{told}"):
        find_midway(one, other, baseline_brain=one_brain, followup_brain=other_brain, upright=np.stack([np.eye(4)] * 2))


def test_the_grid_holds_both_brains_and_their_pictures_agree(visits, met):
    one, one_brain, other, other_brain, truth = visits
    np.testing.assert_allclose(met.grid.spacing, 1.0)
    sampled = []
    for image, brain, matrix in ((one, one_brain, met.from_baseline), (other, other_brain, met.from_followup)):
        inside = resample(brain, met.grid, target_from_source=matrix, nearest=True)
        assert inside.data.sum() * 1.0 == pytest.approx(brain.data.sum() * brain.voxel_volume_mm3, rel=0.01)
        sampled.append((resample(image, met.grid, target_from_source=matrix).data, inside))
    both = sampled[0][1].data & sampled[1][1].data
    assert np.corrcoef(sampled[0][0][both], sampled[1][0][both])[0, 1] > 0.95
    # Masks of 2 by 2 by 3 mm differ at their edges even where the true transform puts them.
    placed = resample(other_brain, met.grid, target_from_source=met.from_baseline @ np.linalg.inv(truth), nearest=True)
    overlap = brain_overlap(sampled[0][1], sampled[1][1])
    assert overlap > 0.95 and overlap == pytest.approx(brain_overlap(sampled[0][1], placed), abs=0.005)


def test_swapped_visits_meet_in_the_same_place_exactly(visits, met):
    one, one_brain, other, other_brain, _ = visits
    swapped = find_midway(
        other, one, baseline_brain=other_brain, followup_brain=one_brain, upright=np.stack([np.eye(4)] * 2)
    )
    assert np.array_equal(swapped.from_baseline, met.from_followup)
    assert np.array_equal(swapped.from_followup, met.from_baseline)
    assert np.array_equal(swapped.grid.affine, met.grid.affine) and swapped.grid.shape == met.grid.shape
    assert swapped.disagreement_mm == met.disagreement_mm


def test_the_sharper_visit_is_blurred_along_the_other_one_s_slices():
    point = np.zeros((21, 21, 21), np.float32)
    point[10, 10, 10] = 1
    image = Volume(point, np.eye(4))
    blunt = Volume(point, np.diag([1.0, 1.0, 5.0, 1.0]))
    same, thick = (to_midway((image, other), image, transforms=(np.eye(4), np.eye(4)))[0] for other in (image, blunt))
    assert np.array_equal(same.data, point)
    assert thick.data[:, 10, 10].nonzero()[0].tolist() == [10]  # sharp as before across the slices
    along = thick.data[10, 10]
    assert (along * np.square(np.arange(21) - 10)).sum() == pytest.approx((25 - 1) / 12, rel=0.05)


def test_real_visits_agree_with_the_published_transforms(shared_data):
    expert = shared_data / "bids" / "derivatives" / "expert" / "sub-12"
    mask = read_volume(expert / "anat" / "sub-12_space-common_desc-brain_mask.nii.gz", mask=True)
    scans, brains, published = [], [], []
    for session in ("01", "02"):
        flair = read_volume(shared_data / f"bids/sub-12/ses-{session}/anat/sub-12_ses-{session}_FLAIR.nii.gz")
        name = f"sub-12_ses-{session}_from-FLAIR_to-common_mode-image_xfm.txt"
        published.append(read_transform(expert / f"ses-{session}" / "xfm" / name))
        brain = resample(mask, flair, target_from_source=np.linalg.inv(published[-1]), nearest=True)
        scans.append(correct_bias(flair, brain))
        brains.append(brain)
    met = find_midway(*scans, baseline_brain=brains[0], followup_brain=brains[1], upright=np.stack([np.eye(4)] * 2))
    points = apply_transform(brains[0].affine, np.argwhere(brains[0].data))
    ours = np.linalg.inv(met.from_followup) @ met.from_baseline
    theirs = np.linalg.inv(published[1]) @ published[0]
    assert np.linalg.norm(apply_transform(ours, points) - apply_transform(theirs, points), axis=1).max() < 1.0
    sampled = [
        resample(scan, met.grid, target_from_source=matrix).data
        for scan, matrix in zip(scans, (met.from_baseline, met.from_followup), strict=True)
    ]
    inside = resample(brains[0], met.grid, target_from_source=met.from_baseline, nearest=True).data
    assert np.corrcoef(sampled[0][inside], sampled[1][inside])[0, 1] >= 0.93
