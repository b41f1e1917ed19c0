"""One row per lesion: volumes add up visit by visit, and each lesion stands with what became of it."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.image import Volume
from msrim.lesions.chain import chain_lesions
from msrim.lesions.join import Became, SeenAt, find_owners, join_lesions, joined_columns, write_joined_tsv
from msrim.lesions.measure import Lesion
from msrim.lesions.track import track_lesions

GRID = np.diag([2.0, 2.0, 5.0, 1.0])
VOXEL_MM3 = 20.0


def line(*numbers: int) -> Volume:
    return Volume(np.array([[numbers]]), GRID)


def lesion(number: int, voxels: int, region: str = "deep white matter", **rim) -> Lesion:
    return Lesion(number, voxels * VOXEL_MM3, 0, 0, 0, 5.0, region, None, None, 0.9, **rim)


@pytest.fixture
def joined():
    """Visit 1: lesions of 3, 2 and 1 voxels. Visit 2: the first in two parts, the second grown, one new, one unseen."""
    own = [line(1, 1, 1, 0, 2, 2, 0, 0, 0, 3, 0, 0), line(2, 0, 3, 0, 1, 1, 1, 0, 4, 0, 0, 5)]
    tables = [
        [lesion(1, 3, "periventricular"), lesion(2, 2), lesion(3, 1)],
        [
            lesion(1, 3, rim_probability=0.8, rim=True),
            lesion(2, 1, "juxtacortical", rim_probability=0.1, rim=False),
            lesion(3, 1, "periventricular", rim_probability=0.3, rim=False),
            lesion(4, 1, rim_probability=None, rim=None),
            lesion(5, 1),
        ],
    ]
    # The comparison numbers lesions in its own way and does not have the last one.
    compared = line(2, 2, 2, 0, 1, 1, 0, 0, 0, 3, 0, 0), line(1, 1, 1, 0, 2, 2, 2, 0, 3, 0, 0, 0)
    pair = track_lesions(*compared)
    chain = chain_lesions([pair], [])
    owners = [
        find_owners(own[side], [(compared[side], [_numbers(pair, each, side) for each in chain])], chain=chain)
        for side in (0, 1)
    ]
    return join_lesions(tables, chain=chain, pairs=[pair], owners=owners), tables


def _numbers(pair, chained, side):
    return [
        number for row in pair if row.id in chained.rows[0] for number in (row.baseline_ids, row.followup_ids)[side]
    ]


def test_a_lesion_has_its_volume_region_rim_and_change_in_one_row(joined):
    rows, _ = joined
    assert [row.id for row in rows] == [1, 2, 3, 4, 5]
    halved, grown, *_ = rows
    assert halved.visits == (SeenAt((1,), 60.0), SeenAt((2, 3), 40.0, 0.3, False))
    # Of two parts of one size the first; the last visit's word counts.
    assert halved.region == "juxtacortical"
    assert grown.visits == (SeenAt((2,), 40.0), SeenAt((1,), 60.0, 0.8, True))
    assert grown.steps == (Became("enlarging", 20.0, (2,)),)
    assert {row.steps[0].change: row.visits for row in rows[2:]} == {
        "vanished": (SeenAt((3,), 20.0), SeenAt()),
        "new": (SeenAt(), SeenAt((4,), 20.0)),
        None: (SeenAt(), SeenAt((5,), 20.0)),
    }


def test_every_row_of_a_visit_is_in_one_row(joined):
    rows, tables = joined
    for visit, table in enumerate(tables):
        numbers = [number for row in rows for number in row.visits[visit].ids]
        assert sorted(numbers) == [each.id for each in table]
        volumes = [row.visits[visit].volume_mm3 or 0 for row in rows]
        assert sum(volumes) == pytest.approx(sum(each.volume_mm3 for each in table))


def test_the_table_has_what_its_columns_say(joined, tmp_path):
    rows, _ = joined
    settings = {"visits": ["ses-1", "ses-2"], "rims": [False, True], "compared": True}
    lines = write_joined_tsv(rows, tmp_path / "t.tsv", **settings).read_text().splitlines()
    assert lines[0].split("\t") == list(joined_columns(**settings)) == [
        "id", "region", "ses-1_ids", "ses-1_volume_mm3", "ses-2_ids", "ses-2_volume_mm3", "ses-2_rim_probability",
        "ses-2_rim", "ses-1_to_ses-2", "ses-1_to_ses-2_mm3",
    ]  # fmt: skip
    assert lines[2].split("\t") == [
        "2", "deep white matter", "2", "40.000", "1", "60.000", "0.8000", "true", "enlarging", "20.000",
    ]  # fmt: skip
    assert lines[1].split("\t")[4] == "2,3"


def test_one_visit_is_its_own_table():
    rows = join_lesions([[lesion(1, 3), lesion(2, 1)]])
    assert [(row.id, row.visits[0].ids, row.steps) for row in rows] == [(1, (1,), ()), (2, (2,), ())]
    assert join_lesions([[]]) == []


def test_a_lesion_belongs_where_most_of_it_lies():
    chain = chain_lesions([track_lesions(line(1, 0, 2), line(1, 0, 2))], [])
    other = line(1, 1, 1, 2, 2), [[1], [2]]
    assert find_owners(line(1, 1, 1, 1, 0), [other], chain=chain) == {1: chain[0].id}
    assert find_owners(line(0, 1, 1, 1, 0), [other], chain=chain) == {1: chain[0].id}
    assert find_owners(line(0, 0, 1, 1, 1), [other], chain=chain) == {1: chain[1].id}
    assert find_owners(line(0, 0, 0, 0, 0), [other], chain=chain) == {}
