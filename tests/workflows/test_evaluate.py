"""`msrim evaluate cohort`: from folders of masks to tables and a page."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from msrim.cli.main import app
from msrim.image import Volume, read_volume, write_volume


@pytest.fixture
def cohort(tmp_path):
    """Three patients, one with two visits; one method with probabilities, and one that finds half as much."""
    for number, visit in enumerate(["sub-a_ses-1", "sub-a_ses-2", "sub-b", "sub-c"]):
        rng = np.random.default_rng(number)
        truth = rng.random((12, 12, 12)) < 0.1
        probability = np.clip(0.5 * truth + rng.normal(0.25, 0.12, truth.shape), 0, 1).astype(np.float32)
        poor = (probability > 0.5) & (rng.random(truth.shape) < 0.5)
        for folder, suffix, data in (
            ("truth", "label-L_desc-expert_mask", truth),
            ("good", "space-orig_label-L_mask", probability > 0.5),
            ("good", "space-orig_label-L_probseg", probability),
            ("poor", "space-orig_label-L_mask", poor),
        ):
            write_volume(Volume(data, np.eye(4)), tmp_path / folder / visit / "anat" / f"{visit}_{suffix}.nii.gz")
    return tmp_path


def run(cohort, *methods: str):
    options = [part for method in methods for part in ("--prediction", method)]
    arguments = ["evaluate", "cohort", "--truth", str(cohort / "truth"), *options, "--out", str(cohort / "out")]
    return CliRunner().invoke(app, [*arguments, "--quiet"])


def table(path):
    with open(path, encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_tables_and_page(cohort):
    result = run(cohort, f"good={cohort / 'good'}", f"poor={cohort / 'poor'}")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(cohort / "out" / "report.html")
    scans = table(cohort / "out" / "scans.tsv")
    assert [(row["method"], row["patient"], row["session"]) for row in scans[:4]] == [
        ("good", "a", "1"), ("good", "a", "2"), ("good", "b", "n/a"), ("good", "c", "n/a"),
    ]  # fmt: skip
    dice = {method: [float(row["dice"]) for row in scans if row["method"] == method] for method in ("good", "poor")}
    summary = {(row["method"], row["figure"]): row for row in table(cohort / "out" / "summary.tsv")}
    patients = [(dice["good"][0] + dice["good"][1]) / 2, *dice["good"][2:]]
    assert float(summary["good", "dice"]["mean"]) == pytest.approx(np.mean(patients))
    compared = {row["figure"]: row for row in table(cohort / "out" / "comparisons.tsv")}
    assert compared["dice"]["method"] == "poor" and compared["dice"]["against"] == "good"
    assert float(compared["dice"]["mean_difference"]) < -0.2
    page = (cohort / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4  # figures, volumes, and two curves of the method with probabilities
    assert f"{float(summary['good', 'dice']['mean']):.3f}" in page
    assert not re.search(r'(src|href)="http|<script', page)


def test_no_two_methods_look_alike(cohort):
    """Nine, by colour and dashes; CoactSeg's Table 3 has seven rows."""
    result = run(cohort, *(f"m{number}={cohort / 'good'}" for number in range(9)))
    assert result.exit_code == 0, result.output
    page = (cohort / "out" / "report.html").read_text(encoding="utf-8")
    key = re.search(r'<p class="key">(.*)</p>', page)[1]
    looks = re.findall(r'<span class="([^"]+)">m\d</span>', key)
    assert len(looks) == len(set(looks)) == 9
    assert all(page.count(f'<g class="{look}">') == page.count("<svg") for look in looks)
    for look in looks:
        assert f".{look.split()[0]} {{ --c: #" in page


def test_volumes_on_the_axes_have_no_exponent(cohort):
    for path in cohort.rglob("*.nii.gz"):
        image = read_volume(path)
        write_volume(Volume(image.data.astype(np.float32), np.diag([25, 25, 25, 1])), path)
    assert run(cohort, f"good={cohort / 'good'}").exit_code == 0
    page = (cohort / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r">[\d.]+e\+\d+</text>", page)


def test_curves_are_of_the_networks_own_probabilities_where_they_are_kept(cohort):
    """The map beside the mask may have been flattened by a rule; here its sibling knows the truth."""

    def area() -> float:
        assert run(cohort, f"good={cohort / 'good'}").exit_code == 0
        [row] = table(cohort / "out" / "curves.tsv")
        return float(row["average_precision"])

    assert area() < 0.999
    for mask in (cohort / "truth").rglob("*_mask.nii.gz"):
        visit = mask.parent.parent.name
        known = read_volume(mask).data.astype(np.float32)
        name = f"{visit}_space-orig_label-L_desc-network_probseg.nii.gz"
        write_volume(Volume(known, np.eye(4)), cohort / "good" / visit / "anat" / name)
    assert area() == 1.0


def test_a_method_without_probabilities_has_no_curves(cohort):
    assert run(cohort, f"poor={cohort / 'poor'}").exit_code == 0
    assert (cohort / "out" / "report.html").read_text(encoding="utf-8").count("<svg") == 2
    assert not (cohort / "out" / "comparisons.tsv").exists()


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda c: next(c.glob("good/sub-b/anat/*_mask.nii.gz")).unlink(), "good: no lesion mask for sub-b"),
        (lambda c: (c / "truth").rename(c / "elsewhere"), "truth: no lesion masks"),
        (
            lambda c: (c / "good/sub-b/anat/sub-b_label-L_desc-new_mask.nii.gz").write_bytes(b""),
            "two files for sub-b",
        ),
    ],
)
def test_what_is_missing_or_double_is_said_in_one_line(cohort, break_it, message):
    break_it(cohort)
    result = run(cohort, f"good={cohort / 'good'}")
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_a_method_needs_a_name(cohort):
    result = run(cohort, str(cohort / "good"))
    assert result.exit_code == 2 and "give a method as NAME=FOLDER" in result.stderr


@pytest.mark.parametrize("name", ["report.html", "summary.tsv"])
def test_what_somebody_has_written_is_not_replaced(cohort, name):
    mine = cohort / "out" / name
    mine.parent.mkdir()
    mine.write_text("mine")
    result = run(cohort, f"good={cohort / 'good'}")
    assert result.exit_code == 2 and f"{mine}: no evaluation by msrim has written it" in result.stderr
    assert mine.read_text() == "mine" and len(list(mine.parent.iterdir())) == 1
    mine.unlink()
    assert run(cohort, f"good={cohort / 'good'}").exit_code == run(cohort, f"poor={cohort / 'poor'}").exit_code == 0
