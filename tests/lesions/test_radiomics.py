"""The 527 features: which, in which order, of what, and never computed twice."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.image import Volume
from msrim.lesions import radiomics
from msrim.lesions.radiomics import FEATURES, FIRST_ORDER_COLUMNS, lesion_features

pytest.importorskip("radiomics")


@pytest.fixture(scope="module")
def images() -> tuple[Volume, Volume]:
    rng = np.random.default_rng(0)
    qsm = Volume(rng.normal(0, 0.03, (40, 40, 16)).astype(np.float32), np.diag([0.75, 0.75, 3.0, 1.0]))
    lesions = np.zeros(qsm.shape, np.int32)
    lesions[10:16, 10:17, 5:8] = 1
    lesions[25:29, 25:30, 9:11] = 3
    lesions[35, 35, 12] = 7
    return qsm, qsm.like(lesions)


@pytest.fixture(scope="module")
def features(images) -> np.ndarray:
    return lesion_features(*images, workers=1)


def of(features: np.ndarray, row: int, name: str) -> float:
    return features[row, FEATURES.index(name)]


def test_there_are_exactly_527_in_a_fixed_order():
    assert len(FEATURES) == len(set(FEATURES)) == 14 + 9 * (18 + 23 + 16) == 527
    assert FEATURES[0] == "original_shape_Elongation"
    assert FEATURES[14] == "original_firstorder_10Percentile"
    assert FEATURES[526] == "wavelet-HHH_glrlm_ShortRunLowGrayLevelEmphasis"
    assert len(FIRST_ORDER_COLUMNS) == 18 and FIRST_ORDER_COLUMNS[0] == 14
    assert not any("SumAverage" in name for name in FEATURES)


def test_features_are_those_of_the_lesions_values_in_ppb(images, features):
    qsm, lesions = images
    assert features.shape == (3, 527)
    for row, number in ((0, 1), (1, 3)):
        values = 1000 * qsm.data[lesions.data == number].astype(float)
        assert of(features, row, "original_firstorder_Mean") == pytest.approx(values.mean(), rel=1e-5)
        assert of(features, row, "original_firstorder_Variance") == pytest.approx(values.var(), rel=1e-5)
        assert of(features, row, "original_firstorder_Maximum") == pytest.approx(values.max(), rel=1e-5)
        assert of(features, row, "original_shape_VoxelVolume") == pytest.approx(values.size * 0.75 * 0.75 * 3)
    assert np.isfinite(features[:2]).all()


def test_a_lesion_of_one_voxel_has_none(features):
    assert np.isnan(features[2]).all()


def test_place_in_the_image_does_not_matter(images, features):
    qsm, lesions = images
    shifted = Volume(np.roll(qsm.data, (3, 2, 0), axis=(0, 1, 2)), qsm.affine)
    moved = shifted.like(np.roll(np.where(lesions.data == 1, 1, 0), (3, 2, 0), axis=(0, 1, 2)))
    assert lesion_features(shifted, moved, workers=1)[0] == pytest.approx(features[0], rel=1e-6, nan_ok=True)


def test_kept_results_are_not_computed_again(images, features, tmp_path):
    lesion_features(*images, workers=1, cache=tmp_path)
    [kept] = tmp_path.glob("*.npy")
    assert np.array_equal(np.load(kept), features, equal_nan=True)
    np.save(kept, features + 1)
    assert np.array_equal(lesion_features(*images, workers=1, cache=tmp_path), features + 1, equal_nan=True)
    changed = images[0].like(images[0].data + np.float32(0.001))
    lesion_features(changed, images[1], workers=1, cache=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_several_processes_give_the_same(images, features, monkeypatch):
    monkeypatch.setattr(radiomics, "LESIONS_WORTH_A_PROCESS", 1)
    told = []
    found = lesion_features(*images, workers=2, report=lambda done, total: told.append((done, total)))
    assert np.array_equal(found, features, equal_nan=True)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_no_lesion_gives_no_row(images):
    qsm, lesions = images
    assert lesion_features(qsm, lesions.like(0 * lesions.data)).shape == (0, 527)


def test_first_order_features_alone_are_the_same_and_the_others_unknown(images, features):
    found = lesion_features(*images, workers=1, first_order=True)
    assert np.allclose(found[:2, FIRST_ORDER_COLUMNS], features[:2, FIRST_ORDER_COLUMNS])
    assert np.isnan(np.delete(found, FIRST_ORDER_COLUMNS, axis=1)).all()
