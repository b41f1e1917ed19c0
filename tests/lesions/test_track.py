"""Lesions followed through visits, and the symmetry of it."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.image import Volume
from msrim.lesions.split import label_lesions
from msrim.lesions.track import (
    CHANGE_COLUMNS,
    CHANGES,
    TrackedLesion,
    change_of,
    lesions_of_visit,
    summarise_changes,
    track_lesions,
    write_changes_tsv,
)

AFFINE = np.diag([2.0, 1.0, 1.0, 1.0])
SWAPPED = {
    "new": "vanished",
    "vanished": "new",
    "enlarging": "shrinking",
    "shrinking": "enlarging",
    "merged": "split",
    "split": "merged",
    "stable": "stable",
}


def boxes(*corners_and_sizes) -> np.ndarray:
    mask = np.zeros((60, 20, 20), bool)
    for (x, y, z), (a, b, c) in corners_and_sizes:
        mask[x : x + a, y : y + b, z : z + c] = True
    return mask


def one_of_each() -> tuple[Volume, Volume]:
    """Along x: new, enlarging, stable, shrinking, vanished, merged, split."""
    before = boxes(
        ((8, 2, 2), (3, 3, 3)),
        ((16, 2, 2), (4, 4, 4)),
        ((24, 2, 2), (4, 5, 5)),
        ((32, 2, 2), (3, 3, 3)),
        ((40, 2, 2), (2, 2, 3)),
        ((43, 2, 2), (3, 2, 3)),
        ((50, 2, 2), (7, 3, 3)),
    )
    after = boxes(
        ((2, 2, 2), (2, 3, 3)),
        ((8, 2, 2), (4, 4, 4)),
        ((16, 2, 2), (4, 4, 4)),
        ((24, 2, 2), (4, 3, 3)),
        ((40, 2, 2), (6, 2, 3)),
        ((50, 2, 2), (3, 3, 3)),
        ((54, 2, 2), (3, 3, 3)),
    )
    return Volume(label_lesions(before), AFFINE), Volume(label_lesions(after), AFFINE)


def test_every_change_is_recognised_with_its_volumes():
    found = {lesion.change: lesion for lesion in track_lesions(*one_of_each())}
    volumes = {change: (found[change].baseline_mm3, found[change].followup_mm3) for change in CHANGES}
    assert volumes == {
        "new": (0, 36),
        "enlarging": (54, 128),
        "stable": (128, 128),
        "shrinking": (200, 72),
        "vanished": (54, 0),
        "merged": (60, 72),
        "split": (126, 108),
    }
    assert (found["shrinking"].new_mm3, found["shrinking"].vanished_mm3, found["shrinking"].change_mm3) == (
        0,
        128,
        -128,
    )
    assert (found["merged"].new_mm3, found["merged"].vanished_mm3) == (12, 0)
    assert (len(found["merged"].baseline_ids), len(found["merged"].followup_ids)) == (2, 1)


def test_numbers_lead_to_the_lesions():
    before, after = one_of_each()
    for lesion in track_lesions(before, after):
        assert np.isin(before.data, lesion.baseline_ids).sum() * 2 == lesion.baseline_mm3 or not lesion.baseline_ids
        assert np.isin(after.data, lesion.followup_ids).sum() * 2 == lesion.followup_mm3 or not lesion.followup_ids


@pytest.mark.parametrize("seed", range(5))
def test_swapped_visits_swap_lesion_by_lesion(seed):
    rng = np.random.default_rng(seed)
    before, after = (Volume(label_lesions(rng.random((24, 24, 24)) > 0.93), AFFINE) for _ in range(2))
    if seed == 0:
        before, after = one_of_each()
    forth, back = track_lesions(before, after), track_lesions(after, before)
    assert len(forth) > 5
    for one, other in zip(forth, back, strict=True):
        assert other == TrackedLesion(
            one.id,
            SWAPPED[one.change],
            one.followup_ids,
            one.baseline_ids,
            one.followup_mm3,
            one.baseline_mm3,
            -one.change_mm3,
            one.vanished_mm3,
            one.new_mm3,
        )


def test_rows_add_up_to_the_masks():
    before, after = one_of_each()
    summary = summarise_changes(track_lesions(before, after))
    assert summary["baseline_mm3"] == np.count_nonzero(before.data) * 2
    assert summary["followup_mm3"] == np.count_nonzero(after.data) * 2
    assert summary["change_mm3"] == summary["new_mm3"] - summary["vanished_mm3"]
    assert summary["lesions"] == dict.fromkeys(CHANGES, 1)


def test_small_changes_are_stable():
    assert change_of(1, 1, 20.0, 29.9) == "stable"  # under 10 mm3
    assert change_of(1, 1, 20.0, 30.0) == "enlarging"
    assert change_of(1, 1, 1000.0, 1100.0) == "stable"  # under 15 %
    assert change_of(1, 1, 1100.0, 900.0) == "shrinking"


def test_visits_without_lesions():
    empty = Volume(np.zeros((4, 4, 4), int), AFFINE)
    one = empty.like(np.pad(np.ones((2, 2, 2), int), 1))
    assert track_lesions(empty, empty) == []
    assert [lesion.change for lesion in track_lesions(empty, one)] == ["new"]
    assert [lesion.change for lesion in track_lesions(one, empty)] == ["vanished"]


def test_other_grids_are_refused():
    before, after = one_of_each()
    with pytest.raises(ValueError, match="different grids"):
        track_lesions(before, Volume(after.data, np.eye(4)))


def test_table(tmp_path):
    table = write_changes_tsv(track_lesions(*one_of_each()), tmp_path / "c.tsv").read_text().splitlines()
    assert table[0].split("\t") == list(CHANGE_COLUMNS)
    assert len(table) == 8
    new = next(line.split("\t") for line in table if "\tnew\t" in line)
    assert new[2] == "n/a" and new[4:8] == ["0.000", "36.000", "36.000", "36.000"]
    empty = write_changes_tsv([], tmp_path / "e.tsv").read_text()
    assert empty.splitlines()[0] == table[0] and len(empty.splitlines()) == 1


def test_without_a_smallest_size_the_background_is_no_lesion():
    parts = Volume(np.array([[[1, 1, 0, 2]]]), np.eye(4))
    found = lesions_of_visit(parts, parts.like(parts.data > 0), min_mm3=0)
    assert found.data.tolist() == [[[1, 1, 0, 2]]]


def test_fragments_do_not_make_a_split():
    """A lesion that shrank to one piece and a voxel beside it is a shrinking one."""
    before = boxes(((10, 2, 2), (8, 5, 5)))
    after = boxes(((10, 2, 2), (4, 5, 5)), ((16, 2, 2), (1, 1, 1)))
    rows = track_lesions(Volume(label_lesions(before), AFFINE), Volume(label_lesions(after), AFFINE))
    assert [(row.change, row.followup_ids) for row in rows] == [("shrinking", (1, 2))]


def test_a_visit_s_lesions_are_the_pieces_of_the_parts():
    parts = Volume(np.repeat(np.array([1, 1, 1, 1, 2, 2, 2, 3])[:, None, None], 3, axis=1), AFFINE)
    mask = parts.like(parts.data > 0)
    mask.data[1, :, :] = False
    mask.data[7, :2, :] = False
    found = lesions_of_visit(parts, mask, min_mm3=3.0)
    assert found.data[:, 0, 0].tolist() == [3, 0, 2, 2, 1, 1, 1, 0]
    assert found.data[7].max() == 0  # 2 mm3 are left of the third
