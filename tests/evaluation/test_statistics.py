"""Intervals of a mean over patients, and tests of a difference."""

import numpy as np
import pytest
from scipy import stats

from msrim.evaluation.statistics import bootstrap_interval, bootstrap_statistic, compare_paired


def test_interval_of_many_values_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(0.6, 0.1, size=400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(values.size)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_the_seed_decides():
    values = [0.3, 0.5, 0.9, 0.4]
    assert bootstrap_interval(values, seed=1, repeats=99) == bootstrap_interval(values, seed=1, repeats=99)
    assert bootstrap_interval(values, seed=1, repeats=99) != bootstrap_interval(values, seed=2, repeats=99)


def test_undefined_values_are_left_out():
    assert bootstrap_interval([0.2, None, 0.8]) == bootstrap_interval([0.2, 0.8]) == (0.2, 0.8)


@pytest.mark.parametrize("values", [[], [0.5], [None, 0.5]])
def test_one_patient_has_no_interval(values):
    assert bootstrap_interval(values) is None


def test_paired_tests_by_their_definitions():
    rng = np.random.default_rng(4)
    first = rng.normal(0.6, 0.1, 12)
    second = first + rng.normal(0.03, 0.05, 12)
    found = compare_paired(first, second)
    d = second - first
    t = d.mean() / (d.std(ddof=1) / np.sqrt(12))
    assert found["t_p"] == pytest.approx(2 * stats.t.sf(abs(t), 11))
    assert found["d_z"] == pytest.approx(t / np.sqrt(12))
    assert found["mean_difference"] == pytest.approx(d.mean())
    # The exact null distribution: every pattern of signs is as likely as any other.
    ranks = 1 + np.argsort(np.argsort(abs(d)))
    gains = ranks[d > 0].sum()
    patterns = np.array([(number >> np.arange(12)) & 1 for number in range(2**12)]) @ np.arange(1, 13)
    p = 2 * min((patterns >= gains).mean(), (patterns <= gains).mean())
    assert found["wilcoxon_p"] == pytest.approx(p)
    assert found["rank_biserial"] == pytest.approx((gains - ranks[d < 0].sum()) / 78)


def test_methods_that_are_alike():
    assert compare_paired([0.5, 0.6], [0.5, 0.6]) == {
        "patients": 2, "mean_difference": 0, "low": 0, "high": 0,
        "t_p": 1, "d_z": 0, "wilcoxon_p": 1, "rank_biserial": 0,
    }  # fmt: skip


def test_a_pair_needs_both():
    assert compare_paired([0.5, None, 0.7, 0.2], [0.6, 0.4, None, 0.25])["patients"] == 2
    assert compare_paired([0.5, None], [0.6, 0.4]) is None


def test_interval_of_a_correlation_is_that_of_fishers_transform():
    rng = np.random.default_rng(2)
    x = rng.normal(size=200)
    pairs = list(zip(x, 0.8 * x + 0.6 * rng.normal(size=200), strict=True))
    low, high = bootstrap_statistic(pairs, lambda drawn: np.corrcoef(np.array(drawn).T)[0, 1])
    z = np.arctanh(np.corrcoef(np.array(pairs).T)[0, 1])
    expected = np.tanh([z - 1.96 / np.sqrt(197), z + 1.96 / np.sqrt(197)])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.02)
