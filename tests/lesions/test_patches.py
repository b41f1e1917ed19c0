"""Patches: what is in the middle, in every storage order and spacing, and what is said of lesions that don't fit."""

from __future__ import annotations

import numpy as np
import pytest
from volumes import LAS, LPS, PIL, pose

from msrim.errors import InputError
from msrim.image import Volume, to_ras
from msrim.lesions.patches import QSM_SCALE_PPM, cut_patches, looks_inverted, on_spacing, susceptibility_ppm

AFFINE = np.diag([0.75, 0.75, 3.0, 1.0])
SHAPE = (60, 60, 24)


def brain(shape=SHAPE, affine=AFFINE) -> Volume:
    rng = np.random.default_rng(0)
    return Volume(rng.normal(-0.02, 0.01, shape).astype(np.float32), affine)


def labelled(*boxes: tuple[slice, slice, slice], like: Volume) -> Volume:
    data = np.zeros(like.shape, np.int32)
    for number, box in enumerate(boxes, start=1):
        data[box] = number
    return like.like(data)


def test_lesion_lies_in_the_middle_on_the_scale_of_rims():
    qsm = brain()
    lesion = labelled(np.s_[20:25, 30:35, 10:13], like=qsm)
    qsm.data[22, 32, 11] = 0.08
    patches = cut_patches(qsm, qsm, lesion, size=(32, 32, 8))
    assert patches.images.shape == (1, 3, 32, 32, 8)
    median = np.median(qsm.data)
    assert patches.images[0, 0, 16, 16, 4] == pytest.approx((0.08 - median) / QSM_SCALE_PPM, rel=1e-5)
    assert patches.images[0, 2].sum() == 5 * 5 * 3
    assert patches.remarks == {1: []} and patches.seen == {1: True}


def test_each_patch_marks_its_own_lesion_alone():
    qsm = brain()
    lesions = labelled(np.s_[20:25, 30:35, 10:13], np.s_[27:30, 30:33, 10:12], like=qsm)
    patches = cut_patches(qsm, qsm, lesions, size=(32, 32, 8))
    assert patches.numbers.tolist() == [1, 2]
    assert patches.images[:, 2].sum(axis=(1, 2, 3)).tolist() == [75, 18]


@pytest.mark.parametrize("orientation", [LAS, LPS, PIL], ids=["LAS", "LPS", "PIL"])
def test_storage_order_does_not_matter(orientation):
    qsm = brain()
    lesion = labelled(np.s_[20:25, 30:35, 10:13], like=qsm)
    straight = cut_patches(qsm, qsm, lesion, size=(32, 32, 8)).images
    spacing = np.abs(orientation).T @ np.array([0.75, 0.75, 3.0])
    stored_affine = pose(orientation, tuple(spacing))
    order = np.argmax(np.abs(orientation), axis=0)
    signs = np.sign(orientation.sum(axis=0))

    def stored(volume: Volume) -> Volume:
        data = volume.data.transpose(order)
        return Volume(np.flip(data, [axis for axis in range(3) if signs[axis] < 0]).copy(), stored_affine)

    assert np.array_equal(to_ras(stored(lesion)).data, lesion.data)
    assert np.array_equal(cut_patches(stored(qsm), stored(qsm), stored(lesion), size=(32, 32, 8)).images, straight)


def test_lesion_at_the_edge_of_the_field_of_view_is_padded_and_told():
    qsm = brain()
    lesions = labelled(np.s_[0:4, 30:34, 22:24], np.s_[20:25, 30:35, 10:13], like=qsm)
    patches = cut_patches(qsm, qsm, lesions, size=(32, 32, 8))
    assert patches.remarks == {1: ["reaches the edge of the field of view"], 2: []}
    assert patches.images[0, 2].sum() == 4 * 4 * 2
    assert not patches.images[0, :, :10].any() and patches.images[0, 0, 16:].any()
    assert patches.seen[1]


def test_lesion_larger_than_the_patch_is_told():
    qsm = brain()
    patches = cut_patches(qsm, qsm, labelled(np.s_[5:50, 30:34, 10:12], like=qsm), size=(32, 32, 8))
    assert patches.remarks == {1: ["larger than the patch: only its middle was seen"]}
    assert patches.seen == {1: True}


def test_masked_lesion_is_told_and_not_judged_if_most_is_gone():
    qsm = brain()
    lesions = labelled(np.s_[10:14, 10:14, 5:7], np.s_[30:34, 30:34, 5:7], np.s_[45:49, 45:49, 5:7], like=qsm)
    qsm.data[10:14, 10:14, 5:7] = 0
    qsm.data[30:31, 30:34, 5:7] = 0
    patches = cut_patches(qsm, qsm, lesions, size=(32, 32, 8))
    assert patches.remarks == {1: ["QSM is zero in 100 % of it"], 2: ["QSM is zero in 25 % of it"], 3: []}
    assert patches.seen == {1: False, 2: True, 3: True}


def test_no_lesion_gives_no_patch():
    qsm = brain()
    assert cut_patches(qsm, qsm, labelled(like=qsm), size=(32, 32, 8)).images.shape == (0, 3, 32, 32, 8)


def test_grids_that_differ_are_refused():
    qsm = brain()
    with pytest.raises(ValueError, match="different grids"):
        cut_patches(qsm, brain(shape=(60, 60, 20)), labelled(like=qsm), size=(32, 32, 8))


@pytest.mark.parametrize("spacing", [(0.75, 0.75, 1.0), (1.0, 1.0, 3.0), (0.5, 0.5, 2.0)], ids=str)
def test_other_spacings_are_brought_to_the_networks(spacing):
    """A ball of 8 mm keeps its place and its size in mm."""
    shape = tuple(int(60 / s) for s in spacing)
    affine = np.diag([*spacing, 1.0])
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * spacing
    ball = np.linalg.norm(index - 30, axis=-1) < 8
    qsm = Volume(np.where(ball, 0.05, -0.02).astype(np.float32), affine)
    patches = cut_patches(qsm, qsm, qsm.like(ball.astype(np.int32)), size=(32, 32, 8))
    volume = patches.images[0, 2].sum() * 0.75 * 0.75 * 3
    assert volume == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.06)
    inside = patches.images[0, 2] > 0
    assert np.abs(np.argwhere(inside).mean(axis=0) - (15.5, 15.5, 3.5)).max() < 0.8
    assert patches.images[0, 0][inside].mean() == pytest.approx(0.07 / QSM_SCALE_PPM, rel=0.1)


def test_nearly_the_right_spacing_is_left_as_it_is():
    volume = Volume(np.random.default_rng(0).random((10, 10, 8)), np.diag([0.78, 0.72, 3.2, 1]))
    assert np.array_equal(on_spacing(volume, (0.75, 0.75, 3.0)).data, volume.data)


def test_unit_is_told_by_the_values():
    rng = np.random.default_rng(0)
    ppm = np.where(rng.random((30, 30, 30)) < 0.5, 0, rng.normal(-0.01, 0.03, (30, 30, 30)))
    ppm[:3, :3] = 0.25
    map_ppm, unit = susceptibility_ppm(Volume(ppm, np.eye(4)), name="x")
    assert unit == "ppm" and map_ppm.data is ppm
    converted, unit = susceptibility_ppm(Volume((1000 * ppm).astype(np.float32), np.eye(4)), name="x")
    assert unit == "ppb"
    assert converted.data == pytest.approx(ppm, abs=1e-5)


def test_inverted_sign_is_seen_by_the_veins():
    values = np.random.default_rng(0).normal(-0.01, 0.02, (30, 30, 30))
    values[:1, :3] = 0.3
    assert not looks_inverted(Volume(values, np.eye(4)))
    assert looks_inverted(Volume(-values, np.eye(4)))


def test_other_maps_are_refused():
    rng = np.random.default_rng(0)
    phase = rng.uniform(-3.14, 3.14, (30, 30, 30))
    with pytest.raises(InputError, match="neither ppm nor ppb"):
        susceptibility_ppm(Volume(phase, np.eye(4)), name="phase.nii")
    with pytest.raises(InputError, match="neither ppm nor ppb"):
        susceptibility_ppm(Volume(np.zeros((4, 4, 4)), np.eye(4)), name="zero.nii")
