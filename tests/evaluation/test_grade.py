"""Figures of painted lesions whose chance to be found is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from msrim.evaluation.grade import CONTRASTS, GRADE_COLUMNS, PaintedLesion, summarise_grade, write_grade_tsv
from msrim.evaluation.statistics import wilson_interval

SIZES_MM3 = [10.0, 25.0, 63.0, 160.0, 400.0, 1000.0]


def lesions(*, found_from_mm3: dict[str, float], spread: float = 0.0, repeats: int = 4) -> list[PaintedLesion]:
    """Half are found at the given volumes; with a spread as a logistic curve of the log volume says."""
    rng = np.random.default_rng(0)
    rows = []
    for volume in SIZES_MM3 * repeats:
        for contrast in CONTRASTS:
            odds = np.log(volume / found_from_mm3[contrast])
            found = rng.random() < 1 / (1 + np.exp(-odds / spread)) if spread else odds > 0
            rows.append(
                PaintedLesion(len(rows) + 1, volume, volume, contrast, 1.0, 0, 0, 0, 0.9 * volume if found else None)
            )
    return rows


def grade(rows: list[PaintedLesion], **kwargs) -> dict:
    given = {"sizes_mm3": SIZES_MM3, "false_positives_mm3": [], "lost": 0, "seed": 0}
    return summarise_grade(rows, **(given | kwargs))


def test_the_smallest_lesion_found_is_that_of_the_curve():
    true = {"faint": 200.0, "medium": 100.0, "own": 50.0}
    told = grade(lesions(found_from_mm3=true, spread=0.3, repeats=40))["smallest_found_mm3"]
    for contrast, half in true.items():
        eighty = half * np.exp(0.3 * np.log(4))
        assert told[contrast]["value"] == pytest.approx(eighty, rel=0.15)
        assert told[contrast]["low"] < eighty < told[contrast]["high"]


def test_counts_and_intervals_are_those_of_the_lesions():
    told = grade(lesions(found_from_mm3=dict.fromkeys(CONTRASTS, 30.0)), false_positives_mm3=[5.0, 7.5], lost=1)
    assert [size["found"] for size in told["sizes"]] == [0, 0, 12, 12, 12, 12]
    assert told["contrasts"]["faint"]["found"] == 16
    low, high = wilson_interval(48, 72)
    assert (told["sensitivity"]["low"], told["sensitivity"]["high"]) == (round(low, 4), round(high, 4))
    assert told["false_positives"] == {"lesions": 2, "volume_mm3": 12.5}
    assert told["lost_lesions"] == 1
    assert told["volume_ratio"]["median"] == 0.9
    assert 25 < told["smallest_found_mm3"]["own"]["value"] < 63
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(
    ("from_mm3", "smallest", "words"),
    [
        (1.0, 10.0, "from 10 mm3 on (the smallest painted)"),
        (1e6, None, "fewer than 80 % are found even at 1,000 mm3"),
    ],
)
def test_all_found_or_none(from_mm3, smallest, words):
    told = grade(lesions(found_from_mm3=dict.fromkeys(CONTRASTS, from_mm3)))
    assert told["smallest_found_mm3"]["own"]["value"] == smallest
    assert words in told["statement"]


def test_a_scan_without_room_for_painting():
    told = grade([])
    assert told["sensitivity"]["value"] is None
    assert told["statement"] == "no lesion could be painted into this scan"


def test_the_table_has_the_described_columns(tmp_path):
    rows = [
        PaintedLesion(1, 10.0, 8.0, "own", 2.5, 1.0, 2.0, 3.0, None),
        PaintedLesion(2, 25.0, 22.0, "own", 2.5, 0, 0, 0, 20.0),
    ]
    lines = write_grade_tsv(rows, tmp_path / "grade.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t") == list(GRADE_COLUMNS)
    assert lines[1].split("\t")[-1] == "n/a" and lines[2].split("\t")[-1] == "20.000"
