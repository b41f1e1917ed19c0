"""Rim classification from a prepared visit to table, map and page; and whatever may be wrong with the input."""

from __future__ import annotations

import csv
import json
from dataclasses import fields
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from fsl_programs import answer, arguments_of, asked
from typer.testing import CliRunner
from visits import hashes

from msrim.bids import EDITED, find_qsm, find_subject
from msrim.cli.main import app
from msrim.console import Console
from msrim.errors import InputError
from msrim.image import Volume, read_volume, write_volume
from msrim.lesions.measure import measure_lesions
from msrim.models import build, write_weights
from msrim.recipe import Recipe, TrainingRecipe
from msrim.transform import apply_transform, read_transform
from msrim.workflows.anatomy import Anatomy, AnatomyFiles, Working
from msrim.workflows.rims import RimInputs, align_to_qsm, classify_rims, read_lesions
from msrim.workflows.segment import LesionFiles, Lesions, Probabilities
from msrim.workflows.train_rims import write_rim_card

QUIET = Console(quiet=True)
SHAPE = (72, 72, 16)
AFFINE = np.array([[-0.75, 0, 0, 27], [0, 0.75, 0, -27], [0, 0, 3.0, -24], [0, 0, 0, 1]])
SETTINGS = {"features": 4, "radii": [5], "pre_convs": 1, "widths": [4, 4, 8, 8]}
MISPLACED_MM = (5, -4, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A network with fresh weights, and its card."""
    folder = tmp_path_factory.mktemp("model")
    recipe = TrainingRecipe(
        name="fresh", version="0", task="rims", summary="of a test", normalisation="none", network="datrnet",
        contrasts=("Chimap", "FLAIR"), steps=1, batch_size=1, learning_rate=1e-3,
    )  # fmt: skip
    torch.manual_seed(0)
    weights = write_weights(build("datrnet", **SETTINGS), folder / "weights.safetensors")
    write_rim_card(recipe, weights, built=SETTINGS, trained_on="nothing", thresholds=[0.4, 0.001])
    return folder


@pytest.fixture
def visit(tmp_path) -> Path:
    """A subject whose FLAIR and QSM share a grid; three lesions, the last cut by the edge of the field of view."""
    rng = np.random.default_rng(0)
    anat = tmp_path / "sub-1" / "anat"
    qsm = rng.normal(-0.02, 0.02, SHAPE).astype(np.float32)
    qsm[:8, :8] += 0.3
    qsm[:, -6:] = 0
    write_volume(Volume(qsm, AFFINE), anat / "sub-1_Chimap.nii.gz")
    lesions = np.zeros(SHAPE, np.uint8)
    lesions[20:28, 20:28, 6:9] = 1
    lesions[45:50, 45:50, 5:8] = 2
    lesions[40:44, 20:24, 14:] = 3
    mark(tmp_path, lesions)
    return tmp_path


def mark(visit: Path, lesions: np.ndarray) -> None:
    """The user's lesions, and a FLAIR on which they are bright."""
    write_volume(Volume(lesions, AFFINE), visit / "lesions.nii.gz")
    flair = np.random.default_rng(1).normal(100, 20, SHAPE) + 60 * (lesions > 0)
    write_volume(Volume(flair.astype(np.float32), AFFINE), visit / "sub-1/anat/sub-1_FLAIR.nii.gz")


def before(visit: Path) -> Anatomy:
    """What `msrim preprocess` would have left, as far as rims look at it."""
    labels = write_volume(Volume(np.full(SHAPE, 5, np.uint8), AFFINE), visit / "before" / "labels.nii.gz")
    brain = write_volume(Volume(np.ones(SHAPE, bool), AFFINE), visit / "before" / "brain.nii")
    return Anatomy(
        corrected={"FLAIR": visit / "sub-1/anat/sub-1_FLAIR.nii.gz"},
        brain=brain,
        to_flair={},
        to_mni=Path(),
        working=Working({}, brain, labels, labels),
        files=AnatomyFiles(brain, labels, Path(), labels, {}),
    )


def classified(visit: Path, model: Path, monkeypatch, **options) -> Path:
    monkeypatch.setattr("msrim.workflows.rims.preprocess_visit", lambda *_, **__: before(visit))
    subject = find_subject(visit / "sub-1")
    files = {"lesions": visit / "lesions.nii.gz", "magnitude": None}
    given = RimInputs(find_qsm(visit / "sub-1"), **{name: options.pop(name, path) for name, path in files.items()})
    return classify_rims(subject, given, Recipe(), visit / "out", console=QUIET, **{"model": str(model), **options})


def rows_of(table: Path) -> list[dict[str, str]]:
    with open(table, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_every_lesion_gets_a_probability_and_the_page_its_pictures(visit, model, monkeypatch):
    table = classified(visit, model, monkeypatch, threshold="sensitive")
    rows = rows_of(table)
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert all(0 < float(row["rim_probability"]) < 1 and row["rim"] == "true" for row in rows)
    folder = visit / "out" / "sub-1" / "rims"
    summary = json.loads((folder / "anat/sub-1_desc-summary.json").read_text(encoding="utf-8"))
    assert (summary["rim_lesions"], summary["rim_lesions_at_least_1"], summary["rim_lesions_at_least_4"]) == (
        3,
        True,
        False,
    )
    assert (summary["qsm_unit"], summary["rim_threshold"], summary["rim_not_judged"]) == ("ppm", 0.001, 0)
    rims = nib.load(folder / "anat/sub-1_space-orig_seg-rims_dseg.nii.gz")
    lesions = nib.load(visit / "lesions.nii.gz")
    assert np.array_equal(rims.affine, lesions.affine) and np.array_equal(rims.dataobj, lesions.dataobj)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 3 * 4 and "V_s" in page
    assert "Trained on simulated susceptibility; validate before use" in page and "Research use only" in page
    chances = [float(row["rim_probability"]) for row in rows]
    ranked = sorted(range(1, 4), key=lambda number: -chances[number - 1])
    places = [page.index(f'id="lesion-{number}"') for number in ranked]
    assert places == sorted(places)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert run["recipe"]["rim_model"] == "fresh@0" and "Chimap" in run["inputs"] and "lesions" in run["inputs"]
    assert run["warnings"] == ["lesion 3: reaches the edge of the field of view"]
    assert (run["recipe"]["backend"], run["backend"]) == ("auto", "embedded")
    assert "<dt>Backend</dt><dd>embedded</dd>" in page


def test_a_threshold_of_ones_own_and_the_cards(visit, model, monkeypatch):
    rows = rows_of(classified(visit, model, monkeypatch, threshold="0.9999"))
    assert {row["rim"] for row in rows} == {"false"}
    summary = json.loads((visit / "out/sub-1/rims/anat/sub-1_desc-summary.json").read_text(encoding="utf-8"))
    assert (summary["rim_possible"], summary["rim_possible_from"]) == (3, 0.001)
    rims = nib.load(visit / "out/sub-1/rims/anat/sub-1_space-orig_seg-rims_dseg.nii.gz")
    assert not np.any(rims.dataobj)
    page = (visit / "out/sub-1/rims/report.html").read_text(encoding="utf-8")
    assert page.index("Not called rim+, but possible") < page.index('class="lesion"')
    assert "called rim+ from 1.00 on" in page and "0</b>called rim+, 3 more possible, of 3 lesions" in page
    for wrong in ("high", "1.5"):
        with pytest.raises(InputError, match="give f1, sensitive or a number"):
            classified(visit, model, monkeypatch, threshold=wrong)


def test_a_second_run_keeps_its_results(visit, model, monkeypatch):
    files = [visit / "out" / "sub-1" / "rims" / name for name in ("report.html", "run.json")]
    times = []
    for _ in range(2):
        classified(visit, model, monkeypatch)
        times.append([path.stat().st_mtime_ns for path in files])
    assert times[0] == times[1]


def test_a_model_is_found_from_where_the_user_is(visit, model, monkeypatch):
    """The steps run in folders of their own."""
    monkeypatch.chdir(model.parent)
    assert len(rows_of(classified(visit, Path(model.name), monkeypatch))) == 3


def test_masked_lesion_is_told_and_the_rest_goes_on(visit, model, monkeypatch):
    path = find_qsm(visit / "sub-1")
    qsm = nib.load(path).get_fdata(dtype=np.float32)
    qsm[20:28, 20:28, 6:9] = 0
    write_volume(Volume(qsm, AFFINE), path)
    rows = rows_of(classified(visit, model, monkeypatch))
    assert [row["rim"] == "n/a" for row in rows] == [True, False, False]
    assert rows[0]["rim_probability"] == "n/a"
    page = (visit / "out/sub-1/rims/report.html").read_text(encoding="utf-8")
    assert "QSM is zero in 100 % of it" in page and "not judged" in page


def test_no_lesion_is_a_valid_answer(visit, model, monkeypatch):
    mark(visit, np.zeros(SHAPE, np.uint8))
    assert rows_of(classified(visit, model, monkeypatch)) == []
    assert "No lesion was marked" in (visit / "out/sub-1/rims/report.html").read_text(encoding="utf-8")


def test_a_lesion_larger_than_the_patch_is_told_and_judged(visit, model, monkeypatch):
    lesions = np.asarray(nib.load(visit / "lesions.nii.gz").dataobj).copy()
    lesions[10:44, 52:64, 6:9] = 4
    mark(visit, lesions)
    rows = rows_of(classified(visit, model, monkeypatch))
    assert [row["id"] for row in rows if row["rim_probability"] != "n/a"] == ["1", "2", "3", "4"]
    run = json.loads((visit / "out/sub-1/rims/run.json").read_text(encoding="utf-8"))
    assert "lesion 4: larger than the patch: only its middle was seen" in run["warnings"]
    assert "only its middle was seen" in (visit / "out/sub-1/rims/report.html").read_text(encoding="utf-8")


def test_parts_of_one_lesion_that_are_all_called_rims_count_once(visit, model, monkeypatch):
    lesions = np.asarray(nib.load(visit / "lesions.nii.gz").dataobj).copy()
    lesions[28:34, 20:28, 6:9] = 4
    mark(visit, lesions)
    rows = rows_of(classified(visit, model, monkeypatch, threshold="sensitive"))
    run = json.loads((visit / "out/sub-1/rims/run.json").read_text(encoding="utf-8"))
    assert [text[:20] for text in run["warnings"] if "touch" in text] == ["lesions 1 and 4: tou"]
    summary = json.loads((visit / "out/sub-1/rims/anat/sub-1_desc-summary.json").read_text(encoding="utf-8"))
    assert [row["rim"] for row in rows] == ["true"] * 4
    assert (summary["rim_lesions"], summary["rim_lesions_at_least_4"]) == (3, False)
    classified(visit, model, monkeypatch, threshold="0.9999")
    run = json.loads((visit / "out/sub-1/rims/run.json").read_text(encoding="utf-8"))
    assert not any("touch" in text for text in run["warnings"])


def segmented(visit: Path, numbers: list[int], monkeypatch, model: Path) -> Path:
    """Classify the lesions that `msrim segment` left: of those of the fixture the given ones."""
    marked = np.asarray(nib.load(visit / "lesions.nii.gz").dataobj)
    instances = Volume(np.where(np.isin(marked, numbers), marked, 0), AFFINE)
    found = measure_lesions(instances, probability=instances, labels=instances.like(np.full(SHAPE, 5, np.uint8)))
    left = {field.name: Path() for field in fields(LesionFiles)}
    left["instances"] = write_volume(instances, visit / "before" / "instances.nii.gz")
    lesions = Lesions(Probabilities(Path(), Path(), Path()), 0.5, LesionFiles(**left), found)
    monkeypatch.setattr("msrim.workflows.rims.segment_visit", lambda *_, **__: (before(visit), lesions))
    return classified(visit, model, monkeypatch, lesions=None)


def test_what_segment_left_is_classified_and_keeps_its_rows(visit, model, monkeypatch):
    rows = rows_of(segmented(visit, [1, 2], monkeypatch, model))
    assert [(row["id"], float(row["volume_mm3"])) for row in rows] == [("1", 324.0), ("2", 126.563)]
    assert all(0 < float(row["rim_probability"]) < 1 for row in rows)


def test_lesions_that_somebody_has_corrected_are_classified_beside_those_found(visit, model, monkeypatch):
    segmented(visit, [1, 2, 3], monkeypatch, model)
    found = hashes(visit / "out/sub-1/rims")
    marked = np.asarray(nib.load(visit / "lesions.nii.gz").dataobj)
    subject = find_subject(visit / "sub-1")
    edited = subject.output(visit / "out", EDITED["mask"])
    instances = Volume(np.where(marked == 2, 1, 0), AFFINE)
    write_volume(instances, edited)
    (visit / "out/sub-1/work").mkdir()
    left = {field.name: Path() for field in fields(LesionFiles)} | {"instances": edited}
    rows = measure_lesions(instances, probability=instances, labels=instances.like(np.full(SHAPE, 5, np.uint8)))
    lesions = Lesions(Probabilities(Path(), Path(), Path()), 0.5, LesionFiles(**left), rows)
    asked = []

    def measured(subject, recipe, out, mask, *, console):
        asked.append(mask)
        return before(visit), lesions

    monkeypatch.setattr("msrim.workflows.rims.segment_corrected", measured)
    for given in (None, edited):
        table = classified(visit, model, monkeypatch, lesions=given)
        assert table == visit / "out/sub-1/corrected/rims/anat/sub-1_desc-lesions.tsv"
        assert [float(row["volume_mm3"]) for row in rows_of(table)] == [126.563]
    assert asked == [edited, edited]
    run = json.loads((visit / "out/sub-1/corrected/rims/run.json").read_text(encoding="utf-8"))
    assert run["recipe"]["lesions"] == "corrected by hand" and run["inputs"]["lesions"]["path"] == str(edited)
    assert f"corrected by hand: {edited}" in (visit / "out/sub-1/corrected/rims/report.html").read_text("utf-8")
    after = hashes(visit / "out/sub-1/rims")
    assert {name: after[name] for name in found} == found
    # Another mask of the user's own is classified as ever.
    assert classified(visit, model, monkeypatch) == visit / "out/sub-1/rims/anat/sub-1_desc-lesions.tsv"


def test_nothing_found_by_segment_is_a_valid_answer(visit, model, monkeypatch):
    assert rows_of(segmented(visit, [], monkeypatch, model)) == []
    summary = json.loads((visit / "out/sub-1/rims/anat/sub-1_desc-summary.json").read_text(encoding="utf-8"))
    assert (summary["lesions"], summary["rim_lesions"], summary["rim_not_judged"]) == (0, 0, 0)


def test_no_lesion_within_the_qsm_still_ends_in_a_page(visit, model, monkeypatch):
    """All lesions lie above the QSM's slab."""
    path = find_qsm(visit / "sub-1")
    write_volume(Volume(nib.load(path).get_fdata(dtype=np.float32)[..., :10], AFFINE), path)
    lesions = np.zeros(SHAPE, np.uint8)
    lesions[20:28, 20:28, 12:14], lesions[45:50, 45:50, 12:15] = 1, 2
    mark(visit, lesions)
    monkeypatch.setattr("msrim.workflows.rims.align", lambda *_, **__: np.eye(4))
    rows = rows_of(classified(visit, model, monkeypatch))
    assert [row["rim"] for row in rows] == ["n/a"] * 2
    page = (visit / "out/sub-1/rims/report.html").read_text(encoding="utf-8")
    assert page.count("<b>not judged</b>") == 2 and "<figure>" not in page


def test_lesions_outside_the_qsm_are_told(visit, model, monkeypatch):
    """The QSM covers the lower slices alone; a mask on the FLAIR's grid has a lesion above them."""
    path = find_qsm(visit / "sub-1")
    low = nib.load(path).get_fdata(dtype=np.float32)[..., :12]
    write_volume(Volume(low, AFFINE), path)
    monkeypatch.setattr("msrim.workflows.rims.align", lambda *_, **__: np.eye(4))
    rows = rows_of(classified(visit, model, monkeypatch))
    assert [row["rim_probability"] == "n/a" for row in rows] == [False, False, True]
    run = json.loads((visit / "out/sub-1/rims/run.json").read_text(encoding="utf-8"))
    assert "lesion 3: outside the QSM's field of view, not judged" in run["warnings"]


def test_a_mask_on_neither_grid_is_refused(visit, model, monkeypatch):
    write_volume(Volume(np.pad(np.ones((16, 16, 16), np.uint8), 2), np.eye(4)), visit / "lesions.nii.gz")
    with pytest.raises(InputError, match="neither on the FLAIR's grid"):
        classified(visit, model, monkeypatch)


@pytest.mark.parametrize("grid", ["FLAIR", "QSM"])
def test_lesions_of_another_patient_are_refused(visit, model, monkeypatch, grid):
    lesions = np.zeros(SHAPE, np.uint8)
    lesions[8:16, 30:40, 6:9], lesions[30:38, 46:52, 4:7] = 1, 2
    affine = AFFINE.copy()
    if grid == "QSM":
        affine[:3, 3] += 1.5
        qsm = find_qsm(visit / "sub-1")
        write_volume(Volume(nib.load(qsm).get_fdata(dtype=np.float32), affine), qsm)
    write_volume(Volume(lesions, affine), visit / "lesions.nii.gz")
    with pytest.raises(InputError, match="is brighter on the FLAIR than half of the brain is"):
        classified(visit, model, monkeypatch)


def test_a_qsm_that_was_cut_off_is_told(visit, model, monkeypatch):
    path = find_qsm(visit / "sub-1")
    write_volume(Volume(nib.load(path).get_fdata(dtype=np.float32).clip(-0.05, 0.05), AFFINE), path)
    classified(visit, model, monkeypatch)
    run = json.loads((visit / "out/sub-1/rims/run.json").read_text(encoding="utf-8"))
    assert f"{path}: its values end at -0.05 and 0.05 ppm, where many lie" in run["doubts"][0]


def test_a_qsm_of_another_patient_is_told(visit, model, monkeypatch):
    subject, other = visit / "sub-1" / "anat", visit / "sub-2"
    other.mkdir()
    (subject / "sub-1_Chimap.nii.gz").rename(other / "sub-2_Chimap.nii.gz")
    monkeypatch.setattr("msrim.workflows.rims.preprocess_visit", lambda *_, **__: before(visit))
    given = RimInputs(other / "sub-2_Chimap.nii.gz", visit / "lesions.nii.gz")
    classify_rims(find_subject(visit / "sub-1"), given, Recipe(), visit / "out", console=QUIET, model=str(model))
    run = json.loads((visit / "out/sub-1/rims/run.json").read_text(encoding="utf-8"))
    assert f"{given.qsm}: is of sub-2 by its name, the FLAIR of sub-1" in run["warnings"]


def test_a_plain_mask_is_split_into_its_connected_lesions(visit, model, monkeypatch):
    labels = np.asarray(nib.load(visit / "lesions.nii.gz").dataobj)
    write_volume(Volume((255 * (labels > 0)).astype(np.uint8), AFFINE), visit / "lesions.nii.gz")
    voxels = [float(row["volume_mm3"]) / (0.75 * 0.75 * 3) for row in rows_of(classified(visit, model, monkeypatch))]
    assert voxels == pytest.approx([192, 75, 32], abs=0.01)


def test_confluent_lesions_of_a_plain_mask_are_two(tmp_path):
    """Two balls of 6 mm that touch; with a number for both of them they stay one."""
    points = np.stack(np.indices((40, 40, 40)), axis=-1)
    balls = np.minimum(*(np.linalg.norm(points - (x, 20, 20), axis=-1) for x in (14, 25))) <= 6
    grid = Volume(np.zeros(balls.shape, bool), np.eye(4))
    both = balls.astype(np.uint8)
    path = write_volume(grid.like(both), tmp_path / "mask.nii.gz")
    assert np.unique(read_lesions(path, {path: grid}).data).tolist() == [0, 1, 2]
    both[35:38, 35:38, 35:38] = 2
    path = write_volume(grid.like(both), tmp_path / "numbered.nii.gz")
    np.testing.assert_array_equal(read_lesions(path, {path: grid}).data, both)


def test_unit_is_told(visit, model, monkeypatch):
    path = find_qsm(visit / "sub-1")
    write_volume(Volume(1000 * nib.load(path).get_fdata(dtype=np.float32), AFFINE), path)
    rows = rows_of(classified(visit, model, monkeypatch))
    summary = json.loads((visit / "out/sub-1/rims/anat/sub-1_desc-summary.json").read_text(encoding="utf-8"))
    assert summary["qsm_unit"] == "ppb" and len(rows) == 3


def test_an_inverted_sign_is_told_and_the_rest_goes_on(visit, model, monkeypatch):
    path = find_qsm(visit / "sub-1")
    write_volume(Volume(-nib.load(path).get_fdata(dtype=np.float32), AFFINE), path)
    assert len(rows_of(classified(visit, model, monkeypatch))) == 3
    assert "sign looks inverted" in (visit / "out/sub-1/rims/report.html").read_text(encoding="utf-8")


def test_a_qsm_that_is_not_masked_is_told_and_the_rest_goes_on(visit, model, monkeypatch):
    path = find_qsm(visit / "sub-1")
    qsm = nib.load(path).get_fdata(dtype=np.float32)
    write_volume(Volume(np.where(qsm == 0, np.float32(-0.02), qsm), AFFINE), path)
    assert len(rows_of(classified(visit, model, monkeypatch))) == 3
    assert "not zero outside the brain" in (visit / "out/sub-1/rims/report.html").read_text(encoding="utf-8")


def test_features_are_measured_for_the_networks_that_want_them(visit, tmp_path, monkeypatch):
    pytest.importorskip("radiomics")
    folder = tmp_path / "aprl"
    folder.mkdir()
    recipe = TrainingRecipe(
        name="fresh", version="0", task="rims", summary="of a test", normalisation="none", network="aprl-nn",
        contrasts=("Chimap", "FLAIR"), steps=1, batch_size=1, learning_rate=1e-3,
    )  # fmt: skip
    weights = write_weights(build("aprl-nn"), folder / "weights.safetensors")
    write_rim_card(recipe, weights, built={}, trained_on="nothing", thresholds=[0.4, 0.1])
    rows = rows_of(classified(visit, folder, monkeypatch))
    assert all(0 < float(row["rim_probability"]) < 1 for row in rows) and len(rows) == 3
    [features] = (visit / "out").rglob("features.npy")
    assert np.load(features).shape == (3, 527)


@pytest.fixture
def misplaced(tmp_path, monkeypatch) -> dict[str, Path]:
    """A brain's FLAIR, QSM and magnitude on grids of their own; the FLAIR lies at MISPLACED_MM from the QSM."""
    monkeypatch.chdir(tmp_path)
    index = np.stack(np.meshgrid(*map(np.arange, (64, 72, 48)), indexing="ij"), axis=-1)
    place = index * 2.5 - np.array((64, 72, 48)) * 1.25
    lobes = np.exp(-(((place - (18, 10, 5)) / (14, 22, 12)) ** 2).sum(-1)) + np.exp(
        -(((place - (-20, -18, 8)) / (12, 18, 20)) ** 2).sum(-1)
    )
    inside = ((place / (62, 76, 50)) ** 2).sum(-1) < 1
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = -np.array((64, 72, 48)) * 1.25
    moved = affine.copy()
    moved[:3, 3] += MISPLACED_MM
    return {
        "flair": write_volume(Volume(((100 + 80 * lobes) * inside + 10).astype(np.float32), moved), Path("flair.nii")),
        "brain": write_volume(Volume(inside, moved), Path("brain.nii")),
        "qsm": write_volume(Volume(((0.1 * lobes - 0.03) * inside).astype(np.float32), affine), Path("qsm.nii")),
        "magnitude": write_volume(Volume((50 + 20 * lobes).astype(np.float32), affine), Path("magnitude.nii")),
    }


def test_flair_is_registered_to_the_qsm(misplaced):
    flair, brain = misplaced["flair"], misplaced["brain"]
    transform = read_transform(
        align_to_qsm(flair, corrected=flair, brain=brain, qsm=misplaced["qsm"], backend="embedded")
    )
    points = apply_transform(read_volume(brain).affine, np.argwhere(read_volume(brain).data)[::50])
    assert np.linalg.norm(apply_transform(transform, points) - (points - MISPLACED_MM), axis=1).mean() < 1


@pytest.mark.parametrize("with_magnitude", [False, True])
def test_fsl_registers_the_blanked_flair_to_the_blanked_qsm(misplaced, stand_in, with_magnitude):
    """FLIRT sees the brain and 8 mm around it where the QSM alone shows where it lies, else the magnitude's brain."""
    home = stand_in()
    flair, brain, qsm = (read_volume(misplaced[name]) for name in ("flair", "brain", "qsm"))
    right = np.eye(4)
    right[:3, 3] = -np.array(MISPLACED_MM)
    answer(home, right, moving=flair, fixed=qsm)
    magnitude = misplaced["magnitude"] if with_magnitude else None
    found = align_to_qsm(
        misplaced["flair"], corrected=misplaced["flair"], brain=misplaced["brain"], qsm=misplaced["qsm"],
        backend="fsl", magnitude=magnitude,
    )  # fmt: skip
    np.testing.assert_allclose(read_transform(found), right, atol=1e-5)
    assert not {"-inweight", "-refweight"} & set(arguments_of(home, "flirt"))
    given = {name: nib.load(asked(home) / f"{name}.nii.gz").get_fdata() for name in ("moving", "fixed")}
    np.testing.assert_array_equal(given["moving"], np.where(brain.data, flair.data, 0))
    inside = qsm.data != 0
    assert not given["fixed"][~inside].any()
    if with_magnitude:
        np.testing.assert_array_equal(given["fixed"][inside], read_volume(magnitude).data[inside])
    else:
        assert given["fixed"][inside].min() >= 1


def refused(*arguments: object) -> str:
    shown = CliRunner().invoke(app, ["rim-classify", *map(str, arguments)])
    assert shown.exit_code == 2, shown.output
    [line] = shown.stderr.splitlines()
    return line


def test_bad_input_ends_in_one_line_and_writes_nothing(visit, model, tmp_path):
    subject, out = visit / "sub-1", tmp_path / "out"
    path = find_qsm(subject)
    qsm = nib.load(path).get_fdata(dtype=np.float32)
    options = ("--out", out, "--model", model)
    write_volume(Volume(20 * qsm, AFFINE), path)
    assert "neither ppm nor ppb" in refused(subject, *options)
    away = AFFINE.copy()
    away[0, 3] += 500
    write_volume(Volume(qsm, away), path)
    assert "lie beside each other in space" in refused(subject, *options)
    write_volume(Volume(qsm, AFFINE), path)
    beside = write_volume(Volume(np.abs(qsm), away), visit / "magnitude.nii.gz")
    assert "magnitude.nii.gz: lie beside each other" in refused(subject, *options, "--magnitude", beside)
    assert "classifies no rims" in refused(subject, "--out", out, "--model", "head")
    assert "no such model" in refused(subject, "--out", out, "--model", "guess")
    assert "no such file" in refused(subject, *options, "--lesions", visit / "none.nii.gz")
    others = write_volume(Volume(np.zeros(SHAPE, np.uint8), AFFINE), visit / "sub-2_mask.nii.gz")
    assert "is of patient sub-2 by its name" in refused(subject, *options, "--lesions", others)
    assert "give f1, sensitive" in refused(subject, *options, "--threshold", "sometimes")
    path.rename(path.with_name("map.nii.gz"))
    assert "no QSM" in refused(subject, *options)
    assert "no subject" in refused(*options)
    assert not out.exists()


def test_qsm_is_found_by_its_name(tmp_path):
    for name in ("FLAIR.nii.gz", "chi_map.nii.gz", "machine.nii.gz"):
        (tmp_path / name).touch()
    assert find_qsm(tmp_path).name == "chi_map.nii.gz"
    (tmp_path / "sub-1_Chimap.nii.gz").touch()
    with pytest.raises(InputError, match="several files may be the QSM"):
        find_qsm(tmp_path)
