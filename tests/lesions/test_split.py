"""Lesions apart: components, and confluent ones cut at the sphere head's peaks."""

import cc3d
import numpy as np
import pytest
from scipy import ndimage
from volumes import LAS, LPS, OBLIQUE, PIL, RAS, centres

from msrim.image import Volume, read_volume
from msrim.lesions.spheres import lesion_spheres
from msrim.lesions.split import label_lesions, split_confluent

GRIDS = {
    "RAS 1 mm": RAS,
    "LPS 1 mm": LPS,
    "axial 3 mm slices": LAS @ np.diag([0.7, 0.7, 3.0]),
    "sagittal 3 mm slices": PIL @ np.diag([0.9, 0.9, 3.0]),
    "oblique 2.5 mm slices": OBLIQUE @ LAS @ np.diag([0.9, 0.9, 2.5]),
}


def empty_grid(linear: np.ndarray, *, extent_mm: float = 40.0) -> Volume:
    """A cube of about ``extent_mm`` centred on the world's origin."""
    shape = tuple(np.ceil(extent_mm / np.linalg.norm(linear, axis=0)).astype(int))
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = -linear @ ((np.array(shape) - 1) / 2)
    return Volume(np.zeros(shape, dtype=bool), affine)


def distance_to(point_mm: np.ndarray, grid: Volume) -> np.ndarray:
    return np.linalg.norm(centres(grid.shape, grid.affine) - point_mm, axis=-1)


def sphere_head(distance_mm: np.ndarray) -> np.ndarray:
    """What a head trained on 10 mm spheres says: sure within, unsure over a millimetre or two at the edge."""
    return (1 / (1 + np.exp(distance_mm - 4.0))).astype(np.float32)


def check_partition(parts: Volume, mask: Volume) -> None:
    """What holds for every result."""
    assert ((parts.data > 0) == mask.data).all()
    sizes = np.bincount(parts.data.ravel())[1:]
    assert (sizes > 0).all() and (np.diff(sizes) <= 0).all()
    for number in range(1, sizes.size + 1):
        assert cc3d.connected_components(parts.data == number, connectivity=26).max() == 1


def test_components_touch_at_corners_and_come_largest_first():
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[0, 0, 0] = True
    mask[3, 3, 3] = mask[4, 4, 4] = mask[4, 4, 5] = True
    labels = label_lesions(mask)
    assert labels.dtype == np.int32
    assert labels[0, 0, 0] == 2
    assert labels[3, 3, 3] == labels[4, 4, 4] == labels[4, 4, 5] == 1
    assert label_lesions(np.zeros((3, 3, 3), dtype=bool)).max() == 0


@pytest.mark.parametrize("linear", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 1)])
def test_dumbbell_is_cut_in_its_middle(linear, direction):
    grid = empty_grid(linear)
    half = 4.5 * np.array(direction) / np.linalg.norm(direction)
    near, far = distance_to(-half, grid), distance_to(half, grid)
    mask = grid.like(np.minimum(near, far) <= 5.0)
    parts = split_confluent(mask, sphere_probability=grid.like(sphere_head(np.minimum(near, far))))
    check_partition(parts, mask)
    assert parts.data.max() == 2
    truth = np.where(near < far, 1, 2)
    same = max(np.mean(parts.data[mask.data] == truth[mask.data]), np.mean(parts.data[mask.data] != truth[mask.data]))
    assert same > 0.85 if max(grid.spacing) > 2 else same > 0.93


@pytest.mark.parametrize("gap_mm, lesions", [(4.5, 1), (6.5, 2)])
def test_centres_closer_than_a_radius_are_one_lesion(gap_mm, lesions):
    grid = empty_grid(GRIDS["axial 3 mm slices"])
    mask = grid.like(distance_to(np.zeros(3), grid) <= 7)
    # Two ridges so sharp that they stay apart even if smoothed.
    x, y, z = np.moveaxis(centres(grid.shape, grid.affine), -1, 0)
    probability = np.exp(-((abs(x) - gap_mm / 2) ** 2) / 0.7 - (y**2 + z**2) / 200).astype(np.float32)
    parts = split_confluent(mask, sphere_probability=grid.like(probability))
    check_partition(parts, mask)
    assert parts.data.max() == lesions


@pytest.mark.parametrize("dip, lesions", [(0.02, 1), (0.3, 2)])
def test_a_shallow_dip_between_equal_peaks_does_not_cut(dip, lesions):
    grid = empty_grid(GRIDS["RAS 1 mm"])
    x = grid.affine[0, 3] + np.arange(grid.shape[0])
    ridge = 0.9 - dip * np.cos(np.pi * x / 10) ** 2 * (abs(x) < 10)
    probability = np.broadcast_to(ridge[:, None, None], grid.shape).astype(np.float32)
    tube = np.minimum.reduce([distance_to(np.array([c, 0, 0]), grid) for c in np.arange(-12, 13)]) <= 4
    lateral = distance_to(np.zeros(3), grid)
    probability = probability * np.exp(-((lateral**2 - (x**2)[:, None, None]) / 50)).astype(np.float32)
    parts = split_confluent(grid.like(tube), sphere_probability=grid.like(probability))
    check_partition(parts, grid.like(tube))
    assert parts.data.max() == lesions


def test_a_fragment_goes_to_its_neighbour():
    grid = empty_grid(GRIDS["RAS 1 mm"])
    ball = distance_to(np.array([-6.0, 0, 0]), grid)
    tip = distance_to(np.array([7.5, 0.5, 0.5]), grid)
    tail = np.zeros(grid.shape, dtype=bool)
    tail[18:29, 20, 20] = True
    mask = grid.like((ball <= 6) | tail)
    probability = np.maximum(sphere_head(ball), sphere_head(tip))
    assert probability[27, 20, 20] > 0.9
    parts = split_confluent(mask, sphere_probability=grid.like(probability))
    assert parts.data.max() == 1
    # The same peak with a lesion's worth of voxels around it is a lesion.
    mask = grid.like((ball <= 6) | tail | (tip <= 3))
    parts = split_confluent(mask, sphere_probability=grid.like(probability))
    check_partition(parts, mask)
    assert parts.data.max() == 2


def test_a_component_without_a_peak_stays_whole():
    grid = empty_grid(GRIDS["RAS 1 mm"])
    mask = grid.like(distance_to(np.zeros(3), grid) <= 8)
    for level in (0.0, 1.0):
        parts = split_confluent(mask, sphere_probability=grid.like(np.full(grid.shape, level, dtype=np.float32)))
        check_partition(parts, mask)
        assert parts.data.max() == 1


def test_a_neighbours_slope_is_not_a_peak():
    grid = empty_grid(GRIDS["RAS 1 mm"])
    here, there = distance_to(np.array([-6.5, 0, 0]), grid), distance_to(np.array([7.5, 0, 0]), grid)
    mask = grid.like((here <= 8) | (there <= 4))
    probability = np.maximum(sphere_head(distance_to(np.array([-10.0, 0, 0]), grid)), sphere_head(there - 3))
    parts = split_confluent(mask, sphere_probability=grid.like(probability))
    assert label_lesions(mask.data).max() == 2
    assert parts.data.max() == 2


@pytest.mark.parametrize("linear", GRIDS.values(), ids=GRIDS)
def test_where_no_model_knows_centres_the_masks_own_depth_cuts_it(linear):
    """A map of zeros is what a model gives that knows none."""
    grid = empty_grid(linear)
    near, far = (distance_to(np.array([x, 0, 0]), grid) for x in (-4.5, 4.5))
    mask = grid.like(np.minimum(near, far) <= 5.0)
    parts = split_confluent(mask, sphere_probability=None)
    check_partition(parts, mask)
    assert parts.data.max() == 2
    truth = np.where(near < far, 1, 2)[mask.data]
    same = max(np.mean(parts.data[mask.data] == truth), np.mean(parts.data[mask.data] != truth))
    assert same > 0.85
    zeros = grid.like(np.zeros(grid.shape, np.float32))
    assert (split_confluent(mask, sphere_probability=zeros).data == parts.data).all()


@pytest.mark.parametrize("linear", GRIDS.values(), ids=GRIDS)
def test_balls_eggs_and_tubes_are_one_lesion_by_shape(linear):
    grid = empty_grid(linear)
    places = centres(grid.shape, grid.affine)
    ball = np.linalg.norm(places, axis=-1) <= 6
    egg = np.linalg.norm(places / (10, 6, 5), axis=-1) <= 1
    tube = np.linalg.norm(places[..., 1:], axis=-1) <= 4
    tube &= np.abs(places[..., 0]) < 14
    for data in (ball, egg, tube):
        assert split_confluent(grid.like(data), sphere_probability=None).data.max() == 1


def test_an_empty_mask_has_no_lesion():
    grid = empty_grid(GRIDS["RAS 1 mm"])
    parts = split_confluent(grid, sphere_probability=grid.like(np.ones(grid.shape, dtype=np.float32)))
    assert parts.data.max() == 0
    assert parts.data.dtype == np.int32


@pytest.mark.parametrize("seed", range(3))
def test_any_mask_and_any_probability_make_a_partition_twice_the_same(seed):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(50, 40, 24)), (2.5, 2.5, 1))
    mask = Volume(noise > 0.6 * noise.std(), np.diag([1.0, 1.0, 3.0, 1.0]))
    probability = ndimage.gaussian_filter(rng.normal(size=mask.shape), (2, 2, 0.7))
    probability = mask.like(np.clip(0.5 + probability / probability.std() / 3, 0, 1).astype(np.float32))
    parts = split_confluent(mask, sphere_probability=probability)
    check_partition(parts, mask)
    assert parts.data.max() > label_lesions(mask.data).max()
    assert (split_confluent(mask, sphere_probability=probability).data == parts.data).all()


def test_grids_must_match():
    mask = empty_grid(GRIDS["RAS 1 mm"])
    moved = Volume(np.zeros(mask.shape, dtype=np.float32), mask.affine + np.eye(4, k=3))
    with pytest.raises(ValueError, match="different grids"):
        split_confluent(mask, sphere_probability=moved)


def test_true_spheres_of_a_patient_leave_its_separate_lesions_alone(shared_data):
    mask = read_volume(
        shared_data / "mni/sub-openms07/anat/sub-openms07_space-MNI152_label-L_desc-expert_mask.nii.gz", mask=True
    )
    spheres = mask.like(lesion_spheres(mask.data, mask.spacing).astype(np.float32))
    parts = split_confluent(mask, sphere_probability=spheres)
    check_partition(parts, mask)
    assert parts.data.max() == 37
