"""Curves over thresholds: against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.metrics import precision_recall_curve as sklearn_curve

from msrim.evaluation.curves import lesion_roc_curve, precision_recall_curve
from msrim.evaluation.metrics import segmentation_metrics
from msrim.image import Volume


def scan(seed: int) -> tuple[Volume, Volume]:
    rng = np.random.default_rng(seed)
    truth = rng.random((8, 9, 10)) < 0.1
    probability = np.clip(0.35 * truth + rng.normal(0.3, 0.2, truth.shape), 0, 1).round(3)
    return Volume(truth, np.eye(4)), Volume(probability.astype(np.float32), np.eye(4))


def test_precision_and_recall_against_scikit_learn():
    scans = [scan(1), scan(2)]
    curve = precision_recall_curve(scans)
    truth = np.concatenate([truth.data.ravel() for truth, _ in scans])
    probability = np.concatenate([probability.data.ravel() for _, probability in scans])
    assert curve.area == pytest.approx(average_precision_score(truth, probability), abs=1e-9)
    precision, recall, thresholds = sklearn_curve(truth, probability)
    for at in (100, 400, 600):
        mine = np.flatnonzero(np.isclose(curve.thresholds, thresholds[at], rtol=0, atol=1e-6))
        assert (curve.x[mine], curve.y[mine]) == (pytest.approx([recall[at]]), pytest.approx([precision[at]]))


def test_curves_without_truth_are_undefined():
    empty = Volume(np.zeros((3, 3, 3), bool), np.eye(4))
    scans = [(empty, empty.like(np.full((3, 3, 3), 0.4, np.float32)))]
    assert precision_recall_curve(scans) is None
    assert lesion_roc_curve(scans) is None


def line(truth: str, probability: list[float]) -> tuple[Volume, Volume]:
    mask = np.array([[[letter == "x" for letter in truth]]])
    return Volume(mask, np.eye(4)), Volume(np.array([[probability]], dtype=np.float32), np.eye(4))


def test_lesion_roc_by_hand():
    truth, probability = line("x.x.....x", [0.96, 0, 0.62, 0, 0.72, 0, 0.42, 0, 0.12])
    curve = lesion_roc_curve([(truth, probability)])
    assert curve.thresholds[0] == 0.95 and curve.thresholds[-1] == 0.05
    at = {threshold: (x, y) for x, y, threshold in zip(curve.x, curve.y, curve.thresholds, strict=True)}
    assert at[0.95] == (0, 1 / 3)
    assert at[0.7] == (1 / 2, 1 / 3)
    assert at[0.6] == (1 / 3, 2 / 3)
    assert at[0.4] == (2 / 4, 2 / 3)
    assert at[0.1] == (2 / 5, 1)
    # 1/3 until the LFPR has been at 1/2, where LTPR gets to 1.
    assert curve.area == pytest.approx(1 / 3 * 1 / 2 + 1 / 2)


def test_one_blob_over_everything_has_no_area():
    """At 0.05 all is one lesion, which touches the true one: none is false, and yet nothing was told apart."""
    curve = lesion_roc_curve([line("......x", [0.9, 0, 0.8, 0, 0.7, 0, 0.1])])
    merged = lesion_roc_curve([line("......x", [0.9, 0.06, 0.8, 0.06, 0.7, 0.06, 0.1])])
    assert (merged.x[-1], merged.y[-1]) == (0, 1)
    assert merged.area == curve.area == 0


def test_lesion_roc_holds_the_metrics_of_one_scan():
    truth, probability = scan(5)
    curve = lesion_roc_curve([(truth, probability)], min_volume_mm3=2)
    for at in (3, 9, 15):
        found = truth.like(probability.data >= curve.thresholds[at])
        one = segmentation_metrics(truth, found, min_volume_mm3=2)
        assert (curve.x[at], curve.y[at]) == (pytest.approx(one["lfpr"]), pytest.approx(one["ltpr"]))


def test_counts_are_summed_over_scans():
    """Two lesions found of three: 2/3, not the mean of 1/1 and 1/2."""
    curve = lesion_roc_curve([line("x..", [0.9, 0, 0]), line("x.x", [0.9, 0, 0])])
    assert curve.y[-1] == pytest.approx(2 / 3)
