"""Lesions told apart: by hand and against MONAI."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_panoptic_quality
from scipy import ndimage

from msrim.evaluation.instances import panoptic_quality
from msrim.image import Volume


def volume(labels) -> Volume:
    return Volume(np.asarray(labels, dtype=np.int32), np.eye(4))


def test_a_case_done_by_hand():
    truth = volume([[[5, 5, 5, 5, 0, 2, 2, 2, 2, 0, 9, 0]]])
    found = volume([[[1, 1, 1, 0, 0, 3, 3, 4, 4, 0, 0, 8]]])
    # 5 and 1 share 3 of 4; half of 2 is not more than half of it; 9 is missed; 3, 4 and 8 are false.
    assert panoptic_quality(truth, found) == {
        "pq": 0.75 * 2 / 7,
        "sq": 0.75,
        "rq": 2 / 7,
        "matched_lesions": 1,
        "truth_lesions": 3,
        "prediction_lesions": 4,
        "count_error": 1,
    }


def test_against_monai():
    rng = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, 30, 32, 28)), (0, 2, 2, 2))
    truth, _ = ndimage.label(noise[0] > 0.03)
    found, _ = ndimage.label(noise[0] + 0.35 * noise[1] > 0.03)
    mine = panoptic_quality(volume(truth), volume(found))
    assert 3 < mine["matched_lesions"] < min(mine["truth_lesions"], mine["prediction_lesions"])
    for name in ("pq", "sq", "rq"):
        # MONAI adds 1e-6 below the line.
        reference = compute_panoptic_quality(torch.from_numpy(found), torch.from_numpy(truth), metric_name=name)
        assert mine[name] == pytest.approx(float(reference), abs=1e-5)


@pytest.mark.parametrize(
    "truth, found, pq, sq, rq, error",
    [([0, 0], [0, 0], 1, 1, 1, 0), ([1, 0], [0, 0], 0, None, 0, -1), ([0, 0], [0, 4], 0, None, 0, 1)],
)
def test_empty_maps(truth, found, pq, sq, rq, error):
    result = panoptic_quality(volume([[truth]]), volume([[found]]))
    assert (result["pq"], result["sq"], result["rq"], result["count_error"]) == (pq, sq, rq, error)


def test_grids_must_match():
    with pytest.raises(ValueError, match="different grids"):
        panoptic_quality(volume([[[1, 0]]]), volume([[[1, 0, 0]]]))
