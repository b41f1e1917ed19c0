"""The papers' measures on cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.evaluation.rims import (
    best_f1_threshold,
    bootstrap_intervals,
    count_agreement,
    curve_areas,
    decide,
    decision_measures,
    majority,
    rim_metrics,
    sensitive_threshold,
    stratified_folds,
)

TRUTH = np.array([1, 0, 1, 0]) > 0
SCORES = np.array([0.9, 0.8, 0.7, 0.1])


def test_areas_of_a_curve_of_steps():
    """ROC: half of the rims before the first error, all after it. PR: precision 1 up to recall 1/2, then 2/3."""
    areas = curve_areas(TRUTH, SCORES)
    assert areas == {"roc_auc": 0.75, "proc_auc": 0.5, "pr_auc": pytest.approx((1 + 2 / 3) / 2)}


def test_partial_area_is_scaled_to_one():
    """Of 100 rim- lesions 5 score above every rim+: no rim up to 5 % false positives, all from there on."""
    truth = np.repeat([False, True, False], [5, 20, 95])
    scores = np.linspace(1, 0, 120)
    assert curve_areas(truth, scores)["proc_auc"] == pytest.approx(0.5, abs=0.005)


def test_curves_are_averaged_over_folds_not_pooled():
    """Each fold is perfect by itself, on scales of its own; pooled they would not be."""
    truth = np.array([1, 0, 1, 0]) > 0
    scores = np.array([0.9, 0.8, 0.2, 0.1])
    assert curve_areas(truth, scores, folds=np.array([0, 0, 1, 1]))["roc_auc"] == 1.0
    assert curve_areas(truth, scores)["roc_auc"] == 0.75
    # A fold without a rim has no curve.
    assert curve_areas(truth, scores, folds=np.array([0, 0, 1, 2]))["roc_auc"] == 1.0


def test_no_rim_no_area():
    assert curve_areas(np.zeros(3, bool), np.array([0.1, 0.2, 0.3])) == {
        "roc_auc": None, "proc_auc": None, "pr_auc": None,
    }  # fmt: skip


def test_thresholds():
    assert best_f1_threshold(TRUTH, SCORES) == 0.7
    # Sensitivities are 1/2 and 1; the largest below 0.95 is 1/2, first reached at 0.9 and kept down to 0.8.
    assert sensitive_threshold(TRUTH, SCORES) == 0.8
    assert decide(TRUTH, SCORES, folds=np.array([0, 0, 1, 1])).tolist() == [True, False, True, False]


def test_decision_measures_by_hand():
    found = decision_measures(np.array([1, 1, 1, 0, 0, 0, 0, 0]) > 0, np.array([1, 1, 0, 1, 0, 0, 0, 0]) > 0)
    assert (found["tp"], found["fp"], found["fn"], found["tn"]) == (2, 1, 1, 4)
    assert found["sensitivity"] == found["ppv"] == found["f1"] == pytest.approx(2 / 3)
    assert found["specificity"] == 0.8 and found["accuracy"] == 0.75
    nothing = decision_measures(np.array([0, 0]) > 0, np.array([0, 0]) > 0)
    assert (nothing["specificity"], nothing["sensitivity"], nothing["f1"]) == (1.0, None, None)


def test_majority_of_three_and_a_tie_of_two():
    votes = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0]]) > 0
    assert majority(votes).tolist() == [True, True, False]
    assert majority(votes[:2]).tolist() == [True, False, False]


def test_count_agreement_has_fishers_interval():
    truth = np.array([0, 0, 1, 2, 3, 5, 8, 0, 1, 2])
    found = np.array([0, 1, 1, 2, 2, 6, 7, 0, 0, 3])
    agreement = count_agreement(truth, found)
    r = np.corrcoef(truth, found)[0, 1]
    spread = 1.959964 / np.sqrt(len(truth) - 3)
    assert agreement["r"] == pytest.approx(r)
    assert agreement["r_low"] == pytest.approx(np.tanh(np.arctanh(r) - spread), abs=1e-6)
    assert agreement["r_high"] == pytest.approx(np.tanh(np.arctanh(r) + spread), abs=1e-6)
    assert agreement["mse"] == 0.6
    assert count_agreement(np.zeros(4, int), np.zeros(4, int))["r"] is None


def test_folds_share_the_subjects_with_many_rims():
    rims = np.repeat([0, 2, 5, 9], [50, 20, 10, 5])
    folds = stratified_folds(rims, seed=3)
    for stratum, count in ((0, 10), (2, 4), (5, 2), (9, 1)):
        assert np.bincount(folds[rims == stratum], minlength=5).tolist() == [count] * 5


def test_counts_are_of_subjects():
    subjects = np.array([7, 7, 3, 3])
    figures = rim_metrics(TRUTH, SCORES, subjects=subjects, rim=np.array([1, 1, 1, 0]) > 0)
    assert figures["n"] == {"subjects": 2, "lesions": 4, "rim": 2}
    # Subject 3 has one rim and one found; subject 7 has one and two found.
    assert figures["counts"]["mse"] == 0.5


def test_bootstrap_of_a_perfect_method_has_no_width_and_that_of_another_does():
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.2
    subjects = np.repeat(np.arange(30), 10)
    perfect = bootstrap_intervals(truth, truth.astype(float), subjects=subjects, resamples=50)
    assert perfect["pr_auc"] == (1.0, 1.0) and perfect["f1"] == (1.0, 1.0)
    noisy = bootstrap_intervals(truth, truth + rng.normal(0, 0.8, 300), subjects=subjects, resamples=50)
    low, high = noisy["pr_auc"]
    assert 0.2 < low < high < 1
