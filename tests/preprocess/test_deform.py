"""Growth of known size, injected into a small head with lesions, and found again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import expit

from msrim.errors import BackendError
from msrim.image import Volume
from msrim.lesions.expansion import brain_volume_change
from msrim.preprocess import deform
from msrim.preprocess.deform import halfway_deformation, log_jacobian

SIDE = 48
MIDDLE = (SIDE - 1) / 2
# Centres and radii in mm, far enough apart that what one pushes away does not meet the next.
LESIONS = (((15, 16, 15), 4.0), ((33, 30, 16), 6.0), ((23, 25, 36), 5.0))
# How far beyond a lesion its surroundings give way.
PUSHED_MM, NOISE, NUDGE = 6.0, 0.15, (0.3, -0.2, 0.1)
POINTS = np.moveaxis(np.indices((SIDE,) * 3), 0, -1).astype(float)


def head(points: np.ndarray) -> np.ndarray:
    """Intensities at points: white matter with a texture, lesions, and CSF around folds."""
    rng = np.random.default_rng(3)
    image = np.zeros(points.shape[:-1])
    for _ in range(24):
        direction = rng.normal(size=3)
        phase = 2 * np.pi * points @ (direction / np.linalg.norm(direction)) / rng.uniform(7, 30)
        image += 0.1 * np.cos(phase + rng.uniform(0, 2 * np.pi))
    x, y, z = np.moveaxis(points - MIDDLE, -1, 0)
    surface = 22 + 1.5 * np.sin(6 * np.arctan2(y, x)) * np.cos(z / 5)
    image -= 2 * expit(2 * (np.linalg.norm(points - MIDDLE, axis=-1) - surface))
    for centre, radius in LESIONS:
        image += 2 * expit(2 * (radius - np.linalg.norm(points - centre, axis=-1)))
    return image


def followed(ratios: tuple[float, ...], *, seed: int) -> tuple[Volume, Volume]:
    """Two visits, between which each lesion has grown to so many times its volume."""
    source = POINTS + NUDGE
    for (centre, radius), ratio in zip(LESIONS, ratios, strict=True):
        away = POINTS + NUDGE - centre
        distance = np.linalg.norm(away, axis=-1, keepdims=True)
        grown = radius * ratio ** (1 / 3)
        inside = distance * (1 - radius / grown)
        beyond = (grown - radius) * np.clip(1 - (distance - grown) / PUSHED_MM, 0, 1) ** 2
        source -= away / np.maximum(distance, 1e-9) * np.where(distance <= grown, inside, beyond)
    rng = np.random.default_rng(seed)
    one, other = (
        (ndimage.gaussian_filter(head(points), 0.5) + rng.normal(0, NOISE, (SIDE,) * 3)).astype(np.float32)
        for points in (POINTS, source)
    )
    return Volume(one, np.eye(4)), Volume(other, np.eye(4))


BRAIN = Volume(np.linalg.norm(POINTS - MIDDLE, axis=-1) < 23, np.eye(4))


def found(pair: tuple[Volume, Volume]) -> tuple[list[float], np.ndarray]:
    """Growth of each lesion, and the log Jacobian."""
    moved = halfway_deformation([pair], brain=BRAIN)
    growth = log_jacobian(moved)
    at_baseline = POINTS - np.moveaxis(moved, 0, -1) / 2
    inside = (np.linalg.norm(at_baseline - centre, axis=-1) <= radius for centre, radius in LESIONS)
    return [float(np.exp(growth[mask].mean())) for mask in inside], growth


def brain_change(growth: np.ndarray) -> float:
    """Change of the brain's volume in percent, as the pipeline measures it."""
    share = BRAIN.like(BRAIN.data.astype(np.float32))
    change = brain_volume_change(BRAIN.like(growth), [share, share], scalings=(1.0, 1.0))
    assert change is not None
    return change


@pytest.fixture(scope="module")
def unchanged() -> tuple[list[float], np.ndarray]:
    return found(followed((1.0, 1.0, 1.0), seed=5))


def test_growth_of_15_25_and_40_percent_is_recovered():
    injected, recovered = [], []
    for ratios, seed in (((1.15, 1.25, 1.4), 1), ((1.4, 1.15, 1.25), 2)):
        recovered += [np.log(ratio) for ratio in found(followed(ratios, seed=seed))[0]]
        injected += [np.log(ratio) for ratio in ratios]
    slope = np.dot(injected, recovered) / np.dot(injected, injected)
    assert 0.9 < slope < 1.1
    np.testing.assert_allclose(recovered, injected, atol=0.05)


def test_where_nothing_grows_nothing_is_found(unchanged):
    ratios, growth = unchanged
    np.testing.assert_allclose(ratios, 1, atol=0.025)
    assert abs(brain_change(growth)) < 0.3


def test_exchanged_visits_give_the_opposite_bit_for_bit():
    one, other = followed((1.4, 1.15, 1.25), seed=2)
    forth, back = (halfway_deformation([pair], brain=BRAIN) for pair in ((one, other), (other, one)))
    np.testing.assert_array_equal(forth, -back)
    np.testing.assert_array_equal(log_jacobian(forth), -log_jacobian(back))


def test_a_second_contrast_with_more_noise_does_not_spoil_it():
    one, other = followed((1.4, 1.4, 1.4), seed=2)
    noise = np.random.default_rng(1).normal(0, 50, (2, SIDE, SIDE, SIDE)).astype(np.float32)
    noisy = (one.like(-10 * one.data + noise[0]), other.like(-10 * other.data + noise[1]))
    moved = halfway_deformation([(one, other), noisy], brain=BRAIN)
    growth = log_jacobian(moved)
    inside = np.linalg.norm(POINTS - LESIONS[1][0], axis=-1) <= LESIONS[1][1]
    assert growth[inside].mean() == pytest.approx(np.log(1.4), abs=0.06)


def test_a_greedy_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(deform, "SETTINGS", "-no-such-option")
    with pytest.raises(BackendError, match="Greedy failed: "):
        halfway_deformation([followed((1.0, 1.0, 1.0), seed=1)], brain=BRAIN)


# The system may be slow to start a program: it runs already, and `Popen` has not returned.
SLOW_START = """
import subprocess, time
start = subprocess.Popen._execute_child
def slow(*arguments):
    start(*arguments)
    time.sleep(1)
subprocess.Popen._execute_child = slow
"""


@pytest.mark.parametrize("start", ["", SLOW_START], ids=["started", "being-started"])
def test_greedy_ends_with_the_run_that_started_it(tmp_path, start):
    """As `msrim` ends at SIGTERM: nothing goes on in the background, and nothing is left."""
    code = (
        f"{start}\nimport signal, sys; signal.signal(signal.SIGTERM, lambda number, _: sys.exit(143))\n"
        "from msrim.preprocess.deform import halfway_deformation\n"
        "from tests.preprocess.test_deform import BRAIN, followed\n"
        "halfway_deformation([followed((1.0, 1.0, 1.0), seed=1)] * 20, brain=BRAIN)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    while len(started := children.read_text().split()) < 2:
        assert run.poll() is None
        time.sleep(0.1)
    run.terminate()
    assert run.wait(timeout=60) == 143
    assert not [child for child in started if Path(f"/proc/{child}").exists()]
    assert not list(tmp_path.iterdir())
