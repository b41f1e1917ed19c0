"""Two scanners' contrasts made one, and what changed left standing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from msrim.image import Volume
from msrim.preprocess.match import match_intensities

SHAPE = (60, 60, 60)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
DISTANCE = np.linalg.norm(np.indices(SHAPE) - 29.5, axis=0)
BRAIN = DISTANCE < 28
# Ventricle, white and grey matter, as a FLAIR shows them, with folds of CSF.
FOLDS = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 2)
TISSUE = np.select([DISTANCE < 6, FOLDS > 0.12, DISTANCE < 20], [20.0, 30.0, 90.0], 110.0)


def scan(seed: int, *, gain=1.0, power=1.0, field=0.0, lesion=0.0) -> Volume:
    rng = np.random.default_rng(seed)
    ball = np.linalg.norm(np.indices(SHAPE) - np.array([40, 30, 30])[:, None, None, None], axis=0) < 3
    image = (TISSUE + lesion * ball + rng.normal(0, 2, SHAPE)).clip(1)
    image = gain * image**power * np.exp(field * (np.indices(SHAPE)[0] - 30) / 30)
    return Volume((image * BRAIN).astype(np.float32), AFFINE)


def on(mask: np.ndarray) -> Volume:
    return Volume(mask, AFFINE)


NONE = on(np.zeros(SHAPE, bool))
BALL = np.linalg.norm(np.indices(SHAPE) - np.array([40, 30, 30])[:, None, None, None], axis=0) < 3


@pytest.mark.parametrize(
    ("other", "bound"),
    # A field multiplies, and what is taken away adds: 2.5 times the noise falls to 1.7, tissue by tissue not to 1.
    [({"gain": 40.0}, 1.1), ({"power": 1.2, "gain": 0.3}, 1.1), ({"field": 0.15}, 1.75)],
    ids=["gain", "contrast", "bias field"],
)
def test_another_scanner_looks_alike_afterwards(other, bound):
    brain = on(BRAIN)
    same = match_intensities(scan(1), scan(2), brain=brain, lesions=NONE)
    matched = match_intensities(scan(1), scan(2, **other), brain=brain, lesions=NONE)
    noise = np.std((same[1].data - same[0].data)[BRAIN])
    assert np.std((matched[1].data - matched[0].data)[BRAIN]) < bound * noise
    assert abs(np.mean((matched[1].data - matched[0].data)[BRAIN])) < noise / 4


def test_a_new_lesion_is_not_matched_away():
    brain = on(BRAIN)
    before, after = match_intensities(scan(1), scan(2, gain=3.0, lesion=40.0), brain=brain, lesions=NONE)
    tissue = np.std(((before.data + after.data) / 2)[BRAIN])
    expected = 40 / np.std(TISSUE[BRAIN])
    assert tissue == pytest.approx(1, rel=1e-3)
    assert (after.data - before.data)[BALL].mean() == pytest.approx(expected, rel=0.1)


def test_mean_and_deviation_of_the_pair():
    before, after = match_intensities(scan(1), scan(2, gain=7.0), brain=on(BRAIN), lesions=NONE)
    mean = (before.data + after.data)[BRAIN] / 2
    assert mean.mean() == pytest.approx(0, abs=1e-5) and mean.std() == pytest.approx(1, rel=1e-5)
    assert not before.data[~BRAIN].any() and not after.data[~BRAIN].any()


def test_swapped_visits_give_swapped_images_exactly():
    one, other = scan(1), scan(2, gain=5.0, power=0.9, field=0.1, lesion=30.0)
    forth = match_intensities(one, other, brain=on(BRAIN), lesions=on(BALL))
    back = match_intensities(other, one, brain=on(BRAIN), lesions=on(BALL))
    assert np.array_equal(forth[0].data, back[1].data) and np.array_equal(forth[1].data, back[0].data)
