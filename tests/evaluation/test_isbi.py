"""The challenge's score gives the papers' tables."""

import numpy as np
import pytest

from msrim.evaluation.isbi import challenge_score, isbi_score, volume_correlation


@pytest.mark.parametrize(
    "score, dice, ppv, lfpr, ltpr, correlation",
    [  # ALL-Net, Tables 3 and 4
        (0.842, 0.755, 0.781, 0.301, 0.917, 0.983),
        (0.705, 0.558, 0.661, 0.527, 0.866, 0.872),
        (0.795, 0.727, 0.736, 0.465, 0.937, 0.977),
        (0.804, 0.723, 0.752, 0.432, 0.926, 0.984),
        (0.806, 0.697, 0.696, 0.248, 0.813, 0.963),
        (0.819, 0.750, 0.749, 0.384, 0.928, 0.984),
        (0.839, 0.734, 0.821, 0.271, 0.870, 0.980),
    ],
)
def test_score_without_inter_rater_term(score, dice, ppv, lfpr, ltpr, correlation):
    found = isbi_score(dice=dice, ppv=ppv, lfpr=lfpr, ltpr=ltpr, volume_correlation=correlation)
    assert found == pytest.approx(score, abs=0.0016)


@pytest.mark.parametrize(
    "score, dice, ppv, lfpr, ltpr, correlation",
    [  # ALL-Net, Table 2
        (93.32, 0.639, 0.914, 0.122, 0.533, 0.860),
        (93.11, 0.641, 0.902, 0.155, 0.540, 0.867),
        (92.87, 0.679, 0.847, 0.159, 0.523, 0.865),
        (92.73, 0.643, 0.887, 0.132, 0.480, 0.854),
        (92.55, 0.661, 0.838, 0.151, 0.491, 0.854),
        (92.48, 0.584, 0.921, 0.087, 0.414, 0.858),
        (92.12, 0.611, 0.899, 0.139, 0.410, 0.867),
        (92.07, 0.629, 0.845, 0.201, 0.487, 0.862),
        (91.33, 0.630, 0.787, 0.153, 0.367, 0.866),
        (90.07, 0.627, 0.789, 0.498, 0.568, 0.822),
        (86.92, 0.501, 0.549, 0.577, 0.429, 0.791),
    ],
)
def test_score_with_inter_rater_term(score, dice, ppv, lfpr, ltpr, correlation):
    found = challenge_score(dice=dice, ppv=ppv, lfpr=lfpr, ltpr=ltpr, volume_correlation=correlation)
    assert found == pytest.approx(score, abs=0.01)


def test_a_perfect_method_scores_100_and_a_rater_90():
    perfect = {"dice": 1, "ppv": 1, "lfpr": 0, "ltpr": 1, "volume_correlation": 1}
    assert isbi_score(**perfect) == 1
    assert challenge_score(**perfect) == 100
    rater = {"dice": 0.7, "ppv": 0.7, "lfpr": 0.3, "ltpr": 0.7, "volume_correlation": 0.7}
    assert challenge_score(**rater, rater_disagreement=0.3 * 7 / 8) == pytest.approx(90)


def test_volume_correlation():
    rng = np.random.default_rng(0)
    truth, found = rng.normal(size=(2, 30))
    deviations = (truth - truth.mean()) @ (found - found.mean()) / 30
    assert volume_correlation(truth, found) == pytest.approx(deviations / truth.std() / found.std())
    assert volume_correlation([1.0], [2.0]) is None
    assert volume_correlation([1.0, 1.0], [2.0, 3.0]) is None
