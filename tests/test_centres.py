"""Centres where the probability falls off in every direction, and the lesions around them."""

import numpy as np
import pytest
from volumes import LAS, OBLIQUE, RAS, centres

from msrim.errors import InputError
from msrim.image import Volume
from msrim.lesions.split import label_lesions
from tests.benchmarks.centres import hessian_centres, split_at_centres

GRIDS = {"1 mm": RAS, "oblique, 2 mm slices": OBLIQUE @ LAS @ np.diag([0.8, 0.8, 2.0])}


def hills(linear: np.ndarray, tops_mm: list[tuple[float, float, float]], *, width_mm: float = 3.0) -> Volume:
    """The highest of Gaussians around some points, in a cube of 50 mm around the origin."""
    shape = tuple(np.ceil(50 / np.linalg.norm(linear, axis=0)).astype(int))
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = -linear @ ((np.array(shape) - 1) / 2)
    points = centres(shape, affine)
    distance = np.min([np.linalg.norm(points - top, axis=-1) for top in np.array(tops_mm)], axis=0)
    return Volume(np.exp(-(distance**2) / 2 / width_mm**2).astype(np.float32), affine)


@pytest.mark.parametrize("linear", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("tops", [[(0, 0, 0)], [(-5, 0, 0), (5, 0, 0)], [(-5, -3, -2), (4, -3, 2), (0, 6, 0)]])
def test_each_hill_has_one_centre_at_its_top(linear, tops):
    probability = hills(linear, tops)
    found = hessian_centres(probability.like(probability.data > 0.1), probability=probability)
    assert found.max() == len(tops)
    where = centres(probability.shape, probability.affine)
    means = [where[found == number].mean(axis=0) for number in range(1, found.max() + 1)]
    for top in tops:
        assert min(np.linalg.norm(mean - top) for mean in means) < 0.7


def test_a_gaussian_falls_off_in_every_direction_within_its_width():
    """Its second derivative along the radius is negative up to one width, and smoothing adds its own variance."""
    probability = hills(RAS, [(0, 0, 0)], width_mm=4.0)
    found = hessian_centres(probability.like(probability.data > 0.01), probability=probability)
    radius = (found.sum() / (4 / 3 * np.pi)) ** (1 / 3)
    assert radius == pytest.approx(np.sqrt(4.0**2 + 1.0**2), rel=0.02)


def test_voxels_go_to_the_nearest_centre_of_their_own_component():
    probability = hills(RAS, [(-5, 0, 0), (5, 0, 0)])
    mask = probability.like(probability.data > 0.1)
    parts = split_at_centres(mask, probability=probability)
    assert label_lesions(mask.data).max() == 1 and parts.data.max() == 2
    x = centres(mask.shape, mask.affine)[..., 0]
    for number in (1, 2):
        side = np.sign(x[parts.data == number])
        assert abs(side.mean()) > 0.99
    assert ((parts.data > 0) == mask.data).all()


def test_a_component_without_a_centre_is_one_lesion():
    probability = hills(RAS, [(0, 0, 0)])
    mask = np.zeros(probability.shape, dtype=bool)
    mask[2:6, 2:6, 2:6] = mask[40:44, 40:44, 40:46] = True
    parts = split_at_centres(probability.like(mask), probability=probability.like(np.zeros(mask.shape, np.float32)))
    assert np.bincount(parts.data.ravel())[1:].tolist() == [96, 64]
    empty = probability.like(np.zeros(mask.shape, bool))
    assert split_at_centres(empty, probability=probability).data.max() == 0


def test_grids_must_match():
    probability = hills(RAS, [(0, 0, 0)])
    with pytest.raises(InputError, match="different grids"):
        hessian_centres(Volume(np.zeros((4, 4, 4), bool), np.eye(4)), probability=probability)
