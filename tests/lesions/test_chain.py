"""One table for three visits and more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from msrim.image import Volume
from msrim.lesions.chain import chain_lesions, write_chain_tsv
from msrim.lesions.split import label_lesions
from msrim.lesions.track import TrackedLesion, track_lesions

AFFINE = np.diag([2.0, 1.0, 1.0, 1.0])


def boxes(*corners_and_sizes) -> np.ndarray:
    mask = np.zeros((60, 20, 20), bool)
    for (x, y, z), (a, b, c) in corners_and_sizes:
        mask[x : x + a, y : y + b, z : z + c] = True
    return mask


def test_three_visits_chain_into_one_table(tmp_path):
    """One lesion that comes and goes, one that grows at last, two that merge and stay so."""
    first = boxes(((20, 2, 2), (4, 4, 4)), ((40, 2, 2), (2, 2, 3)), ((43, 2, 2), (3, 2, 3)))
    second = boxes(((2, 2, 2), (3, 3, 3)), ((20, 2, 2), (4, 4, 4)), ((40, 2, 2), (6, 2, 3)))
    third = boxes(((20, 2, 2), (4, 4, 8)), ((40, 2, 2), (6, 2, 3)))
    visits = [Volume(label_lesions(mask), AFFINE) for mask in (first, second, third)]
    # The pair of visits 2 and 3 numbers visit 2 in its own way.
    renumbered = visits[1].like(np.array([0, 3, 1, 2])[visits[1].data])
    pairs = [track_lesions(visits[0], visits[1]), track_lesions(renumbered, visits[2])]
    chains = chain_lesions(pairs, [(visits[1], renumbered)])
    assert [(row.volumes_mm3, row.changes) for row in chains] == [
        ((128.0, 128.0, 256.0), ("stable", "enlarging")),
        ((60.0, 72.0, 72.0), ("merged", "stable")),
        ((0.0, 54.0, 0.0), ("new", "vanished")),
    ]
    assert [row.expansions for row in chains] == [(None, None)] * 3
    table = write_chain_tsv(chains, tmp_path / "t.tsv", visits=["ses-1", "ses-2", "ses-3"]).read_text().splitlines()
    assert table[0].split("\t") == [
        *("id", "ses-1_mm3", "ses-2_mm3", "ses-3_mm3", "ses-1_to_ses-2", "ses-2_to_ses-3"),
        *("ses-1_to_ses-2_expansion_percent_per_year", "ses-2_to_ses-3_expansion_percent_per_year"),
        *("ses-1_to_ses-2_expansion_error_percent_per_year", "ses-2_to_ses-3_expansion_error_percent_per_year"),
        "expansion_constancy",
    ]
    assert table[3] == "3\t0.000\t54.000\t0.000\tnew\tvanished" + "\tn/a" * 5


def expanding(number, volume_mm3, *, percent_per_year, error_percent) -> TrackedLesion:
    stable = TrackedLesion(number, "stable", (number,), (number,), volume_mm3, volume_mm3, 0.0, 0.0, 0.0)
    return replace(stable, expansion_percent_per_year=percent_per_year, expansion_error_percent=error_percent)


def test_expansion_is_chained_with_its_error_and_constancy(tmp_path):
    """Half a year and two; at the second step two parts, of which the larger counts three times."""
    lesions = Volume(np.array([1, 1]).reshape(2, 1, 1), AFFINE), Volume(np.array([1, 2]).reshape(2, 1, 1), AFFINE)
    pairs = [
        [expanding(1, 40.0, percent_per_year=20.0, error_percent=4.0)],
        [
            expanding(1, 30.0, percent_per_year=12.0, error_percent=6.0),
            expanding(2, 10.0, percent_per_year=4.0, error_percent=10.0),
        ],
    ]
    [chain] = chain_lesions(pairs, [lesions], years=[0.5, 2.0])
    assert chain.expansions == (20.0, 10.0)
    assert chain.errors == (8.0, 3.5)
    row = write_chain_tsv([chain], tmp_path / "t.tsv", visits=["a", "b", "c"]).read_text().splitlines()[1]
    assert row.split("\t")[-5:] == ["20.00", "10.00", "8.00", "3.50", "0.5"]
    [undated] = chain_lesions(pairs, [lesions])
    assert undated.errors == (None, None)


def test_what_only_the_last_pair_sees_was_absent_before():
    one = TrackedLesion(1, "new", (), (1,), 0.0, 20.0, 20.0, 20.0, 0.0)
    empty = Volume(np.zeros((2, 2, 2), int), AFFINE)
    assert [row.changes for row in chain_lesions([[], [one]], [(empty, empty)])] == [("absent", "new")]
