"""Displacements whose effect is known."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.image import Volume
from msrim.labels import HeadLabel
from msrim.preprocess.deform import log_jacobian
from msrim.simulation.deformation import PUSHED_MM, Pull, atrophy, growth, tissue_share, together

SHAPE = (72, 72, 72)
SPACING = 1.25
DISTANCE = np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - (np.array(SHAPE) - 1) / 2, axis=-1) * SPACING


def head(*, ventricles_mm: float = 10.0) -> Volume:
    labels = np.select(
        [ventricles_mm > DISTANCE, DISTANCE < 36, DISTANCE < 40],
        [HeadLabel.VENTRICLES, HeadLabel.CEREBRAL_WHITE, HeadLabel.OUTER_CSF],
        HeadLabel.BACKGROUND,
    )
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = (-30, 5, 12)
    return Volume(labels.astype(np.uint8), affine)


def ball(centre: tuple[int, int, int], radius_mm: float) -> np.ndarray:
    return np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - centre, axis=-1) * SPACING <= radius_mm


def test_lesions_expand_by_the_given_ratios_and_leave_what_is_farther_away_alone():
    balls = [ball((20, 20, 20), 5), ball((20, 50, 40), 4), ball((52, 30, 30), 6)]
    ratios = (1.15, 1.25, 1.4)
    pull = growth(head(), [np.argwhere(mask) for mask in balls], ratios)
    for mask, ratio in zip(balls, ratios, strict=True):
        assert pull.ratio(mask) == pytest.approx(ratio, rel=0.03)
    away = ~(ball((20, 20, 20), 7 + PUSHED_MM) | ball((20, 50, 40), 7 + PUSHED_MM) | ball((52, 30, 30), 8 + PUSHED_MM))
    assert not pull.voxels[:, away].any()


def test_the_tissue_loses_what_the_ventricles_gain():
    labels = head()
    pull = atrophy(labels, loss_percent=1.0)
    tissue, ventricles = tissue_share(labels), labels.data == HeadLabel.VENTRICLES
    assert pull.ratio(tissue) == pytest.approx(0.99, abs=5e-4)
    gained = (pull.ratio(ventricles) - 1) * ventricles.sum()
    assert gained == pytest.approx(0.01 * tissue.sum(), rel=0.15)
    assert np.abs(pull.voxels[:, DISTANCE > 42]).max() < 0.02
    # Nothing folds: what is pulled back has a volume everywhere.
    assert np.exp(log_jacobian(pull.voxels)).min() > 0.5


def test_a_head_without_ventricles_stays_as_it_is():
    assert not atrophy(head(ventricles_mm=0.0), loss_percent=1.0).voxels.any()


def test_places_in_the_world_move_as_voxels_do():
    labels = head()
    pull = together([atrophy(labels, loss_percent=1.0), Pull(np.ones((3, *SHAPE), np.float32), labels.affine)])
    voxel = np.array([30, 22, 41])
    expected = voxel + pull.voxels[:, 30, 22, 41]
    world = labels.affine[:3, :3] @ voxel + labels.affine[:3, 3]
    np.testing.assert_allclose(pull(world[None])[0], labels.affine[:3, :3] @ expected + labels.affine[:3, 3], atol=1e-3)
