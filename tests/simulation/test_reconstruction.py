"""From echoes to susceptibility, step by step, each against what is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from msrim.image import Volume
from msrim.simulation import rim_patient
from msrim.simulation.reconstruction import SPHERES_MM, invert, local_field, total_field
from msrim.simulation.rim_patient import Scanner
from msrim.simulation.susceptibility import GradientEcho, acquire, field_of

SPACING = np.array([1.0, 1.0, 1.5])
SHAPE = (80, 80, 60)


def points() -> np.ndarray:
    axes = [(np.arange(n) - n // 2) * s for n, s in zip(SHAPE, SPACING, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def ball(centre_mm: tuple, radius_mm: float) -> np.ndarray:
    return np.clip(radius_mm - np.linalg.norm(points() - centre_mm, axis=-1) + 0.5, 0, 1).astype(np.float32)


def test_field_is_right_beyond_a_turn_from_one_echo_to_the_next():
    """2 ppm turn the phase by 6.6 rad in 4.1 ms; over space it is followed."""
    protocol = GradientEcho(snr=200.0)
    brain = np.ones((24, 24, 12), bool)
    truth = np.broadcast_to(np.linspace(-2, 2, 24)[:, None, None], brain.shape)
    flat = np.ones((*brain.shape, 1))
    echoes = acquire(truth[..., None], flat, 20 * flat, protocol=protocol, rng=np.random.default_rng(0))
    found, known = total_field(echoes, brain, protocol=protocol)
    away = (found - truth)[known]
    assert known[4:-4, 4:-4, 4:-4].all()
    assert np.abs(away - np.median(away)).max() < 0.01


def test_where_the_signal_is_lost_the_field_is_not_known():
    protocol = GradientEcho()
    brain = np.ones((24, 24, 12), bool)
    density = np.ones((*brain.shape, 1))
    density[8:16, 8:16, 4:8] = 0
    echoes = acquire(0 * density, density, 20 * density, protocol=protocol, rng=np.random.default_rng(0))
    found, known = total_field(echoes, brain, protocol=protocol)
    assert not known[9:15, 9:15, 5:7].any() and not found[~known].any()
    assert known[2:6, 2:-2, 3:-3].all()


def test_the_field_of_air_outside_is_removed_and_that_of_the_inside_stays():
    brain = np.linalg.norm(points() / (34, 34, 38), axis=-1) < 1
    air = field_of(9.4 * ball((0, 46, -24), 14.0), SPACING)
    inner = field_of(0.1 * ball((8, 0, 5), 6.0), SPACING)
    found, known = local_field(np.where(brain, air + inner, 0), brain, SPACING)
    assert not found[~known].any()
    lost = brain & ~known
    assert lost.any() and not binary_erosion(brain, iterations=int(SPHERES_MM[-1]) + 1)[lost].any()
    before, after = np.abs(air[known]), np.abs(found - inner)[known]
    assert np.percentile(before, 95) > 0.05
    assert np.percentile(after, 95) < 0.05 * np.percentile(before, 95)


@pytest.mark.parametrize(("kind", "weight"), [("thresholded", 0.15), ("gradient", 0.015)])
def test_every_inversion_gives_a_sphere_back(kind, weight):
    chi = 0.1 * ball((0, 0, 0), 7.0)
    found = invert(field_of(chi, SPACING), SPACING, b0_direction=(0.0, 0.0, 1.0), kind=kind, weight=weight)
    inside, outside = chi > 0.099, chi == 0
    assert found[inside].mean() - found[outside].mean() == pytest.approx(0.1, rel=0.15)
    assert found[outside].std() < 0.012


def test_finer_voxels_hold_the_same_ramp():
    x, y = np.meshgrid(np.arange(10.0), np.arange(8.0), indexing="ij")
    coarse = Volume((2 * x + 3 * y)[..., None].astype(np.float32), np.diag([0.75, 0.75, 3, 1]))
    fine = rim_patient._finer(coarse)
    place = np.argwhere(np.ones(fine.shape)) @ np.diag(fine.spacing) + fine.affine[:3, 3]
    expected = (2 * place[:, 0] + 3 * place[:, 1]).reshape(fine.shape) / 0.75
    found = rim_patient._doubled(coarse.data)
    assert np.allclose(found[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-4)


def test_cropping_k_space_keeps_what_is_coarse_in_place_and_takes_what_is_fine():
    """A wave of the phase over 12 mm is found where it was; one over 1 mm is gone."""
    scanner = Scanner(echoes=GradientEcho(snr=1e6))
    n = 64
    fine = (np.arange(2 * n) - 0.5) * 0.375  # the middles of finer voxels, the first coarse one's at 0
    coarse = np.arange(n) * 0.75

    def seen(length_mm: float) -> np.ndarray:
        wave = 0.01 * np.sin(2 * np.pi * fine / length_mm)
        field = np.broadcast_to(wave[:, None, None], (2 * n, 32, 4)).astype(np.float32)
        echoes = rim_patient._echoes(
            field, np.ones((n, 16, 4), np.float32), np.zeros((2 * n, 32, 4), np.float32), 2,
            scanner=scanner, rng=np.random.default_rng(0),
        )  # fmt: skip
        assert echoes.shape == (10, n, 16, 2)
        assert np.abs(echoes[0]).mean() == pytest.approx(1, abs=0.01)
        return np.angle(echoes[0, :, 8, 0]) / scanner.echoes.phase_per_ppm[0]

    assert np.abs(seen(12.0) - 0.01 * np.sin(2 * np.pi * coarse / 12.0)).max() < 2e-4
    assert np.abs(seen(1.0)).max() < 1e-3
