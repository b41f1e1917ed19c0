"""Intensity normalisation."""

from __future__ import annotations

import numpy as np

from msrim.image import Volume
from msrim.preprocess.normalise import normalise_intensity

RANDOM = np.random.default_rng(0)
IMAGE = Volume(RANDOM.normal(500, 40, (20, 20, 20)).astype(np.float32), np.eye(4))
BRAIN = IMAGE.like(np.indices(IMAGE.shape)[0] < 10)


def test_the_brain_has_zero_mean_and_the_rest_is_zero():
    data = normalise_intensity(IMAGE, BRAIN).data
    assert abs(data[:10].mean()) < 0.02
    # Winsorising a normal distribution at 1 and 99 % takes 3 % off its deviation.
    assert 1.0 < data[:10].std() < 1.06
    assert not data[10:].any()
    assert data.dtype == np.float32


def test_brightness_scale_and_an_extreme_voxel_do_not_matter():
    before = normalise_intensity(IMAGE, BRAIN).data
    scanned = IMAGE.data * 7 + 11
    scanned[0, 0, 0] = 1e6
    after = normalise_intensity(IMAGE.like(scanned), BRAIN).data
    assert np.abs(after - before)[1:].max() < 0.01
    assert after[0, 0, 0] > 1000  # not clipped


def test_a_constant_or_empty_brain_gives_zeros():
    flat = IMAGE.like(np.ones(IMAGE.shape))
    assert not normalise_intensity(flat, BRAIN).data.any()
    assert not normalise_intensity(IMAGE, BRAIN.like(np.zeros(IMAGE.shape, bool))).data.any()
