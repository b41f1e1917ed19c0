"""What a correction does to the lesions of two visits: it touches what somebody has touched, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.image import Volume
from msrim.lesions.change import ChangedTissue
from msrim.lesions.correct import with_corrections

SHAPE = (30, 20, 10)
ONE, OTHER, THIRD = (slice(3, 8),) * 2, (slice(14, 19), slice(3, 8)), (slice(22, 27), slice(10, 15))


def mask(*boxes) -> Volume:
    data = np.zeros(SHAPE, bool)
    for box in boxes:
        data[(*box, slice(3, 7))] = True
    return Volume(data, np.eye(4))


def given(found: Volume, corrected: Volume) -> tuple[Volume, Volume, Volume]:
    shares = corrected.data, corrected.data & ~found.data, found.data & ~corrected.data
    return tuple(found.like(share.astype(np.float32)) for share in shares)


def tissue(baseline: Volume, followup: Volume) -> ChangedTissue:
    new, vanished = followup.data & ~baseline.data, baseline.data & ~followup.data
    return ChangedTissue(baseline, followup, baseline.like(new), baseline.like(vanished))


def as_boxes(volume: Volume) -> list[str]:
    """Which of the boxes are marked; nothing else may be."""
    boxes = {"one": ONE, "other": OTHER, "third": THIRD}
    marked = [name for name, box in boxes.items() if volume.data[(*box, slice(3, 7))].all()]
    np.testing.assert_array_equal(volume.data, mask(*(boxes[name] for name in marked)).data)
    return marked


def test_nothing_corrected_changes_nothing():
    before = tissue(mask(ONE, OTHER), mask(ONE, THIRD))
    after = with_corrections(before, baseline=None, followup=given(mask(ONE, THIRD), mask(ONE, THIRD)))
    for name in ("baseline", "followup", "new", "vanished"):
        np.testing.assert_array_equal(getattr(after, name).data, getattr(before, name).data)


def test_a_false_lesion_removed_at_both_visits_leaves_no_trace():
    both = given(mask(ONE, OTHER), mask(ONE))
    after = with_corrections(tissue(mask(ONE, OTHER), mask(ONE, OTHER)), baseline=both, followup=both)
    assert [as_boxes(m) for m in (after.baseline, after.followup, after.new, after.vanished)] == [
        ["one"],
        ["one"],
        [],
        [],
    ]


@pytest.mark.parametrize("visit", ["baseline", "followup"])
def test_a_lesion_removed_at_one_visit_alone_is_new_or_vanished(visit):
    edits = {"baseline": None, "followup": None} | {visit: given(mask(ONE, OTHER), mask(ONE))}
    after = with_corrections(tissue(mask(ONE, OTHER), mask(ONE, OTHER)), **edits)
    changed, unchanged = (after.vanished, after.new) if visit == "followup" else (after.new, after.vanished)
    assert as_boxes(changed) == ["other"] and as_boxes(unchanged) == []


def test_a_false_new_lesion_goes_and_a_missed_one_comes():
    before = tissue(mask(ONE), mask(ONE, OTHER))
    after = with_corrections(before, baseline=None, followup=given(mask(ONE, OTHER), mask(ONE, THIRD)))
    assert (as_boxes(after.followup), as_boxes(after.new), as_boxes(after.vanished)) == (
        ["one", "third"],
        ["third"],
        [],
    )


def test_of_a_removed_lesion_no_rim_is_left_where_the_comparison_drew_it_larger():
    wide = mask(ONE)
    wide.data[1:10, 1:10, 1:9] = True
    after = with_corrections(tissue(wide, wide), baseline=None, followup=given(mask(ONE, OTHER), mask(OTHER)))
    assert not after.followup.data[1:10, 1:10, 1:9].any()
    np.testing.assert_array_equal(after.vanished.data, wide.data)


def test_an_erased_part_has_vanished_and_the_rest_stays():
    rest = mask(ONE)
    rest.data[3:5] = False
    after = with_corrections(tissue(mask(ONE), mask(ONE)), baseline=None, followup=given(mask(ONE), rest))
    np.testing.assert_array_equal(after.followup.data, rest.data)
    np.testing.assert_array_equal(after.vanished.data, mask(ONE).data & ~rest.data)
