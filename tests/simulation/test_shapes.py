from __future__ import annotations

import numpy as np
import pytest

from msrim.simulation.shapes import draw_blob, gaussian_field, random_blob


def test_field_has_unit_deviation_and_the_stated_correlation_length():
    field = gaussian_field((120, 100, 90), 2.0, np.random.default_rng(3))
    assert field.mean() == pytest.approx(0, abs=0.03)
    assert field.std() == pytest.approx(1, abs=0.03)
    apart = (field[4:] * field[:-4]).mean()  # two scales
    assert apart == pytest.approx(0.368, abs=0.03)


def test_field_is_not_weaker_at_the_border():
    corners = [gaussian_field((5, 5, 5), 3.0, np.random.default_rng(seed))[0, 0, 0] for seed in range(2000)]
    assert np.std(corners) == pytest.approx(1, abs=0.05)


def test_painted_ball_has_the_volume_of_a_ball():
    canvas = np.zeros((40, 40, 40), np.float32)
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    ball = random_blob(np.full(3, 10.0), np.full(3, 4.0), rng=np.random.default_rng(0), roughness=0.0)
    draw_blob(ball, canvas, affine)
    assert canvas.sum() * 0.125 == pytest.approx(268.1, rel=0.02)  # 4/3 pi 4^3 mm3


def test_first_radius_points_along_the_direction():
    direction = np.array([0.0, 0.6, 0.8])
    rng = np.random.default_rng(1)
    finger = random_blob(np.zeros(3), np.array([9.0, 2.0, 2.0]), rng=rng, direction=direction, roughness=0)
    assert finger.depth_mm(8.9 * direction) > 0
    assert finger.depth_mm(9.1 * direction) < 0
    assert finger.depth_mm(np.array([2.1, 0.0, 0.0])) < 0


def test_roughness_moves_the_surface_by_its_share_of_the_radius():
    rng = np.random.default_rng(5)
    on_sphere = rng.standard_normal((4000, 3))
    on_sphere *= 5 / np.linalg.norm(on_sphere, axis=1, keepdims=True)
    depths = [random_blob(np.zeros(3), np.full(3, 5.0), rng=rng, roughness=0.1).depth_mm(on_sphere) for _ in range(20)]
    assert np.std(depths) == pytest.approx(0.5, rel=0.2)


def test_overlap_keeps_the_larger_value_and_borders_are_no_trouble():
    canvas = np.zeros((10, 10, 10), np.float32)
    rng = np.random.default_rng(2)
    for value in (0.9, 0.4):
        draw_blob(random_blob(np.zeros(3), np.full(3, 3.0), rng=rng), canvas, np.eye(4), value=value)
    assert canvas[0, 0, 0] == pytest.approx(0.9)
    assert canvas[9, 9, 9] == 0


def test_depth_on_a_grid_is_the_depth_at_its_points():
    rng = np.random.default_rng(1)
    blob = random_blob(np.array([1.0, 2.0, 3.0]), np.array([5.0, 4.0, 3.0]), rng=rng, roughness=0.2)
    lines = [0.5 * np.arange(-12, stop) for stop in (13, 14, 15)]
    points = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    assert blob.depth_on_grid(*lines) == pytest.approx(blob.depth_mm(points), abs=1e-4)
