"""Pieces of pictures: which slices are taken, and what is drawn on them."""

from __future__ import annotations

import re

import numpy as np

from msrim.report.pictures import AXIAL, GRID_SPACING_MM, choose_slices, outline, window


def instances(*lesions: tuple[int, int]) -> np.ndarray:
    """Lesions of 2 x 2 voxels over a range of axial slices of a grid of 100."""
    grid = np.zeros((40, 40, 100), np.int32)
    for number, (first, last) in enumerate(lesions, 1):
        grid[2 * number : 2 * number + 2, 5:7, first : last + 1] = number
    return grid


def test_slices_without_lesions_are_spread_over_the_brain():
    assert choose_slices(instances(), AXIAL, extent=range(10, 90), least=4, most=9) == [20, 40, 60, 80]


def test_one_slice_for_lesions_that_share_it_and_the_rest_for_context():
    chosen = choose_slices(instances((30, 36), (34, 44), (20, 34)), AXIAL, extent=range(10, 90), least=4, most=9)
    assert chosen == [20, 34, 60, 80]


def test_every_lesion_is_shown_while_slices_last():
    apart = [(10 + 5 * k, 11 + 5 * k) for k in range(12)]
    chosen = choose_slices(instances(*apart), AXIAL, extent=range(10, 90), least=1, most=12)
    assert [sum(first <= index <= last for index in chosen) for first, last in apart] == [1] * 12
    assert len(choose_slices(instances(*apart), AXIAL, extent=range(10, 90), least=1, most=5)) == 5


def test_a_lesion_is_not_shown_by_its_tip():
    grid = instances((50, 50))
    grid[10:20, 20:30, 30:40] = 2
    grid[10, 20, 40:51] = 2
    chosen = choose_slices(grid, AXIAL, extent=range(100), least=1, most=9)
    assert 50 in chosen
    assert any(30 <= index < 40 for index in chosen)


def test_outline_runs_along_the_pixels():
    mask = np.zeros((10, 20), bool)
    mask[0:4, 5:15] = True
    points = np.array(re.findall(r"([\d.-]+) ([\d.-]+)", outline(mask)), dtype=float) / GRID_SPACING_MM
    assert points.min(axis=0).round(1).tolist() == [5, 0]
    assert points.max(axis=0).round(1).tolist() == [15, 4]
    assert outline(np.zeros((4, 4), bool)) == ""


def test_window_keeps_room_for_lesions():
    data = np.full((10, 10, 10), 100.0)
    data[0] = 0
    data[1, 0] = 500
    grey = window(data, np.ones(data.shape, bool))
    assert grey[0].max() == 0
    assert grey[5].max() < 142
    assert grey[1, 0].min() == 255
    assert window(np.zeros((3, 3, 3)), np.zeros((3, 3, 3), bool)).max() == 0
