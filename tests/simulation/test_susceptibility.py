"""The physics against what is known by hand: a sphere's field, a signal's decay, a map through its field and back."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.simulation.susceptibility import (
    GradientEcho,
    acquire,
    dipole_response,
    field_of,
    fit_field,
    invert_dipole,
)

SPACING = np.array([0.75, 0.75, 1.0])
TILTED = (0.0, np.sin(0.2), np.cos(0.2))


def points_mm(shape: tuple[int, int, int]) -> np.ndarray:
    axes = [(np.arange(n) - n // 2) * s for n, s in zip(shape, SPACING, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def sphere(points: np.ndarray, radius_mm: float) -> np.ndarray:
    """Fractions of a ball, 1 inside."""
    return np.clip((radius_mm - np.linalg.norm(points, axis=-1)) / 0.75 + 0.5, 0, 1).astype(np.float32)


@pytest.mark.parametrize("b0", [(0.0, 0.0, 1.0), TILTED], ids=["straight", "tilted"])
def test_field_outside_a_sphere_is_the_analytic_dipole_within_2_percent(b0):
    """``chi/3 (a/r)^3 (3 cos^2 - 1)``; the error is counted in shares of the largest field, at the poles."""
    points, radius = points_mm((128, 128, 100)), 10.0
    field = field_of(0.5 * sphere(points, radius), SPACING, b0_direction=b0)
    distance = np.linalg.norm(points, axis=-1)
    shell = (distance > 1.2 * radius) & (distance < 3 * radius)
    cosine = points[shell] @ np.array(b0) / distance[shell]
    analytic = 0.5 / 3 * (radius / distance[shell]) ** 3 * (3 * cosine**2 - 1)
    error = field[shell] - analytic
    assert np.sqrt((error**2).mean() / (analytic**2).mean()) < 0.02
    assert np.abs(error).max() < 0.02 * 0.5 * 2 / 3
    # A sphere feels no field of its own: Lorentz.
    assert np.abs(field[distance < radius - 2]).max() < 0.02 * 0.5


def test_dipole_response_is_one_third_across_and_minus_two_thirds_along_the_field():
    response = dipole_response((8, 8, 8), (1.0, 1.0, 1.0))
    assert response[0, 0, 0] == 0
    assert response[3, 2, 0] == pytest.approx(1 / 3, abs=1e-6)
    assert response[0, 0, 3] == pytest.approx(-2 / 3, abs=1e-6)


def test_signal_decays_turns_and_disperses():
    """By hand: two parts of opposite phase cancel, and equal ones turn by gamma B0 TE."""
    protocol = GradientEcho(field_t=3.0, echo_times_ms=(10.0,), snr=1e9)
    radians = 2 * np.pi * 42.577478518e6 * 3.0 * 0.05e-6 * 0.010
    opposite = 0.5 * np.pi / radians * 0.05
    field = np.array([[0.05, 0.05], [opposite, -opposite]])
    signal = acquire(field, np.ones((2, 2)), np.full((2, 2), 20.0), protocol=protocol, rng=np.random.default_rng(0))
    assert np.angle(signal[0, 0]) == pytest.approx(radians, abs=1e-4)
    assert abs(signal[0, 0]) == pytest.approx(np.exp(-0.2), abs=1e-4)
    assert abs(signal[0, 1]) == pytest.approx(0, abs=1e-4)


def test_fitted_field_is_right_beyond_a_turn_of_the_phase():
    """0.25 ppm at 3 T turn the phase several times by the last echo; it is unwrapped echo by echo."""
    truth = np.linspace(-0.25, 0.25, 101)
    protocol = GradientEcho(snr=200.0)
    echoes = acquire(
        truth[:, None], np.ones((101, 1)), np.full((101, 1), 15.0), protocol=protocol, rng=np.random.default_rng(1)
    )
    assert np.abs(fit_field(echoes, protocol=protocol) - truth).max() < 2e-3


def test_noise_of_the_field_falls_with_the_main_field():
    spread = {}
    for field_t in (1.5, 3.0):
        protocol = GradientEcho(field_t=field_t)
        flat = np.zeros((4000, 1))
        echoes = acquire(flat, flat + 1, flat + 20, protocol=protocol, rng=np.random.default_rng(2))
        spread[field_t] = fit_field(echoes, protocol=protocol).std()
    assert spread[1.5] / spread[3.0] == pytest.approx(2, rel=0.02)


def test_inversion_gives_a_sphere_back():
    """Thresholded division loses some contrast and adds streaks; no more than a tenth inside, nor of noise outside."""
    points = points_mm((96, 96, 72))
    chi = 0.1 * sphere(points, 7.0)
    found = invert_dipole(field_of(chi, SPACING), SPACING)
    inside, outside = chi > 0.099, chi == 0
    assert found[inside].mean() - found[outside].mean() == pytest.approx(0.1, rel=0.1)
    assert found[outside].std() < 0.01
