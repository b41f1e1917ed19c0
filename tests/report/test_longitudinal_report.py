"""The page of two visits: what it shows, and that it shows it in the right place."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium

from msrim.evaluation.change_grade import PaintedChange, summarise_change_grade, summarise_expansion
from msrim.image import Volume
from msrim.lesions.split import label_lesions
from msrim.lesions.track import summarise_changes, track_lesions
from msrim.manifest import StepRecord
from msrim.report.longitudinal import ChangeReport, write_change_report

SHAPE = (64, 64, 64)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = -64


def ball(x: float, y: float, z: float, radius: float) -> np.ndarray:
    points = np.stack(np.meshgrid(*[np.arange(64) * 2.0 - 64] * 3, indexing="ij"), axis=-1)
    return np.linalg.norm(points - (x, y, z), axis=-1) < radius


def two_visits(*, changed: bool = True) -> ChangeReport:
    """A ball of brain with a lesion that stays, one on the patient's left that is new, one in front that vanishes."""
    brain, stays = ball(0, 0, 0, 50), ball(20, 0, 10, 6)
    new = ball(-25, 0, 10, 6) if changed else np.zeros(SHAPE, bool)
    vanished = ball(0, 30, 10, 5) if changed else np.zeros(SHAPE, bool)
    volume = lambda data: Volume(data, AFFINE)  # noqa: E731
    noise = np.random.default_rng(0).normal(0, 0.1, (2, *SHAPE)).astype(np.float32)
    images = (noise[0] + 2.0 * (stays | vanished)) * brain, (noise[1] + 2.0 * (stays | new)) * brain
    before, after = volume(label_lesions(stays | vanished)), volume(label_lesions(stays | new))
    rows = track_lesions(before, after)
    tracked = np.zeros(SHAPE, np.int32)
    for row in rows:
        tracked[np.isin(before.data, row.baseline_ids) | np.isin(after.data, row.followup_ids)] = row.id
    agreement = {
        "brain_overlap": 0.98,
        "flair_correlation": 0.94,
        "sulci_correlation": 0.97,
        "registration_disagreement_mm": 0.31,
    }
    return ChangeReport(
        subject="sub-1",
        sessions=("ses-a", "ses-b"),
        date=datetime(2026, 3, 4, 15, 6, tzinfo=UTC),
        method="rule of thumb",
        model_limits="finds balls alone",
        images=tuple(volume(image.astype(np.float32)) for image in images),
        differences={"FLAIR": volume((5.0 * new - 5.0 * vanished).astype(np.float32))},
        brain=volume(brain),
        tracked=volume(tracked),
        lesions=(volume(stays | vanished), volume(stays | new)),
        new=volume(new),
        vanished=volume(vanished),
        mni_from_midway=np.eye(4),
        rows=rows,
        summary={**summarise_changes(rows), **agreement, "method": "rule of thumb"},
        inputs={"baseline FLAIR": Path("/a/FLAIR.nii"), "followup FLAIR": Path("/b/FLAIR.nii")},
        steps=[StepRecord("meet", 12.3, 12.0, 456.0, False)],
        backend="embedded",
        versions={"msrim": "9.8.7"},
        recipe='model = "ball"\n',
        warnings=["the two brains overlap at Dice 0.91 only"],
    )


def expanding(*, years: float | None = 1.5) -> ChangeReport:
    """The same with what `--expansion` measures; by chance alone, or without dates, as the caller says."""
    report = two_visits()
    [stays] = [row for row in report.rows if row.change == "stable"]
    told = dataclasses.replace(stays, expansion_percent=21.0, expansion_error_percent=3.0, rim_probability=0.71)
    if years is not None:
        told = dataclasses.replace(told, expansion_percent_per_year=13.6, sel_candidate=True, concentricity=0.42)
    summary = {"brain_volume_change_percent": -0.31, "tissue_mask_change_percent": 0.12, "years": years}
    return dataclasses.replace(
        report,
        rows=[told if row is stays else row for row in report.rows],
        summary={**report.summary, **summary, "sel_candidates": None if years is None else 1},
    )


def test_expansion_stands_in_summary_and_table_where_it_was_measured(page, tmp_path):
    text = text_of(write_change_report(expanding(), tmp_path / "dated.html").read_text("utf-8"))
    for expected in (
        "1 candidate for slowly expanding lesions",
        "matter −0.31 %",
        "+0.12 % by the volumes",
        "in 1.50 years",
    ):
        assert expected in text, expected
    assert re.search(r"\+13\.6 ± 2\.0 candidate 0\.71", text)
    undated = text_of(write_change_report(expanding(years=None), tmp_path / "undated.html").read_text("utf-8"))
    assert (
        "+21.0 ± 3.0" in undated
        and "time between the visits is not known" in undated
        and "a year" not in undated.split("Every lesion")[1]
    )
    assert "Expansion" not in text_of(page) and "Rim probability" not in text_of(page)


@pytest.mark.parametrize("expanded", [False, True])
def test_no_table_is_cut_in_a_window_of_1000_pixels(tmp_path, expanded):
    report = two_visits()
    # One has many parts; rims were judged.
    told = {"baseline_ids": tuple(range(100, 140)), "rim_probability": 0.5}
    if expanded:
        report = expanding()
        told |= {"expansion_percent": -32.1, "expansion_error_percent": 10.2, "expansion_percent_per_year": -22.8}
        told |= {"sel_candidate": True, "baseline_mm3": 12345.0, "followup_mm3": 11345.0, "change_mm3": -1000.0}
    rows = [dataclasses.replace(row, **told) for row in report.rows]
    page = write_change_report(dataclasses.replace(report, rows=rows), tmp_path / "report.html")
    with chromium(tmp_path, size=(1000, 640)) as tab:
        tab.open(page.as_uri())
        tab.wait("document.querySelectorAll('.scroll').length == 5")
        widths = tab.js("[...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth, box.clientWidth])")
        numbers = tab.text("td.ids")
    assert all(needed <= given for needed, given in widths), widths
    assert numbers == "100, 101, 102, 103 and 36 more"


@pytest.mark.parametrize("trusted", [True, False])
def test_a_grade_has_injected_and_recovered_expansion_side_by_side(tmp_path, trusted):
    report = two_visits()
    rows = [
        PaintedChange(k, "expanding", 250, 250, "stable", 250, 240, grown, grown, grown > 20 if trusted else None)
        for k, grown in enumerate((15.0, 25.0, 40.0))
    ]
    grade = summarise_change_grade(rows, ["stable"], seed=1)
    brain = {"brain_volume_change_percent": -0.9, "tissue_mask_change_percent": -1.3} if trusted else {}
    brain = {
        "injected_percent": -1.0,
        **dict.fromkeys(("brain_volume_change_percent", "tissue_mask_change_percent")),
        **brain,
    }
    grade["expansion"] = summarise_expansion(rows, [False] * trusted, brain=brain, trusted=trusted, seed=1)
    graded = dataclasses.replace(report, summary={**report.summary, "grade": grade})
    text = text_of(write_change_report(graded, tmp_path / "report.html").read_text("utf-8"))
    assert "What this pair shows" in text
    assert "slope of recovered by injected 1 1.00 (1.00–1.00, n = 3)" in text
    sought = (
        "by the deformation −1.00 % −0.90 %",
        "by the tissue masks −1.00 % −1.30 %",
        "expand by 20 % or more 2 2: 100 %",
        "do not expand 0 of 1 0",
    )
    assert all((words in text) == trusted for words in sought)
    assert ("does too much by chance" in text) != trusted


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write_change_report(two_visits(), tmp_path_factory.mktemp("page") / "report.html").read_text("utf-8")


def text_of(page: str) -> str:
    body = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<.*?>", " ", body).split())


def test_the_page_stands_alone_and_tells_what_it_must(page):
    assert re.findall(r'(?:src|href)="(?!#|data:)', page) == []
    text = text_of(page)
    for expected in (
        "sub-1, ses-a to ses-b",
        "Research use only – not for diagnosis",
        "1 new lesion",
        "1 vanished",
        "rule of thumb",
        "finds balls alone",
        "Backend embedded",
        "Dice 0.980",
        "correlate at 0.940",
        "the two brains overlap at Dice 0.91 only",
        "/a/FLAIR.nii",
        "meet 12.3 456",
    ):
        assert expected in text


def test_changed_lesions_come_first_in_the_table_and_lead_to_their_picture(page):
    rows = re.findall(r'<tr class="(\w+)">(.*?)</tr>', page)
    assert [change for change, _ in rows] == ["new", "vanished", "stable"] or [change for change, _ in rows] == [
        "vanished",
        "new",
        "stable",
    ]
    assert {target for _, row in rows for target in re.findall(r'href="#([^"]+)"', row)} <= set(
        re.findall(r'id="([^"]+)"', page)
    )


def test_the_difference_of_every_contrast_that_decided_has_its_column(page, tmp_path):
    report = two_visits()
    both = dataclasses.replace(report, differences=report.differences | {"T2w": report.differences["FLAIR"]})
    with_t2w = write_change_report(both, tmp_path / "report.html").read_text("utf-8")
    heading = re.compile(r'<div class="columns">(.*?)</div>')
    flair = ["Baseline ses-a", "Follow-up ses-b", "Difference of FLAIR"]
    for html, columns in ((page, flair), (with_t2w, [*flair, "Difference of T2w"])):
        assert re.findall("<span>(.*?)</span>", heading.search(html)[1]) == columns
        assert html.count("<svg") == len(columns) * html.count('<div class="visits"') > 0


def test_new_tissue_is_outlined_where_it_lies_in_all_three_pictures(page):
    """The patient's left is on the picture's right, front is up; outlines are in mm."""
    triplets = re.findall(r'<div class="visits".*?(?=<div class="visits"|</section>)', page, flags=re.DOTALL)
    shown = [t for t in triplets if t.count('class="drawn new"') == 3 and t.count('class="drawn vanished"') == 3]
    assert shown
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', shown[0]).groups())
    for style, (x, y) in {"new": (25, 0), "vanished": (0, -30)}.items():
        for path in re.findall(rf'class="drawn {style}" d="([^"]+)"', shown[0]):
            points = np.array([[float(n) for n in p.split()] for p in re.split("[ML]", path)[1:]])
            middle = (points.min(axis=0) + points.max(axis=0)) / 2 - (width / 2, height / 2)
            np.testing.assert_allclose(middle, (x, y), atol=2.5)


def test_no_change_is_an_answer(tmp_path):
    same = two_visits(changed=False)
    page = write_change_report(dataclasses.replace(same, warnings=[]), tmp_path / "r.html").read_text("utf-8")
    assert "No lesion was found to be new or enlarging" in page
    assert 'class="drawn new"' not in page
    assert page.count('<div class="visits"') == 8


def test_names_from_outside_are_text(tmp_path):
    rude = dataclasses.replace(two_visits(), subject="<script>alert(1)</script>")
    assert "<script>" not in write_change_report(rude, tmp_path / "r.html").read_text("utf-8")
