"""Distance maps and coordinate channels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from volumes import OBLIQUE, centres, poses

from msrim.image import Volume
from msrim.preprocess.coordinates import anatomical_coordinates, distance_to_boundary


@pytest.fixture
def blob() -> Volume:
    data = np.random.default_rng(1).random((17, 15, 12)) > 0.97
    return Volume(ndimage.binary_dilation(data), np.diag([0.9, 1.1, 3.0, 1.0]))


def test_distances_agree_with_scipy(blob):
    outside = ndimage.distance_transform_edt(~blob.data, sampling=(0.9, 1.1, 3.0))
    inside = ndimage.distance_transform_edt(blob.data, sampling=(0.9, 1.1, 3.0))
    np.testing.assert_allclose(distance_to_boundary(blob), outside + inside, atol=1e-4)
    assert distance_to_boundary(blob).dtype == np.float32


def test_masks_without_a_boundary_give_the_diagonal_of_the_grid():
    empty = Volume(np.zeros((3, 4, 12), bool), np.diag([1.0, 1.0, 1.0, 1.0]))
    full = empty.like(~empty.data)
    assert distance_to_boundary(empty).max() == distance_to_boundary(full).min() == 13.0


@pytest.mark.parametrize("affine", poses().values(), ids=poses().keys())
def test_channels_in_every_pose(blob, affine):
    grid = Volume(blob.data, affine)
    mni_from_world = np.diag([1.1, 0.9, 1.2, 1.0])
    mni_from_world[:3, :3] = mni_from_world[:3, :3] @ OBLIQUE
    mni_from_world[:3, 3] = 3.0, -20.0, 8.0
    brain = grid.like(ndimage.binary_dilation(blob.data, iterations=2))
    channels = anatomical_coordinates(grid, mni_from_world=mni_from_world, csf=grid, brain=brain)
    mni = centres(grid.shape, affine) @ mni_from_world[:3, :3].T + mni_from_world[:3, 3]
    np.testing.assert_allclose(np.moveaxis(channels[:3], 0, -1), mni / 100, atol=1e-5)
    np.testing.assert_allclose(channels[3], np.linalg.norm(mni, axis=-1) / 100, atol=1e-5)
    scaling = np.cbrt(1.1 * 0.9 * 1.2)
    np.testing.assert_allclose(channels[4] * 25, scaling * distance_to_boundary(grid), rtol=1e-6)
    np.testing.assert_allclose(channels[5] * 25, scaling * distance_to_boundary(brain), rtol=1e-6)
    assert channels.shape == (6, 17, 15, 12)
    assert channels.dtype == np.float32


def test_a_small_brain_has_the_coordinates_of_a_large_one(blob):
    large, small = (Volume(blob.data, np.diag([size, size, size, 1.0])) for size in (1.0, 0.8))
    of_large, of_small = (
        anatomical_coordinates(grid, mni_from_world=np.diag([scale, scale, scale, 1.0]), csf=grid, brain=grid)
        for grid, scale in ((large, 1.0), (small, 1.25))
    )
    np.testing.assert_allclose(of_small, of_large, atol=1e-5)


def test_masks_on_another_grid_are_refused(blob):
    elsewhere = Volume(blob.data, np.eye(4))
    with pytest.raises(ValueError, match="grid"):
        anatomical_coordinates(blob, mni_from_world=np.eye(4), csf=elsewhere, brain=blob)
