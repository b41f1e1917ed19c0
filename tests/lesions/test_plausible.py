"""What lies where no lesion can be."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.image import Volume
from msrim.labels import HeadLabel
from msrim.lesions.plausible import plausible_lesions

SHAPE = (12, 12, 8)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_what_ends_in_the_outermost_thick_slice_goes(axis):
    spacing = np.where(np.arange(3) == axis, 6.5, 0.9)
    brain, lesions = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    brain[2:10, 2:10, 1:7] = True
    lesions[3:5, 3:5, 1] = lesions[3:5, 3:5, 6] = True
    lesions[7:9, 7:9, 5:7] = lesions[7:9, 3:5, 1:3] = lesions[3:5, 7:9, 3] = True
    kept = lesions.copy()
    kept[3:5, 3:5, [1, 6]] = False
    lesions, kept, brain = (np.moveaxis(mask, 2, axis) for mask in (lesions, kept, brain))
    mask, inside = (Volume(data, np.diag([*spacing, 1.0])) for data in (lesions, brain))
    white = mask.like(np.full(mask.shape, HeadLabel.CEREBRAL_WHITE, np.uint8))
    np.testing.assert_array_equal(plausible_lesions(mask, brain=inside, labels=white, thick_mm=5).data, kept)
    np.testing.assert_array_equal(plausible_lesions(mask, brain=inside, labels=white, thick_mm=7).data, lesions)


def test_what_lies_in_the_ventricles_goes_and_what_leans_on_them_stays():
    labels = np.full(SHAPE, HeadLabel.CEREBRAL_WHITE, np.uint8)
    labels[4:8] = HeadLabel.VENTRICLES
    brain = Volume(np.ones(SHAPE, bool), np.eye(4))
    lesions = np.zeros(SHAPE, bool)
    # Wholly in the ventricles, by half, and by four fifths.
    lesions[5, 2:4, 2:4] = lesions[1:9, 8, 2] = lesions[3:8, 8, 6] = True
    kept = lesions.copy()
    kept[5, 2:4, 2:4] = kept[3:8, 8, 6] = False
    found = plausible_lesions(brain.like(lesions), brain=brain, labels=brain.like(labels), thick_mm=5)
    np.testing.assert_array_equal(found.data, kept)
