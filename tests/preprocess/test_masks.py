"""Cleaning of masks."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from msrim.image import Volume
from msrim.preprocess.masks import clean_mask, hysteresis, remove_superficial

AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])


@pytest.fixture
def blocks() -> np.ndarray:
    data = np.zeros((40, 40, 20), bool)
    data[5:25, 5:25, 5:15] = True
    return data


def test_specks_bridges_and_holes_go(blocks):
    dirty = blocks.copy()
    dirty[25:35, 15, 10] = True
    dirty[35:38, 2, 2] = True
    dirty[12:16, 12:16, 9:11] = False
    cleaned = clean_mask(Volume(dirty, AFFINE), opening_mm=3, closing_mm=3).data
    # A ball leaves faces in place and rounds the edges; of the bridge its root stays, where it leans on the block.
    assert not cleaned[26:].any()
    assert cleaned[12:16, 12:16, 9:11].all()
    assert cleaned[6:24, 6:24, 6:14].all()
    assert (cleaned & ~blocks).sum() <= 1


def test_the_radius_is_in_millimetres_along_every_axis(blocks):
    data = np.zeros_like(blocks)
    data[5:25, 5:25, 5:7] = True  # 6 mm thick
    assert clean_mask(Volume(data, AFFINE), opening_mm=2.5, closing_mm=2.5).data.any()
    assert not clean_mask(Volume(data, AFFINE), opening_mm=3.5, closing_mm=3.5).data.any()


def test_gaps_close(blocks):
    blocks[14, :, :] = False
    assert clean_mask(Volume(blocks, AFFINE), opening_mm=2, closing_mm=2).data[14, 10:20, 8:12].all()


def test_only_the_largest_is_kept_on_demand(blocks):
    blocks[30:36, 30:36, 5:15] = True
    mask = Volume(blocks, AFFINE)
    assert clean_mask(mask, opening_mm=1, closing_mm=1).data[32, 32, 10]
    assert not clean_mask(mask, opening_mm=1, closing_mm=1, largest_only=True).data[32, 32, 10]
    assert clean_mask(mask, opening_mm=1, closing_mm=1, largest_only=True).data[15, 15, 10]


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks_stay(value):
    mask = Volume(np.full((8, 8, 8), value), np.eye(4))
    np.testing.assert_array_equal(clean_mask(mask, opening_mm=2, closing_mm=2, largest_only=True).data, mask.data)


def test_a_brain_cut_by_the_field_of_view_keeps_its_cut_face():
    mask = Volume(np.zeros((20, 20, 20), bool), np.eye(4))
    mask.data[4:16, 4:16, :] = True
    np.testing.assert_array_equal(clean_mask(mask, opening_mm=1, closing_mm=1).data[5:15, 5:15, 19], True)


def test_what_keeps_to_the_surface_goes_and_what_reaches_deeper_stays_whole():
    """Slices of 3 mm: three of them are 9 mm thick, as many voxels within the plane only 3 mm."""
    brain = Volume(np.zeros((40, 40, 20), bool), AFFINE)
    brain.data[5:35, 5:35, 3:17] = True
    probability = brain.like(np.zeros(brain.shape, np.float32))
    vessel, lesion, slices = np.s_[15:20, 5:8, 10], np.s_[15:20, 28:35, 10], np.s_[20, 20, 3:6]
    for place in (vessel, lesion, slices):
        probability.data[place] = 0.9
    kept = remove_superficial(probability, brain, deeper_than_mm=5.5).data
    assert not kept[vessel].any()
    assert (kept[lesion] == np.float32(0.9)).all()
    assert (kept[slices] == np.float32(0.9)).all()


def test_no_threshold_is_needed_to_tell_what_is_faint():
    """At any threshold the same as dropping the components without a voxel of five times its odds."""
    rng = np.random.default_rng(4)
    noise = Volume(expit(3 * gaussian_filter(rng.normal(size=(40, 41, 42)), 1.5) / 0.1).astype(np.float32), np.eye(4))
    kept = hysteresis(noise, core_odds=5).data
    for threshold in (0.7, 0.9, 0.97):
        core = 5 * threshold / (1 - threshold + 5 * threshold)
        found = cc3d.connected_components(noise.data >= threshold, connectivity=26)
        expected = np.isin(found, np.setdiff1d(found[noise.data >= core], 0))
        assert 0 < expected.sum() < np.count_nonzero(found)
        np.testing.assert_array_equal(kept >= threshold, expected)


def test_no_threshold_is_needed_to_tell_the_surface():
    """At any threshold the same as dropping the components that have no deep voxel."""
    brain = Volume(np.zeros((40, 40, 20), bool), AFFINE)
    brain.data[5:35, 5:35, 3:17] = True
    # 7 voxels of 1 mm, or 3 slices of 3 mm, to the nearest centre outside.
    deep = np.zeros(brain.shape, bool)
    deep[11:29, 11:29, 5:15] = True
    noise = gaussian_filter(np.random.default_rng(5).random(brain.shape), 1.5).astype(np.float32) * brain.data
    kept = remove_superficial(brain.like(noise), brain, deeper_than_mm=6.0).data
    for threshold in np.quantile(noise[brain.data], (0.85, 0.9, 0.97)):
        found = cc3d.connected_components(noise >= threshold, connectivity=26)
        expected = np.isin(found, np.unique(found[deep & (found > 0)]))
        assert 0 < expected.sum() < 0.9 * (found > 0).sum()
        np.testing.assert_array_equal(kept >= threshold, expected)


def test_a_brain_that_fills_the_image_has_no_surface():
    full = Volume(np.ones((6, 6, 6), bool), np.eye(4))
    probability = full.like(np.full((6, 6, 6), 0.3, np.float32))
    np.testing.assert_array_equal(remove_superficial(probability, full, deeper_than_mm=4).data, probability.data)
