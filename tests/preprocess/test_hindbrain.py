"""Head labels without gaps, the hindbrain where it lies."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.image import Volume
from msrim.preprocess.hindbrain import assign_hindbrain, without_gaps
from msrim.transform import apply_transform
from tests.benchmarks.hindbrain import in_mni

CORTEX, WHITE, CEREBELLAR_GREY, CEREBELLAR_WHITE, BRAINSTEM = 3, 5, 6, 7, 8
# Far from the tentorium, whose place is what heads differ in; left and right.
PLACES = {
    "pons": ((0, -28, -34), BRAINSTEM),
    "medulla": ((0, -38, -52), BRAINSTEM),
    "vermis": ((0, -65, -22), CEREBELLAR_WHITE),
    "cerebellar hemisphere": ((-30, -65, -42), CEREBELLAR_WHITE),
    "dentate nucleus": ((16, -56, -34), CEREBELLAR_WHITE),
    "thalamus": ((12, -18, 8), WHITE),
    "splenium": ((0, -38, 16), WHITE),
    "occipital pole": ((-10, -98, 4), WHITE),
    "temporal pole": ((-38, 14, -34), WHITE),
    "inferior temporal gyrus": ((54, -34, -24), WHITE),
    "hippocampus": ((-28, -22, -14), WHITE),
    "gyrus rectus": ((4, 40, -24), WHITE),
}


def upside_down() -> np.ndarray:
    """MNI from a world that is turned and 10 % smaller."""
    matrix = np.diag([1.1, -1.1, -1.1, 1.0])
    matrix[:3, 3] = (5, -8, 12)
    return matrix


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("label", [WHITE, CEREBELLAR_WHITE, BRAINSTEM])
def test_the_hindbrain_lies_where_anatomy_has_it(name, label):
    """Whatever the network took it for, and in whichever world."""
    place, expected = PLACES[name]
    affine = np.eye(4)
    affine[:3, 3] = apply_transform(np.linalg.inv(upside_down()), np.array(place, float))
    placed = assign_hindbrain(Volume(np.full((1, 1, 1), label, np.uint8), affine), mni_from_world=upside_down())
    assert placed.data.item() == expected


def test_grey_matter_stays_grey_and_what_is_no_tissue_stays():
    affine = np.eye(4)
    affine[:3, 3] = (-30, -65, -42)
    labels = Volume(np.array([0, 1, 2, CORTEX, CEREBELLAR_GREY], np.uint8).reshape(1, 1, 5), affine)
    assert assign_hindbrain(labels, mni_from_world=np.eye(4)).data.ravel().tolist() == [0, 1, 2, 6, 6]
    above = Volume(labels.data, np.eye(4))
    assert assign_hindbrain(above, mni_from_world=np.eye(4)).data.ravel().tolist() == [0, 1, 2, 3, 3]


def test_no_voxel_of_the_brain_is_without_a_label_and_none_far_outside_has_a_new_one():
    brain = np.zeros((20, 20, 20), bool)
    brain[4:12, 4:12, 4:12] = True
    labels = np.zeros(brain.shape, np.uint8)
    labels[6:12, 6:12, 6:12], labels[18:] = WHITE, 1
    filled = without_gaps(Volume(labels, np.eye(4)), Volume(brain, np.eye(4))).data
    assert (filled[brain] == WHITE).all()
    assert (filled[:2] == 0).all() and (filled[18:] == 1).all()


def test_labels_of_nothing_stay_nothing():
    nothing = Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    brain = nothing.like(np.ones((4, 4, 4), bool))
    assert not without_gaps(nothing, brain).data.any()


def test_a_real_heads_hindbrain_is_found_by_its_place(shared_data):
    """A head without any label of its own hindbrain, aligned with the template; it is one of those that were fitted."""
    truth = in_mni(shared_data / "head-labels" / "training_seg_01.nii.gz")
    blind = truth.like(np.array([0, 1, 2, 3, 4, 5, 3, 5, 5], np.uint8)[truth.data])
    said = assign_hindbrain(blind, mni_from_world=np.eye(4)).data
    below, above = truth.data > 5, (truth.data > 2) & (truth.data < 6)
    assert (said > 5)[below].mean() > 0.9
    assert (said > 5)[above].mean() < 0.02
