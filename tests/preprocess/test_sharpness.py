"""Scans of one made head with unlike slices, made equally sharp before a deformation is sought."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.signal import fftconvolve

from msrim.image import Volume
from msrim.preprocess.deform import halfway_deformation, log_jacobian
from msrim.preprocess.midway import sharp_on_midway, to_midway
from msrim.preprocess.sharpness import equally_sharp, relative_blur
from tests.preprocess.test_deform import BRAIN, POINTS, SIDE, brain_change, head

SLICE_MM = 4
UPRIGHT = (np.eye(4), np.eye(4))


@pytest.fixture(scope="module")
def scans() -> tuple[Volume, Volume]:
    """The same head in voxels of 1 mm, and in slices of SLICE_MM; noise of its own in either."""
    rng = np.random.default_rng(0)
    slices = head(POINTS).reshape(SIDE, SIDE, -1, SLICE_MM).mean(axis=-1)
    affine = np.diag([1.0, 1.0, SLICE_MM, 1.0])
    affine[2, 3] = (SLICE_MM - 1) / 2
    thin, thick = (image + rng.normal(0, 0.05, image.shape) for image in (head(POINTS), slices))
    return Volume(thin.astype(np.float32), np.eye(4)), Volume(thick.astype(np.float32), affine)


def test_thick_slices_lose_no_brain(scans):
    sharp = log_jacobian(halfway_deformation([sharp_on_midway(scans, BRAIN, transforms=UPRIGHT)], brain=BRAIN))
    linear = log_jacobian(halfway_deformation([to_midway(scans, BRAIN, transforms=UPRIGHT)], brain=BRAIN))
    assert abs(brain_change(sharp)) < 0.3
    assert abs(brain_change(linear)) > 0.6


def test_what_is_left_is_no_difference(scans):
    sharp = sharp_on_midway(scans, BRAIN, transforms=UPRIGHT)
    assert np.abs(relative_blur(*sharp, brain=BRAIN)).max() < 0.1


def test_exchanged_scans_are_blurred_alike(scans):
    one, other = sharp_on_midway(scans, BRAIN, transforms=UPRIGHT)
    other_way = sharp_on_midway(scans[::-1], BRAIN, transforms=UPRIGHT)
    np.testing.assert_array_equal(one.data, other_way[1].data)
    np.testing.assert_array_equal(other.data, other_way[0].data)


def test_a_blur_oblique_to_the_grid_is_found():
    scan = ndimage.gaussian_filter(np.random.default_rng(2).normal(size=(SIDE,) * 3), 0.8).astype(np.float32)
    direction = np.array([0.8, 0.6, 0.0])
    variance = 2 * np.outer(direction, direction) + 0.3 * np.eye(3)
    offsets = np.moveaxis(np.indices((13,) * 3) - 6, 0, -1)
    kernel = np.exp(-np.einsum("...i,ij,...j", offsets, np.linalg.inv(variance), offsets) / 2)
    blunt = fftconvolve(scan, kernel / kernel.sum(), mode="same").astype(np.float32)
    one, other = equally_sharp(BRAIN.like(scan), BRAIN.like(blunt), brain=BRAIN)
    core = ndimage.binary_erosion(BRAIN.data, iterations=4)
    assert np.std((one.data - other.data)[core]) < 0.05 * np.std((scan - blunt)[core])
    np.testing.assert_allclose(relative_blur(BRAIN.like(scan), BRAIN.like(blunt), brain=BRAIN), variance, atol=0.5)


def test_noise_is_no_sharpness():
    rng = np.random.default_rng(1)
    quiet = head(POINTS)
    noisy = quiet + rng.normal(0, 0.3, quiet.shape)
    found = relative_blur(BRAIN.like(quiet), BRAIN.like(noisy), brain=BRAIN)
    assert np.abs(found).max() < 0.1
