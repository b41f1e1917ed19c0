"""Thresholds and people of tests/benchmarks/cross_validation.py."""

from __future__ import annotations

from tests.benchmarks.cross_validation import means_of, nested


def row(fold: int, person: str, threshold: float | None, dice: float) -> dict:
    figures = {"l_f1": 0.0, "ltpr": None, "lfpr": 0.0, "truth_volume_mm3": 1.0, "prediction_volume_mm3": 1.0}
    return {"fold": fold, "person": person, "threshold": threshold, "dice": dice, **figures}


def test_a_fold_has_the_threshold_that_is_best_on_the_others():
    """Fold 0 alone would take 0.9, the two others 0.5; the cards' own threshold is no candidate."""
    dice = {0: {None: 1.0, 0.5: 0.1, 0.9: 0.9}, 1: {None: 1.0, 0.5: 0.6, 0.9: 0.5}, 2: {None: 1.0, 0.5: 0.6, 0.9: 0.5}}
    rows = [row(fold, f"p{fold}", threshold, value) for fold, own in dice.items() for threshold, value in own.items()]
    assert {found["fold"]: found["threshold"] for found in nested(rows)} == {0: 0.5, 1: 0.9, 2: 0.9}


def test_two_names_of_one_person_count_once():
    rows = [row(0, "a", None, 0.2), row(0, "a", None, 0.4), row(1, "b", None, 0.5)]
    assert [(mean["person"], round(mean["dice"], 6)) for mean in means_of(rows)] == [("a", 0.3), ("b", 0.5)]


def test_a_person_with_two_names_does_not_sway_the_choice_twice():
    """Person a at two scans prefers 0.9 by little; b and c together prefer 0.5 by more than one vote of a."""
    rows = [row(1, "a", 0.5, 0.5), row(1, "a", 0.5, 0.5), row(1, "a", 0.9, 0.7), row(1, "a", 0.9, 0.7)]
    rows += [row(2, "b", 0.5, 0.8), row(2, "b", 0.9, 0.5), row(0, "c", 0.5, 0.0), row(0, "c", 0.9, 0.0)]
    assert {found["threshold"] for found in nested(rows) if found["fold"] == 0} == {0.5}
