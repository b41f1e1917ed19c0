"""How much easier painted lesions are than those of experts, where it is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from tests.benchmarks.grade import easier, joined, told


def lesions(count: int, *, harder: float, seed: int) -> np.ndarray:
    """Volumes, contrasts, and what a curve of both finds."""
    rng = np.random.default_rng(seed)
    volumes, contrasts = np.exp(rng.uniform(2, 7, count)), rng.uniform(1, 4, count)
    found = rng.random(count) < expit(np.log(volumes) + contrasts - 7 - harder)
    return np.stack([volumes, contrasts, found, contrasts > 3], axis=1)


@pytest.mark.parametrize("harder", [0.0, 1.5])
def test_the_difference_is_that_of_lesions_of_one_volume_and_contrast(harder):
    """Painted ones are as hard as the experts', or harder, whatever their own volumes and contrasts are."""
    painted = lesions(400, harder=harder, seed=0)
    # Fewer small ones than the experts have.
    painted = painted[(painted[:, 0] > 60) | (np.arange(400) % 2 == 0)]
    real = lesions(300, harder=0.0, seed=1)
    expected, observed, low, high = easier(real, painted)
    assert low <= expected - observed <= high
    assert (low < 0 < high) == (harder == 0)
    words = told([real[:, :3]], [painted], seen=False)
    assert ("harder by" in words) == (expected < observed)
    assert f"{int(real[:, 2].sum())} of 300" in words


def test_the_networks_that_left_a_patient_out_decide_together(tmp_path):
    for name in ("scp", "allnet"):
        (tmp_path / "sub-01" / name).mkdir(parents=True)
        (tmp_path / "sub-01" / name / "card.toml").touch()
    assert joined(tmp_path / "sub-01") == f"{tmp_path / 'sub-01' / 'allnet'}+{tmp_path / 'sub-01' / 'scp'}"
    assert joined(tmp_path / "sub-02") is None
