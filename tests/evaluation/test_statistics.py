"""Intervals of a mean over patients."""

import numpy as np
import pytest

from msrim.evaluation.statistics import bootstrap_interval


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
