from __future__ import annotations

import numpy as np
import pytest

from msrim.image import Volume
from msrim.simulation.contrast import (
    TISSUE_PARAMETERS,
    Tissue,
    flair,
    mprage,
    null_time_ms,
    receive,
    sample_slices,
    turbo_spin_echo,
)


def test_turbo_spin_echo_of_white_matter_and_csf():
    # 0.70 (1 - e^-4.61255) e^-1.44928 and 1.0 (1 - e^-1.16279) e^-0.05, by hand
    assert turbo_spin_echo(TISSUE_PARAMETERS["white matter"], tr_ms=5000, te_ms=100) == pytest.approx(0.16268, abs=2e-5)
    assert turbo_spin_echo(TISSUE_PARAMETERS["csf"], tr_ms=5000, te_ms=100) == pytest.approx(0.65386, abs=2e-5)


def test_flair_against_hand_computed_values():
    # T1 = 1000, T2 = 100, density 1: 1 - 2 e^-2.5 + e^-9 = 0.83595, times e^-1
    assert flair(Tissue(1000, 100, 1.0), tr_ms=9000, te_ms=100, ti_ms=2500) == pytest.approx(0.30753, abs=2e-5)


def test_csf_is_nulled_at_its_null_time():
    csf = TISSUE_PARAMETERS["csf"]
    ti_ms = null_time_ms(csf, tr_ms=9000)
    assert ti_ms == pytest.approx(2480.6, abs=0.5)
    assert flair(csf, tr_ms=9000, te_ms=120, ti_ms=ti_ms) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["white matter", "grey matter", "csf", "fat"])
def test_mprage_agrees_with_pulse_by_pulse_simulation(name):
    tissue = TISSUE_PARAMETERS[name]
    settings = {"tr_ms": 2300, "ti_ms": 1000, "echo_spacing_ms": 7.5, "excitations": 176, "flip_deg": 9}

    def relax(m, time_ms):
        return tissue.density + (m - tissue.density) * np.exp(-time_ms / tissue.t1_ms)

    m, echo = tissue.density, 0.0
    for _ in range(40):  # inversions until nothing changes any more
        m = relax(-m, 1000 - 88 * 7.5)
        for pulse in range(176):
            if pulse == 88:
                echo = m * np.sin(np.radians(9))
            m = relax(m * np.cos(np.radians(9)), 7.5)
        m = relax(m, 2300 - 1000 - 88 * 7.5)
    assert mprage(tissue, **settings) == pytest.approx(echo, rel=1e-9)


def test_a_thin_plane_fills_its_share_of_a_thick_slice():
    data = np.zeros((12, 12, 31), np.float32)
    data[:, :, 15] = 1.0
    grid_affine = np.diag([1.0, 1.0, 3.0, 1.0])
    grid = Volume(np.zeros((12, 12, 11)), grid_affine)
    through = sample_slices(Volume(data, np.eye(4)), grid, grid_from_volume=np.eye(4)).data[6, 6]
    assert through[5] == pytest.approx(1 / 3, abs=1e-5)
    assert np.delete(through, 5) == pytest.approx(0, abs=1e-5)


def test_slices_move_with_the_head():
    data = np.zeros((20, 20, 20), np.float32)
    data[8, 9, 10] = 1.0
    grid_from_head = np.eye(4)
    grid_from_head[:3, 3] = (2, -3, 4)
    seen = sample_slices(Volume(data, np.eye(4)), Volume(data, np.eye(4)), grid_from_volume=grid_from_head).data
    assert np.unravel_index(seen.argmax(), seen.shape) == (10, 6, 14)


def test_noise_is_rician_with_the_stated_signal_to_noise():
    level = np.zeros((60, 60, 60), np.float32)
    level[30:] = 0.2
    image = receive(Volume(level, np.eye(4)), white_matter=0.2, snr=25, bias=0.0, rng=np.random.default_rng(0)).data
    assert image.dtype == np.uint16
    assert image[30:].mean() == pytest.approx(400, rel=0.01)
    assert image[30:].std() == pytest.approx(16, rel=0.03)
    assert image[:30].mean() == pytest.approx(16 * np.sqrt(np.pi / 2), rel=0.03)  # Rayleigh where there is no signal


def test_bias_is_smooth_and_of_the_stated_strength():
    flat = Volume(np.ones((180, 180, 60), np.float32), np.diag([1.0, 1.0, 3.0, 1.0]))
    logs = [
        np.log(receive(flat, white_matter=1, snr=1e6, bias=0.1, rng=np.random.default_rng(seed)).data / 400.0)
        for seed in range(6)
    ]
    assert np.std(logs) == pytest.approx(0.1, rel=0.35)
    assert np.abs(np.diff(logs, axis=1)).max() < 0.012
