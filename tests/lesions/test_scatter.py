"""Lesions of given volumes in a crooked sheet of white matter."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest
from scipy import ndimage

from msrim.image import Volume
from msrim.lesions.scatter import scatter_lesions

VOLUMES_MM3 = [10.0, 10.0, 60.0, 200.0, 1000.0]
GAP_MM = 4.0


@pytest.fixture(scope="module")
def sheet() -> Volume:
    x, y, _ = np.indices((60, 50, 40))
    return Volume(abs(x - 30 - 8 * np.sin(y / 8)) < 9, np.diag([0.9, 0.9, 1.2, 1.0]))


@pytest.fixture(scope="module")
def lesions(sheet) -> Volume:
    return scatter_lesions(sheet, VOLUMES_MM3, gap_mm=GAP_MM, rng=np.random.default_rng(3))


def test_each_has_its_volume_in_one_piece_inside_the_mask(sheet, lesions):
    for number, volume in enumerate(VOLUMES_MM3, start=1):
        mask = lesions.data == number
        assert np.count_nonzero(mask) == round(volume / sheet.voxel_volume_mm3)
        assert cc3d.connected_components(mask, connectivity=26).max() == 1
        assert sheet.data[mask].all()


def test_they_keep_their_distance(sheet, lesions):
    for number in range(1, len(VOLUMES_MM3) + 1):
        distance = ndimage.distance_transform_edt(lesions.data != number, sampling=sheet.spacing)
        assert distance[(lesions.data > 0) & (lesions.data != number)].min() > GAP_MM


def test_the_same_seed_draws_the_same(sheet, lesions):
    again = scatter_lesions(sheet, VOLUMES_MM3, gap_mm=GAP_MM, rng=np.random.default_rng(3))
    other = scatter_lesions(sheet, VOLUMES_MM3, gap_mm=GAP_MM, rng=np.random.default_rng(4))
    assert (again.data == lesions.data).all() and (other.data != lesions.data).any()


def test_what_finds_no_room_is_left_out():
    small = np.zeros((20, 20, 20), bool)
    small[8:12, 8:12, 8:12] = True
    found = scatter_lesions(Volume(small, np.eye(4)), [500.0, 10.0], gap_mm=GAP_MM, rng=np.random.default_rng(0))
    assert np.unique(found.data).tolist() == [0, 2]
