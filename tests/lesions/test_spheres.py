"""The target of the lesion-wise loss."""

import numpy as np
import pytest

from msrim.lesions.spheres import lesion_spheres

BALL_MM3 = np.pi / 6 * 10**3


@pytest.mark.parametrize(
    "spacing, tolerance", [((1, 1, 1), 0.03), ((0.5, 0.5, 0.5), 0.01), ((0.7, 0.7, 3), 0.05), ((3, 0.9, 0.9), 0.05)]
)
def test_one_voxel_becomes_a_ball_of_10_mm(spacing, tolerance):
    shape = tuple(int(np.ceil(16 / s)) for s in spacing)
    mask = np.zeros(shape, dtype=bool)
    centre = tuple(n // 2 for n in shape)
    mask[centre] = True
    sphere = lesion_spheres(mask, spacing)
    assert sphere.sum() * np.prod(spacing) == pytest.approx(BALL_MM3, rel=tolerance)
    for axis, (c, s) in enumerate(zip(centre, spacing, strict=True)):
        along = np.flatnonzero(sphere.any(axis=tuple({0, 1, 2} - {axis})))
        assert along.min() == c - int(5 // s) and along.max() == c + int(5 // s)


def test_a_lesions_size_does_not_matter_but_its_centre_of_mass_does():
    mask = np.zeros((40, 40, 40), dtype=bool)
    # Touching at a corner: one lesion of 8 + 1 voxels, its centre of mass at (18.5 * 8 + 20) / 9 = 18.67.
    mask[18:20, 18:20, 18:20] = True
    mask[20, 20, 20] = True
    x, y, z = np.indices(mask.shape) - (18.5 * 8 + 20) / 9
    assert (lesion_spheres(mask, (1, 1, 1)) == (x**2 + y**2 + z**2 <= 25)).all()


def test_overlapping_spheres_merge():
    mask = np.zeros((80, 60, 60), dtype=bool)
    mask[30, 30, 30] = mask[42, 30, 30] = True
    r, d = 5.0, 6.0
    lens = np.pi * (4 * r + d) * (2 * r - d) ** 2 / 12
    volume = lesion_spheres(mask, (0.5, 0.5, 0.5)).sum() * 0.125
    assert volume == pytest.approx(2 * BALL_MM3 - lens, rel=0.01)


def test_spheres_end_at_the_border_and_nothing_gives_nothing():
    mask = np.zeros((20, 20, 20), dtype=bool)
    assert not lesion_spheres(mask, (1, 1, 1)).any()
    mask[0, 0, 0] = True
    x, y, z = np.indices(mask.shape)
    assert (lesion_spheres(mask, (1, 1, 1)) == (x**2 + y**2 + z**2 <= 25)).all()
