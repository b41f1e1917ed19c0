"""The template lies where MNI space says."""

from __future__ import annotations

import warnings

import numpy as np

from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.transform import apply_transform


def test_the_template_is_a_brain_in_mni_space():
    template, mask = load_template(), load_template_brain_mask()
    assert template.spacing.tolist() == [1, 1, 1]
    assert 1_700_000 < mask.data.sum() < 2_000_000

    def value(x, y, z):
        return template.data[tuple(apply_transform(np.linalg.inv(template.affine), np.array([x, y, z])).astype(int))]

    # Splenium, lateral ventricle, outside in front of the frontal pole.
    assert value(0, -38, 15) > 0.7
    assert 0 < value(-10, -10, 24) < 0.45
    assert value(0, 90, 0) == 0


def test_it_is_the_template_that_nilearn_gives():
    """Read from its package, because importing nilearn's functions takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nilearn.datasets import load_mni152_template

        expected = load_mni152_template(resolution=1)
    template = load_template()
    np.testing.assert_array_equal(template.data, expected.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(template.affine, expected.affine)
    template.data[:] = 0
    assert load_template().data.any()
