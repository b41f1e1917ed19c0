"""Intensity normalisation."""

from __future__ import annotations

import numpy as np

from msrim.image import Volume
from msrim.preprocess.normalise import normalise_intensity

RANDOM = np.random.default_rng(0)
IMAGE = Volume(RANDOM.normal(500, 40, (20, 20, 20)).astype(np.float32), np.eye(4))
BRAIN = IMAGE.like(np.indices(IMAGE.shape)[0] < 10)


def test_a_normal_distribution_comes_out_with_mean_zero_and_deviation_one():
    data = normalise_intensity(IMAGE, BRAIN, tissue=BRAIN).data
    assert abs(data[:10].mean()) < 0.05
    assert abs(data[:10].std() - 1) < 0.05
    assert not data[10:].any()
    assert data.dtype == np.float32


def test_brightness_scale_and_an_extreme_voxel_do_not_matter():
    before = normalise_intensity(IMAGE, BRAIN, tissue=BRAIN).data
    scanned = IMAGE.data * 7 + 11
    scanned[0, 0, 0] = 1e6
    after = normalise_intensity(IMAGE.like(scanned), BRAIN, tissue=BRAIN).data
    assert np.abs(after - before)[1:].max() < 0.01
    assert after[0, 0, 0] > 1000  # not clipped


def test_bright_lesions_and_dark_csf_hardly_change_what_healthy_tissue_gets():
    """A twentieth of the tissue bright as lesions, and a fifth of the brain dark as CSF."""
    scanned = IMAGE.data.copy()
    scanned[8:10] = 50
    scanned[0, :10] += 160
    tissue = IMAGE.like(np.indices(IMAGE.shape)[0] < 8)
    plain = normalise_intensity(IMAGE, BRAIN, tissue=tissue).data[1:8]
    seen = normalise_intensity(IMAGE.like(scanned), BRAIN, tissue=tissue).data[1:8]
    assert np.abs(seen - plain).max() < 0.35
    z_scored = (scanned[:10] - scanned[:10].mean()) / scanned[:10].std()
    assert np.abs(z_scored[1:8] - plain).max() > 2


def test_a_brain_without_tissue_is_measured_whole():
    nowhere = BRAIN.like(np.zeros(BRAIN.shape, bool))
    whole = normalise_intensity(IMAGE, BRAIN, tissue=BRAIN).data
    assert np.array_equal(normalise_intensity(IMAGE, BRAIN, tissue=nowhere).data, whole)


def test_a_constant_or_empty_brain_gives_zeros():
    nowhere = BRAIN.like(np.zeros(BRAIN.shape, bool))
    flat = IMAGE.like(np.ones(IMAGE.shape))
    assert not normalise_intensity(flat, BRAIN, tissue=BRAIN).data.any()
    assert not normalise_intensity(IMAGE, nowhere, tissue=nowhere).data.any()
