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
    return scattered(sheet, VOLUMES_MM3, seed=3)


def scattered(allowed: Volume, volumes: list[float], *, seed: int) -> Volume:
    def evenly(volume_mm3: float) -> np.ndarray:
        return np.ones(allowed.shape)

    return scatter_lesions(allowed, volumes, density=evenly, gap_mm=GAP_MM, rng=np.random.default_rng(seed))


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
    again, other = (scattered(sheet, VOLUMES_MM3, seed=seed) for seed in (3, 4))
    assert (again.data == lesions.data).all() and (other.data != lesions.data).any()


def test_what_finds_no_room_is_left_out():
    small = np.zeros((20, 20, 20), bool)
    small[8:12, 8:12, 8:12] = True
    found = scattered(Volume(small, np.eye(4)), [500.0, 10.0], seed=0)
    assert np.unique(found.data).tolist() == [0, 2]


def test_they_lie_where_the_density_says():
    """Three times as many on one side as on the other, large ones on one side alone."""
    everywhere = Volume(np.ones((120, 60, 60), bool), np.eye(4))

    def density(volume_mm3: float) -> np.ndarray:
        chances = np.full(everywhere.shape, 0.0 if volume_mm3 > 100 else 1.0)
        chances[:60] = 3
        return chances

    found = scatter_lesions(
        everywhere, [30.0] * 120 + [500.0] * 4, density=density, gap_mm=0, rng=np.random.default_rng(0)
    )
    middles = np.array(ndimage.center_of_mass(found.data > 0, found.data, range(1, 125)))[:, 0]
    # 90 are expected, with a deviation of 5.
    assert 78 <= np.sum(middles[:120] < 60) <= 102
    assert (middles[120:] < 66).all()
