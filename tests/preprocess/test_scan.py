"""Drawings as scanners of several voxel sizes show them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from volumes import OBLIQUE

from msrim.image import Volume
from msrim.preprocess.scan import as_scanned, scanned


def ball(radius_mm: float) -> Volume:
    points = np.indices((48, 48, 48)) - 23.5
    return Volume((np.linalg.norm(points, axis=0) <= radius_mm).astype(np.float32), np.eye(4))


@pytest.mark.parametrize("thickness", [1, 3, 6])
def test_a_small_lesion_keeps_as_much_as_its_slice_averages(thickness):
    """Along the column through its middle; a slice's profile is not a perfect box."""
    drawn = ball(3.0)
    affine = np.diag([1.0, 1.0, thickness, 1.0])
    affine[2, 3] = (thickness - 1) / 2
    scan = Volume(np.zeros((48, 48, 48 // thickness), np.uint8), affine)
    seen = as_scanned(drawn, scan, scan_from_drawn=np.eye(4)).data[24, 24]
    middles = affine[2, 3] + thickness * np.arange(scan.shape[2])
    expected = drawn.data[24, 24].reshape(-1, thickness).mean(axis=1)
    np.testing.assert_allclose(np.interp(middles, np.arange(48), seen), expected, atol=0.13)


def test_nothing_is_lost_or_moved_by_a_scan_in_another_pose():
    drawn, turn = ball(8.0), np.eye(4)
    turn[:3, :3] = OBLIQUE
    turn[:3, 3] = (3, -2, 40)
    scan = Volume(np.zeros((80, 80, 30), np.uint8), turn @ np.array(
        [[1.0, 0, 0, -16], [0, 1, 0, -16], [0, 0, 3, -20], [0, 0, 0, 1]]))  # fmt: skip
    seen = as_scanned(drawn, scan, scan_from_drawn=turn).data
    assert seen.sum() == pytest.approx(drawn.data.sum(), rel=0.02)
    middle = [np.average(np.arange(48), weights=seen.sum(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    np.testing.assert_allclose(middle, 23.5, atol=0.1)


@pytest.mark.parametrize("deformed", [False, True])
def test_slices_seen_between_slices_are_not_blurred_again(deformed):
    """What a scan of thick slices shows half way between them, by a spline beside by lines."""
    tissue = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(32, 32, 120)), 2.0, mode="wrap")
    seen = ndimage.uniform_filter1d(tissue, 3, axis=2, mode="wrap").astype(np.float32)
    middles = np.diag([1.0, 1, 3, 1])
    scan, shifted = Volume(seen[..., ::3], middles), middles.copy()
    shifted[2, 3] = 1
    between = Volume(np.zeros(scan.shape, np.uint8), shifted)
    pull = (lambda points_mm: points_mm) if deformed else None
    rest = {
        cubic: (scanned(scan, between, scan_from_drawn=np.eye(4), pull=pull, cubic=cubic).data - seen[..., 1::3])
        for cubic in (False, True)
    }
    inner = np.s_[2:-2, 2:-2, 3:-3]
    assert rest[True][inner].std() < 0.5 * rest[False][inner].std()
