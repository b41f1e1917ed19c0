"""What lies where no lesion can be."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.image import Volume
from msrim.labels import HeadLabel
from msrim.lesions.plausible import Seen, implausible_everywhere, plausible_lesions

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
    of_scan = {"flair": mask.like(np.ones(mask.shape)), "brain": inside, "labels": white}
    np.testing.assert_array_equal(plausible_lesions(mask, **of_scan, thick_mm=5).data, kept)
    np.testing.assert_array_equal(plausible_lesions(mask, **of_scan, thick_mm=7).data, lesions)


def test_what_lies_in_the_ventricles_goes_and_what_leans_on_them_stays():
    labels = np.full(SHAPE, HeadLabel.CEREBRAL_WHITE, np.uint8)
    labels[4:8] = HeadLabel.VENTRICLES
    brain = Volume(np.ones(SHAPE, bool), np.eye(4))
    lesions = np.zeros(SHAPE, bool)
    # Wholly in the ventricles, by half, and by four fifths.
    lesions[5, 2:4, 2:4] = lesions[1:9, 8, 2] = lesions[3:8, 8, 6] = True
    kept = lesions.copy()
    kept[5, 2:4, 2:4] = kept[3:8, 8, 6] = False
    found = plausible_lesions(
        brain.like(lesions), flair=brain.like(lesions * 1.0), brain=brain, labels=brain.like(labels), thick_mm=5
    )
    np.testing.assert_array_equal(found.data, kept)


@pytest.mark.parametrize("slice_mm", [1.0, 6.0])
def test_cortex_that_is_no_brighter_than_cortex_goes(slice_mm):
    """In the cortex as bright as it is, and brighter; across its edge by less than half; in the white matter."""
    rng = np.random.default_rng(0)
    labels = np.full((20, 12, 8), HeadLabel.CEREBRAL_WHITE, np.uint8)
    labels[10:] = HeadLabel.CORTEX
    flair = np.where(labels == HeadLabel.CORTEX, 100, 80) + rng.normal(0, 5, labels.shape)
    lesions = np.zeros(labels.shape, bool)
    normal, bright, across, deep = (
        np.s_[12:15, 1:4, 3:5],
        np.s_[12:15, 7:10, 3:5],
        np.s_[6:12, 5, 3:5],
        np.s_[2:4, 9, 3],
    )
    for place, brightness in ((normal, 105), (bright, 115), (across, 105), (deep, 95)):
        lesions[place], flair[place] = True, brightness
    kept = lesions.copy()
    # Where slices are thick, the cortex is not told from what lies beside it.
    kept[normal] = slice_mm > 5
    grid = np.diag([1.0, 1.0, slice_mm, 1.0])
    mask, scan, names = (Volume(data, grid) for data in (lesions, flair, labels))
    everywhere = mask.like(np.ones(mask.shape, bool))
    found = plausible_lesions(mask, flair=scan, brain=everywhere, labels=names, thick_mm=5)
    np.testing.assert_array_equal(found.data, kept)
    # A scanner's own units change nothing.
    scaled = scan.like(0.3 * flair - 70)
    assert (plausible_lesions(mask, flair=scaled, brain=everywhere, labels=names, thick_mm=5).data == found.data).all()


@pytest.mark.parametrize("swapped", [False, True])
def test_what_one_visit_shows_as_a_lesion_stays_at_both(swapped):
    """In the ventricles of both visits, of the one it is marked at, and of one of the two it is marked at."""
    narrow, wide = (np.full(SHAPE, HeadLabel.CEREBRAL_WHITE, np.uint8) for _ in range(2))
    narrow[4:6], wide[4:8] = HeadLabel.VENTRICLES, HeadLabel.VENTRICLES
    marked = np.zeros((2, *SHAPE), bool)
    marked[:, 4:6, 1:3, 2] = True
    marked[1, 6:8, 5:7, 2] = True
    marked[:, 6:8, 9:11, 2] = True
    # A lesion beyond the ventricles, at the narrow visit alone.
    marked[0, 9:11, 5:7, 5] = True
    refused = np.zeros(SHAPE, bool)
    refused[4:6, 1:3, 2] = refused[6:8, 5:7, 2] = True
    brain = Volume(np.ones(SHAPE, bool), np.eye(4))
    # The second visit's scan lies elsewhere.
    moved = np.eye(4)
    moved[:3, 3] = 5.0, -2.0, 3.0
    visits = [
        Seen(brain.like(marked[0]), brain, brain, brain.like(narrow), np.eye(4)),
        Seen(brain.like(marked[1]), Volume(brain.data, moved), Volume(brain.data, moved), Volume(wide, moved), moved),
    ]
    found = implausible_everywhere(visits[::-1] if swapped else visits, thick_mm=5)
    np.testing.assert_array_equal(found.data, refused)
