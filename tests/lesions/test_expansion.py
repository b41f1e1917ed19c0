"""Expansion of lesions from deformations that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from msrim.image import Volume
from msrim.lesions.expansion import MAX_NOISE, brain_volume_change, constancy, lesion_expansions

SIDE, RADIUS = 60, 6.0
EXPANDING, STILL = (18, 30, 30), (42, 30, 30)
POINTS = np.moveaxis(np.indices((SIDE,) * 3), 0, -1)
EVERYWHERE = Volume(np.ones((SIDE,) * 3, bool), np.eye(4))


def from_centre(centre) -> np.ndarray:
    return np.linalg.norm(POINTS - np.array(centre), axis=-1)


@pytest.fixture(scope="module")
def tracked() -> Volume:
    lesions = (from_centre(EXPANDING) <= RADIUS) + 2 * (from_centre(STILL) <= RADIUS)
    return EVERYWHERE.like(lesions.astype(np.int32))


def jacobian(*, percent: float, noise: float = 0.05, seed: int = 0) -> Volume:
    """One lesion expands, most of all in its middle; chance everywhere, as smooth as deformations are."""
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE,) * 3), 1.5)
    shape = np.clip(1.6 * (1 - from_centre(EXPANDING) / (2 * RADIUS)), 0, None) * (from_centre(EXPANDING) <= RADIUS)
    mean = shape[from_centre(EXPANDING) <= RADIUS].mean()
    data = np.log1p(percent / 100) * shape / mean + noise * rough / rough.std()
    return EVERYWHERE.like(data.astype(np.float32))


@pytest.mark.parametrize("years", [1.0, 2.0])
def test_expansion_is_told_per_year(tracked, years):
    growth = jacobian(percent=40.0, noise=0.02)
    found, _ = lesion_expansions(tracked, growth, brain=EVERYWHERE, white=EVERYWHERE, years=years)
    assert found[1].percent == pytest.approx(40, abs=2)
    assert found[1].percent_per_year == pytest.approx(100 * (1.4 ** (1 / years) - 1), abs=2)
    assert found[1].candidate is True and found[2].candidate is False
    assert found[1].concentricity > 0.8 and found[2].concentricity is None


def test_without_dates_nothing_is_told_per_year(tracked):
    found, _ = lesion_expansions(tracked, jacobian(percent=40.0), brain=EVERYWHERE, white=EVERYWHERE, years=None)
    assert (found[1].percent_per_year, found[1].candidate, found[1].concentricity) == (None, None, None)


def test_every_expansion_has_its_error(tracked):
    """What forty unchanged lesions show by chance is as large as what is told of it, and less in a larger lesion."""
    shown = []
    for seed in range(20):
        growth = jacobian(percent=0.0, noise=0.05, seed=seed)
        found, _ = lesion_expansions(tracked, growth, brain=EVERYWHERE, white=EVERYWHERE, years=1.0)
        shown += [found[number].percent / found[number].error_percent for number in (1, 2)]
    assert 0.7 < np.std(shown) < 1.4
    small = EVERYWHERE.like((from_centre(EXPANDING) <= 2).astype(np.int32))
    told, _ = lesion_expansions(small, growth, brain=EVERYWHERE, white=EVERYWHERE, years=1.0)
    assert told[1].error_percent > 2 * found[1].error_percent


def test_chance_makes_few_candidates(tracked):
    """Of twenty unchanged lesions; more noise raises what a candidate must show."""
    candidates = 0
    for seed in range(10):
        noise = 0.03 if seed % 2 else 0.055
        growth = jacobian(percent=0.0, noise=noise, seed=seed)
        found, _ = lesion_expansions(tracked, growth, brain=EVERYWHERE, white=EVERYWHERE, years=1.0)
        candidates += found[1].candidate + found[2].candidate
    assert candidates <= 1


def test_where_chance_is_large_no_candidate_is_sought(tracked):
    growth = jacobian(percent=40.0, noise=3 * MAX_NOISE)
    found, noise = lesion_expansions(tracked, growth, brain=EVERYWHERE, white=EVERYWHERE, years=1.0)
    assert noise > MAX_NOISE and found[1].candidate is None and found[1].concentricity is None
    assert found[1].error_percent > 10 and found[1].percent_per_year == found[1].percent


def test_without_white_matter_away_from_lesions_nothing_is_told(tracked):
    nowhere = EVERYWHERE.like(np.zeros((SIDE,) * 3, bool))
    found, noise = lesion_expansions(tracked, jacobian(percent=40.0), brain=EVERYWHERE, white=nowhere, years=1.0)
    assert not found and np.isinf(noise)


def test_the_brain_s_volume_changes_by_deformation_and_scaling():
    """A tenth of the tissue loses 5 %, and the midway space holds the baseline 1 % larger than the follow-up."""
    shrunk = np.zeros((10, 10, 10), np.float32)
    shrunk[0] = np.log(0.95)
    growth, tissue = Volume(shrunk, np.eye(4)), Volume(np.ones((10, 10, 10), np.float32), np.eye(4))
    change = brain_volume_change(growth, (tissue, tissue), scalings=(1.0, 1.0))
    # Half way the tenth is neither as large as it was nor as small as it will be.
    assert change == pytest.approx(100 * ((9 + 0.95**0.5) / (9 + 0.95**-0.5) - 1), abs=1e-4)
    scaled = brain_volume_change(growth, (tissue, tissue), scalings=(1.01, 1.0))
    assert scaled == pytest.approx(100 * (1.01 * (1 + change / 100) - 1), abs=1e-6)
    mirrored = brain_volume_change(growth.like(-shrunk), (tissue, tissue), scalings=(1.0, 1.01))
    assert (1 + scaled / 100) * (1 + mirrored / 100) == pytest.approx(1)
    nothing = tissue.like(np.zeros((10, 10, 10), np.float32))
    assert brain_volume_change(growth, (nothing, nothing), scalings=(1.0, 1.0)) is None


def test_constancy_needs_two_steps_of_expansion():
    assert constancy([12.0, 12.0, 6.0]) == 0.5
    assert constancy([5.0, 0.0]) == 0.0
    assert constancy([5.0]) is None
