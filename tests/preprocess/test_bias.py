"""Bias field correction against a known field."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from volumes import OBLIQUE, RAS, pose

from msrim.image import Volume, resample
from msrim.preprocess.bias import correct_bias
from msrim.preprocess.template import load_template


@pytest.fixture(scope="module")
def biased_head():
    """Template on an oblique grid of 3 mm slices, the same times a field of 15 % deviation, and the brain."""
    affine = pose(OBLIQUE @ RAS, (1.8, 1.8, 3.0), origin_mm=(-120.0, -130.0, -60.0))
    grid = Volume(np.zeros((125, 125, 60), np.float32), affine)
    clean = resample(load_template(), grid)
    brain = clean.like(clean.data > 0.1)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in grid.shape], indexing="ij")
    log_field = x - 0.7 * y**2 + 0.8 * x * z + 0.5 * np.sin(3 * y)
    log_field *= 0.15 / log_field[brain.data].std()
    return clean, clean.like((clean.data * np.exp(log_field)).astype(np.float32)), brain


def test_a_known_field_is_removed(biased_head):
    clean, head, brain = biased_head
    corrected, as_if_clean = correct_bias(head, brain), correct_bias(clean, brain)
    # Of a deviation of 0.15, a constant factor being free. What N4 takes for a field in clean anatomy is not counted.
    left = np.log(corrected.data[brain.data] / as_if_clean.data[brain.data])
    assert left.std() < 0.025
    np.testing.assert_array_equal(corrected.affine, head.affine)


def test_what_lies_outside_the_mask_is_divided_too(biased_head):
    _, head, brain = biased_head
    left = brain.data & (np.arange(head.shape[0]) < 62)[:, None, None]
    corrected = correct_bias(head, brain.like(left))
    right = brain.data & ~left
    assert np.abs(np.log(corrected.data[right] / head.data[right])).min() > 0


def test_the_number_of_threads_changes_no_bit_and_is_given_back(biased_head):
    _, head, brain = biased_head
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    results = []
    for threads in (1, 2):
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        results.append(correct_bias(head, brain).data)
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_array_equal(*results)


def test_an_empty_mask_leaves_the_image_alone(biased_head):
    _, head, brain = biased_head
    np.testing.assert_array_equal(correct_bias(head, brain.like(np.zeros(head.shape, bool))).data, head.data)
