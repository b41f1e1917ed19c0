"""One patient by one command: every step that the images allow, one page, and nothing of the user's changed."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import chromium
from fsl_programs import answer, asked
from typer.testing import CliRunner

import msrim
from msrim.bids import ANATOMY, find_subject, transform_name
from msrim.cli.main import app
from msrim.console import Console
from msrim.errors import InputError, OutputError, Remark
from msrim.files import write_json
from msrim.image import Volume, read_volume, write_volume
from msrim.lesions.measure import measure_lesions, summarise, write_lesions_tsv
from msrim.lesions.track import summarise_changes, track_lesions, write_changes_tsv
from msrim.models import build
from msrim.models.cards import write_card
from msrim.models.registry import read_card
from msrim.preprocess.template import load_template
from msrim.recipe import Recipe, TrainingRecipe
from msrim.results import comparison_of, rims_of, segmentation_of
from msrim.training.loop import write_weights
from msrim.transform import apply_transform, read_transform, write_transform
from msrim.workflows import patient
from msrim.workflows.cohort.tasks import Task, Visit, failure_reason
from msrim.workflows.patient import find_patients, run_patients
from msrim.workflows.patient_page import summarise_patient
from msrim.workflows.segment import segment_visit
from msrim.workflows.train_rims import write_rim_card
from tests.benchmarks.backends import Result, Truth, compare, print_table

QUIET = Console(quiet=True)


def invoke(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


# A whole run, on a brain of 0.7 l and with networks that were never trained. ANTs prepares the images: the other tests
# of whole runs take the embedded backend.

# From the small brain to the template's.
LARGER = np.diag([1 / 0.72, 1 / 0.72, 1 / 0.72, 1.0])
# Where its header puts the T1w.
T1W_AWAY = np.eye(4)
T1W_AWAY[:3, 3] = 5, -4, 3
BY_ANTS = ["--backend", "ants", "--brain-extracted"]


def small_brain(visit: int, contrast: str = "FLAIR") -> Volume:
    """The template in steps of 3 mm with a contrast of its own, too small for an adult; noise of a visit's own."""
    template = load_template()
    shown = template.data[::4, ::4, ::4]
    image = np.where(shown > 0.5, 1.3 - shown, 0.2) if contrast == "FLAIR" else shown
    image = image + np.random.default_rng(visit).normal(0, 0.02, shown.shape)
    smaller = np.linalg.inv(LARGER) @ template.affine @ np.diag([4.0, 4.0, 4.0, 1.0])
    return Volume((100 * image.clip(0.01) * (shown > 0)).astype(np.float32), smaller)


def write_visits(folder: Path, *, whole_heads: bool) -> Path:
    """Two visits with FLAIR and T1w, the second with a QSM that shows some slices less; the patient's folder."""
    for session in ("1", "2"):
        name = folder / "sub-01" / f"ses-{session}" / "anat" / f"sub-01_ses-{session}"
        for contrast, away in (("FLAIR", np.eye(4)), ("T1w", T1W_AWAY)):
            brain = small_brain(int(session), contrast)
            around = np.random.default_rng(7).normal(20, 4, brain.shape) * whole_heads
            image = np.where(brain.data > 0, brain.data, around).astype(np.float32)
            write_volume(Volume(image, away @ brain.affine), Path(f"{name}_{contrast}.nii.gz"))
    brain = small_brain(2)
    qsm = np.random.default_rng(5).normal(0.01, 0.03, brain.shape) * (brain.data > 0)
    write_volume(Volume(qsm[:, :, :-3].astype(np.float32), brain.affine), Path(f"{name}_Chimap.nii.gz"))
    return folder / "sub-01"


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A dataset with whatever its authors wrote."""
    folder = tmp_path_factory.mktemp("raw")
    write_visits(folder, whole_heads=False)
    description = {"Name": "ours", "BIDSVersion": "1.9.0", "DatasetType": "raw", "Authors": ["A"], "License": "CC0"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    (folder / ".bidsignore").write_text("extra/\n")
    (folder / "participants.tsv").write_text("participant_id\nsub-01\n")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    """Options that name a network for lesions and one for rims, both quick."""
    folder = tmp_path_factory.mktemp("models")
    lesions = TrainingRecipe(
        name="quick", version="0", task="lesions", summary="of a test", network="allnet", contrasts=("FLAIR",),
        normalisation="none", steps=1, batch_size=1, learning_rate=1e-3,
        settings={"contrasts": 1, "widths": [4, 8], "head_width": 4},
    )  # fmt: skip
    torch.manual_seed(1)
    weights = write_weights(build("allnet", **lesions.settings), folder / "lesions" / "weights.safetensors")
    write_card(lesions, weights, settings=lesions.settings, spacing_mm=4.0, training="none", limits="a test")
    rims = TrainingRecipe(
        name="quickrims", version="0", task="rims", summary="of a test", normalisation="none", network="datrnet",
        contrasts=("Chimap", "FLAIR"), steps=1, batch_size=1, learning_rate=1e-3,
    )  # fmt: skip
    settings = {"features": 4, "radii": [5], "pre_convs": 1, "widths": [4, 4, 8, 8]}
    weights = write_weights(build("datrnet", **settings), folder / "rims" / "weights.safetensors")
    write_rim_card(rims, weights, built=settings, trained_on="nothing", thresholds=[0.4, 0.001])
    return ["--model", folder / "lesions", "--rim-model", folder / "rims"]


@dataclass(frozen=True)
class Done:
    """A run: what it said, the dataset's files before, and the folder of the patient's results."""

    shown: object
    before: dict[str, str]
    results: Path


@pytest.fixture(scope="module")
def done(raw, models) -> Done:
    before = digests(raw)
    shown = invoke("run", raw / "sub-01", *models, *BY_ANTS)
    return Done(shown, before, raw / "derivatives" / "msrim" / "sub-01")


def of_others(folder: Path) -> dict[str, str]:
    return {name: sum_ for name, sum_ in digests(folder).items() if not name.startswith("derivatives/")}


def test_runs_leave_a_raw_dataset_as_it_is(raw, models, done):
    """Every workflow of a visit, its rims and its changes, with the results in the dataset's own derivatives."""
    assert done.shown.exit_code == 0, (done.shown.output, done.shown.exception)
    for left in ("ses-1/run.json", "ses-2/rims/run.json", "ses-1_to_ses-2/run.json", "patient.html"):
        assert (done.results / left).is_file(), left
    assert of_others(raw) == done.before
    out = done.results.parent
    made = {path: path.stat().st_mtime_ns for path in done.results.rglob("report.html")}
    for level in ("participant", "group"):
        shown = invoke("cohort", raw, out, level, *models, *BY_ANTS, "--quiet")
        assert shown.exit_code == 0, (shown.output, shown.exception)
    assert 'href="sub-01/patient.html"' in (out / "cohort.html").read_text(encoding="utf-8")
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert invoke("preprocess", raw / "sub-01" / "ses-1", *BY_ANTS, "--quiet").exit_code == 0
    assert of_others(raw) == done.before


def test_the_page_leads_to_all_others(done):
    page = done.results / "patient.html"
    assert done.shown.stdout == f"{page}\n"
    links = set(re.findall(r'href="([^"#]+)', page.read_text(encoding="utf-8")))
    assert {
        "ses-1/report.html",
        "ses-2/report.html",
        "ses-2/rims/report.html",
        "ses-1_to_ses-2/report.html",
        "sub-01_desc-patient.tsv",
    } <= links
    assert all((page.parent / link).is_file() for link in links)


def test_the_first_line_of_a_result_tells_lesions_volume_and_what_to_doubt(done):
    """The brain is too small for an adult's."""
    results = [line for line in done.shown.stderr.splitlines() if " ml" in line and not line.startswith("note: ")]
    assert all(re.match(r"(sub-01: )?\d+ lesions?, \d+\.\d\d ml", line) for line in results)
    doubts = [json.loads((done.results / f"ses-{n}" / "run.json").read_text())["doubts"] for n in (1, 2)]
    assert all("the brain mask has 7" in doubt for [doubt] in doubts)
    first, second, rims, changes, last = results
    assert (f"WARNING: {doubts[0][0]}" in first, doubts[1][0] in first) == (True, False)
    assert all(doubts[1][0] in line for line in (second, rims, changes, last))
    assert all(doubts[0][0] in line for line in (changes, last))
    assert "since ses-1" in changes and "at ses-2" in last
    page = (done.results / "patient.html").read_text(encoding="utf-8")
    assert page.index("the brain mask has 7") < page.index("<h2>")


def test_the_steps_are_those_that_the_bar_counts(done):
    from msrim.workflows.plan import change_steps, lesion_steps, rim_steps

    def steps(folder: str) -> list[str]:
        run = json.loads((done.results / folder / "run.json").read_text(encoding="utf-8"))
        return [*(step["name"] for step in run["steps"]), "write_page"]

    card = read_card(json.loads((done.results / "ses-1" / "run.json").read_text())["recipe"]["model"])
    assert sorted(steps("ses-1")) == sorted(lesion_steps(["FLAIR", "T1w"], Recipe(backend="ants"), card=card))
    assert steps("ses-2/rims") == rim_steps(read_card("datrnet"))
    assert steps("ses-1_to_ses-2") == change_steps(Recipe())


def test_results_from_python(raw, models, done):
    [found] = msrim.run(
        raw / "sub-01", model=str(models[1]), rim_model=str(models[3]), brain_extracted=True, backend="ants"
    )
    assert found.page == done.results / "patient.html" and found.table.is_file()
    assert [visit.mask.is_file() for visit in found.visits] == [True, True]
    assert [each is None for each in found.rims] == [True, False]
    assert len(found.lesions) == len(rows_of(found.table))
    [pair] = found.pairs
    assert pair.new.is_file() and pair.summary["use"] == "research use only"
    assert len(pair.changes) == sum(pair.summary["lesions"].values())
    assert any("the brain mask has 7" in text for text in found.visits[0].warnings)
    assert found.visits[0].probability.shape == small_brain(1).shape


def runs_of(results: Path) -> dict[str, dict]:
    """What every run of a patient tells of itself, by its folder."""
    return {
        path.parent.relative_to(results).as_posix(): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(results.rglob("run.json"))
    }


def check_places(results: Path, visit: Path) -> None:
    """T1w and QSM lie where they belong, the brain on the template's."""
    subject = find_subject(visit)
    brain = read_volume(subject.outputs(results.parent, ANATOMY)["brain"], mask=True)
    points = apply_transform(brain.affine, np.argwhere(brain.data)[::20])
    for contrast, right, most_mm in (("T1w", np.linalg.inv(T1W_AWAY), 1), ("FLAIR", LARGER, 3)):
        found = read_transform(subject.output(results.parent, transform_name(contrast)))
        away = np.linalg.norm(apply_transform(found, points) - apply_transform(right, points), axis=1).mean()
        assert away < most_mm, (contrast, away)


def test_ants_prepares_visits_comparison_and_rims(raw, models, done):
    """`longitudinal` and `rim-classify` find everything done."""
    for command in (
        ("longitudinal", raw / "sub-01" / "ses-1", raw / "sub-01" / "ses-2", *models[:2]),
        ("rim-classify", raw / "sub-01" / "ses-2", "--model", models[3]),
    ):
        shown = invoke(*command, *BY_ANTS, "--out", done.results.parent, "--quiet")
        assert shown.exit_code == 0, (shown.output, shown.exception)
    runs = runs_of(done.results)
    assert set(runs) == {"ses-1", "ses-2", "ses-2/rims", "ses-1_to_ses-2"}
    assert {run["backend"] for run in runs.values()} == {"ants 0.6.3"}
    assert not [note for run in runs.values() for note in run["fallbacks"] if "registration" in note]
    for session in ("ses-1", "ses-2"):
        check_places(done.results, raw / "sub-01" / session)


def test_the_benchmark_of_backends_measures_a_visit(raw, models, done, tmp_path, capsys):
    """Against what was published of it: transforms and, in a space of its own, the brain."""
    subject = find_subject(raw / "sub-01" / "ses-1")
    recipe = Recipe(backend="ants", brain_extracted=True, model=str(models[1]))
    prepared, lesions = segment_visit(subject, recipe, done.results.parent, console=QUIET)
    result = Result("ants 0.6.3", prepared, lesions, runs_of(done.results)["ses-1"])
    unmoved = compare(result, result, truth=None)
    assert unmoved["T1w to FLAIR, from the published place, mm"][0] == pytest.approx(np.sqrt(50), abs=1)
    common = np.eye(4)
    common[:3, 3] = 9, 0, -6
    for target, matrix in (("T1w_to-FLAIR", np.linalg.inv(T1W_AWAY)), ("FLAIR_to-common", common)):
        write_transform(matrix, tmp_path / "ses-1" / "xfm" / f"sub-01_ses-1_from-{target}_mode-image_xfm.txt")
    brain = read_volume(prepared.files.brain, mask=True)
    write_volume(
        Volume(brain.data, common @ brain.affine), tmp_path / "anat" / "sub-01_space-common_desc-brain_mask.nii.gz"
    )
    rows = compare(result, result, truth=Truth(tmp_path, "sub-01_ses-1", "ses-1"))
    assert rows["T1w to FLAIR, from the published place, mm"][0] < 1
    assert rows["brain, Dice with the published one"][0] > 0.99
    assert rows["tissue, Dice with embedded: CSF, GM, WM"] == (1, 1, 1)
    assert rows["brain without a tissue class, ml"] == rows["FLAIR to MNI, from embedded, mm"] == (0,)
    assert rows["distance to CSF, from embedded, mm: mean, 95 %"] == (0, 0)
    assert rows["align_to_template, processor s, MiB"][0] > 0
    print_table("2 visits", {"ants": "ants 0.6.3"}, {"ants": [{"away": (0.5,)}, {"away": (1.25,)}]})
    assert capsys.readouterr().out.splitlines()[-1] == "| away | 0.88 (0.50-1.25, n = 2) |"


def test_fsl_prepares_visits_comparison_and_rims(models, stand_in, tmp_path):
    """Whole heads through BET, FLIRT and FAST, by stand-ins that find what is right."""
    brain, t1w, template = small_brain(1), small_brain(1, "T1w"), load_template()
    home = stand_in(
        bet='cp "$FSLDIR/mask.nii.gz" "${2%.nii.gz}_mask.nii.gz"',
        fast='cp "$FSLDIR/classes.nii.gz" tissue_pveseg.nii.gz',
    )
    write_volume(brain.like(brain.data > 0), home / "mask.nii.gz")
    write_volume(t1w.like(np.digitize(t1w.data, (0.5, 30, 70)).astype(np.uint8)), home / "classes.nii.gz")
    # Voxel lies on voxel in every rigid pair, which is FLIRT's identity.
    answer(home, LARGER, moving=brain, fixed=template, degrees_of_freedom=12)
    patient, out = write_visits(tmp_path, whole_heads=True), tmp_path / "out"
    for command in (
        ("longitudinal", patient / "ses-1", patient / "ses-2", *models[:2]),
        ("rim-classify", patient / "ses-2", "--model", models[3]),
    ):
        shown = invoke(*command, "--backend", "fsl", "--out", out, "--quiet")
        assert shown.exit_code == 0, (shown.output, shown.exception)
    runs = runs_of(out / "sub-01")
    assert set(runs) == {"ses-1", "ses-2", "ses-2/rims", "ses-1_to_ses-2"}
    assert {run["backend"] for run in runs.values()} == {"fsl 6.0.7.4"}
    assert not [note for run in runs.values() for note in run["fallbacks"] if "registration" in note]
    for session in ("ses-1", "ses-2"):
        check_places(out / "sub-01", patient / session)
    assert {path.name for path in asked(home).iterdir()} >= {"bet", "flirt", "fast"}


def test_the_results_pass_the_bids_validator(done, bids_errors):
    assert bids_errors(done.results.parent) == ""


# The page over results of which everything is known.

LINE = np.diag([2.0, 2.0, 5.0, 1.0])


def line(*numbers: int) -> Volume:
    return Volume(np.array([[numbers]], np.int32), LINE)


def left_behind(
    out: Path, session: str, instances: Volume, *, label: str = "7", rims: dict[int, float] | None = None
) -> None:
    """What `msrim segment` and `msrim rim-classify` leave of a visit, as far as its patient's page looks at it."""
    from dataclasses import replace

    visit = Visit(label, session, out).named()
    labels = instances.like(np.full(instances.shape, 5, np.uint8))
    rows = measure_lesions(instances, probability=instances.like(np.ones(instances.shape)), labels=labels)
    files = segmentation_of(visit, out)
    write_volume(instances, files.instances)
    write_lesions_tsv(rows, files.table)
    write_json(summarise(rows), files.summary_file)
    inputs = {"FLAIR": {"path": str(out / "raw" / f"{session}.nii"), "sha256": ""}}
    write_json({"inputs": inputs, "fallbacks": [], "doubts": []}, files.folder / "run.json")
    files.report.touch()
    if rims is not None:
        files = rims_of(visit, out)
        write_volume(instances, files.instances)
        judged = [
            replace(row, rim_probability=rims.get(row.id), rim=rims[row.id] > 0.5 if row.id in rims else None)
            for row in rows
        ]
        write_lesions_tsv(judged, files.table)
        counts = {"rim_lesions": sum(bool(row.rim) for row in judged), "rim_not_judged": 0}
        write_json({**summarise(judged), **counts}, files.summary_file)
        write_json(
            {"inputs": {}, "fallbacks": [], "doubts": ["the QSM's sign looks inverted"]}, files.folder / "run.json"
        )
        files.report.touch()


def compared(out: Path, one: tuple[str, Volume], other: tuple[str, Volume]) -> None:
    """What `msrim longitudinal` leaves of two visits."""
    visits = [Visit("7", session, out).named() for session, _ in (one, other)]
    files = comparison_of(*visits, out)
    rows = track_lesions(one[1], other[1])
    write_changes_tsv(rows, files.table)
    write_json(summarise_changes(rows), files.summary_file)
    for visit, (_, instances) in zip(visits, (one, other), strict=True):
        write_volume(instances, visit.below(files.folder, "space-orig_seg-lesions_dseg.nii.gz"))
    write_json({"inputs": {}, "fallbacks": [], "doubts": []}, files.folder / "run.json")
    files.report.touch()


@pytest.fixture
def three_visits(tmp_path) -> Path:
    """One lesion that grows and has a rim, one that vanishes, one that comes and goes."""
    out = tmp_path / "out"
    maps = {"m0": line(1, 1, 0, 2, 0, 0), "m6": line(1, 1, 1, 0, 0, 2), "m12": line(1, 1, 1, 0, 0, 0)}
    for session, instances in maps.items():
        left_behind(out, session, instances, rims={1: 0.9, 2: 0.2} if session == "m6" else None)
    visits = list(maps.items())
    compared(out, visits[0], visits[1])
    compared(out, visits[1], visits[2])
    return out


def test_a_lesion_of_three_visits_is_one_row(three_visits):
    out = three_visits
    report = summarise_patient([Visit("7", "m6", out / "raw")], out)
    assert [visit.name for visit in report.visits] == ["ses-m0", "ses-m6", "ses-m12"]
    rows = rows_of(out / "sub-7" / "sub-7_desc-patient.tsv")
    grown = {
        "region": "deep white matter",
        "ses-m0_ids": "1",
        "ses-m0_volume_mm3": "40.000",
        "ses-m6_volume_mm3": "60.000",
        "ses-m6_rim_probability": "0.9000",
        "ses-m6_rim": "true",
        "ses-m0_to_ses-m6": "enlarging",
        "ses-m0_to_ses-m6_mm3": "20.000",
        "ses-m6_to_ses-m12": "stable",
    }
    assert rows[0].items() >= grown.items()
    steps = [(row["ses-m0_to_ses-m6"], row["ses-m6_to_ses-m12"]) for row in rows]
    assert steps == [("enlarging", "stable"), ("vanished", "absent"), ("new", "vanished")]
    described = json.loads((out / "sub-7" / "sub-7_desc-patient.json").read_text(encoding="utf-8"))
    assert list(described) == list(rows[0])
    page = report.page.read_text(encoding="utf-8")
    assert '<a href="ses-m6/rims/report.html#lesion-1">0.90</a>' in page
    assert '<a href="ses-m0_to_ses-m6/report.html#lesion-1">enlarging</a>' in page
    assert '<a href="ses-m12/report.html#lesion-1">60</a>' in page
    assert report.headline == "1 lesion, 0.06 ml at ses-m12; since ses-m6: 1 stable, 1 vanished; 1 with a rim at ses-m6"
    assert report.doubts == ["the QSM's sign looks inverted"]


def test_a_page_says_where_a_comparison_counts_other_lesions_than_a_visit(three_visits):
    # The comparison takes both of the last visit's lesions for one, for they overlap with one of the visit before.
    out = three_visits
    left_behind(out, "m12", line(1, 0, 2, 0, 0, 0))
    compared(out, ("m6", line(1, 1, 1, 0, 0, 2)), ("m12", line(1, 0, 2, 0, 0, 0)))
    report = summarise_patient([Visit("7", "m6", out / "raw")], out)
    assert report.headline == (
        "2 lesions, 0.04 ml at ses-m12; compared with ses-m6 as 1 lesion, 0.04 ml (one grid, overlapping lesions as "
        "one): 1 vanished, 1 split; 1 with a rim at ses-m6"
    )


def test_no_table_of_a_patient_is_cut_in_a_window_of_1000_pixels(three_visits):
    report = summarise_patient([Visit("7", "m6", three_visits / "raw")], three_visits)
    with chromium(three_visits, size=(1000, 640)) as tab:
        tab.open(report.page.as_uri())
        tab.wait("document.querySelectorAll('.scroll').length == 3")
        widths = tab.js("[...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth, box.clientWidth])")
    assert all(needed <= given for needed, given in widths), widths


def test_rims_of_other_lesions_are_not_put_to_these(three_visits):
    out = three_visits
    write_volume(line(1, 0, 1, 0, 0, 2), rims_of(Visit("7", "m6", out).named(), out).instances)
    report = summarise_patient([Visit("7", "m6", out / "raw")], out)
    assert "ses-m6_rim" not in rows_of(out / "sub-7" / "sub-7_desc-patient.tsv")[0]
    assert "were judged on other lesions" in report.page.read_text(encoding="utf-8")


def test_visits_that_were_not_compared_stand_beside_each_other(three_visits):
    out = three_visits
    (out / "sub-7" / "ses-m0_to_ses-m6" / "run.json").unlink()
    write_json({"reason": "no: not <one> patient"}, Task("longitudinal", "7", None).reason_file(out))
    report = summarise_patient([Visit("7", "m6", out / "raw")], out)
    rows = rows_of(out / "sub-7" / "sub-7_desc-patient.tsv")
    assert len(rows) == 5 and "ses-m0_to_ses-m6" not in rows[0]
    assert report.failures == ["sub-7_longitudinal: no: not <one> patient"]
    assert "not &lt;one&gt; patient" in report.page.read_text(encoding="utf-8")


def test_a_page_of_somebody_else_stays(raw):
    page = raw / "theirs" / "sub-01" / "patient.html"
    page.parent.mkdir(parents=True)
    page.write_text("<html>mine</html>")
    with pytest.raises(OutputError, match=r"patient\.html: not written by msrim"):
        run_patients(find_patients([raw / "sub-01" / "ses-1"]), Recipe(), raw / "theirs", console=QUIET)
    assert [path.name for path in (raw / "theirs").rglob("*")] == ["sub-01", "patient.html"]
    page.unlink()
    page.parent.rmdir()
    page.parent.parent.rmdir()


# Who is a patient.


def flair(folder: Path, *, date: str = "", name: str = "FLAIR.nii.gz") -> None:
    folder.mkdir(parents=True)
    (folder / name).touch()
    if date:
        (folder / "FLAIR.json").write_text(json.dumps({"AcquisitionDate": date}))


def test_visits_are_found_and_ordered(tmp_path):
    flair(tmp_path / "jane" / "ses-b", date="2020-01-01")
    flair(tmp_path / "jane" / "ses-a", date="2021-01-01")
    flair(tmp_path / "sub-2" / "ses-2" / "anat", name="sub-2_ses-2_FLAIR.nii.gz")
    flair(tmp_path / "sub-2" / "ses-10" / "anat", name="sub-2_ses-10_FLAIR.nii.gz")
    flair(tmp_path / "sub-2" / "ses-11" / "anat", name="sub-2_ses-11_T1w.nii.gz")
    flair(tmp_path / "alone")
    with pytest.warns(Remark, match="ses-11: no FLAIR, so this visit is left out"):
        found = find_patients([tmp_path / "sub-2", tmp_path / "jane", tmp_path / "alone"])
    names = [[f"{visit.participant} {visit.session}" for visit in visits] for visits in found]
    assert names == [["2 2", "2 10"], ["alone None"], ["jane b", "jane a"]]
    [visits] = find_patients([tmp_path / "jane" / "ses-a", tmp_path / "jane" / "ses-b"])
    assert [visit.session for visit in visits] == ["b", "a"]


def test_unclear_patients(tmp_path):
    flair(tmp_path / "one" / "sub-1")
    flair(tmp_path / "two" / "sub-1")
    flair(tmp_path / "two" / "sub-3" / "ses-1" / "anat", name="T1w.nii.gz")
    for paths, message in (
        (["one/sub-1", "two/sub-1"], "two/sub-1: is sub-1, as .*one/sub-1 is; give each visit once"),
        (["two"], "two: holds patients; give folders of some, or run `msrim cohort`"),
        (["two/sub-3"], "ses-1/anat: no FLAIR among T1w.nii.gz"),
        (["nobody"], "nobody: no such folder"),
        (["x" * 300], "xxx: cannot be read .File name too long.; check the path"),
    ):
        with pytest.raises(InputError, match=message):
            find_patients([tmp_path / path for path in paths])
    shown = invoke("run", tmp_path / "nobody", "--out", tmp_path / "out")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == f"msrim: error: {tmp_path / 'nobody'}: no such folder\n"
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_used_is_told_before_anything_is_written(raw, models, tmp_path):
    """The QSM of the second visit is none."""
    import shutil

    shutil.copytree(raw / "sub-01", tmp_path / "sub-01")
    [qsm] = tmp_path.rglob("*_Chimap.nii.gz")
    shutil.copy(qsm.with_name("sub-01_ses-2_FLAIR.nii.gz"), qsm)
    shown = invoke("run", tmp_path / "sub-01", "--out", tmp_path / "out", *models, "--brain-extracted")
    [message] = shown.stderr.splitlines()
    assert (shown.exit_code, shown.stdout) == (2, "") and message.startswith(f"msrim: error: {qsm}: ")
    assert not (tmp_path / "out").exists()


def test_a_step_that_fails_stops_those_alone_that_need_it(raw, monkeypatch, tmp_path):
    calls, out = [], tmp_path / "results"

    def segment(subject, *_, **__):
        calls.append(f"segment {subject.session}")
        if subject.session == "1":
            raise InputError("ses-1: no brain")
        left_behind(out, "2", line(1, 1, 0), label="01")

    monkeypatch.setattr(patient, "check_patient", lambda *_, **__: None)
    monkeypatch.setattr(patient, "segment_subject", segment)
    monkeypatch.setattr(patient, "classify_rims", lambda subject, *_, **__: calls.append(f"rims {subject.session}"))
    monkeypatch.setattr(patient, "follow_visits", lambda *_, **__: calls.append("changes"))
    with pytest.raises(msrim.MsrimError, match="2 of 4 steps failed, the others are done; sub-01_ses-1_segment: ses-1"):
        run_patients(find_patients([raw / "sub-01"]), Recipe(), out, console=QUIET)
    assert calls == ["segment 1", "segment 2", "rims 2"]
    assert failure_reason(Task("longitudinal", "01", None), out) == patient.WAITING
    page = (out / "sub-01" / "patient.html").read_text(encoding="utf-8")
    assert "sub-01_ses-1_segment: ses-1: no brain" in page
