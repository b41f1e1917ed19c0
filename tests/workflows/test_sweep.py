"""A sweep from its file to its table; what is done is not repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from msrim.cli.main import app
from msrim.errors import InputError
from msrim.files import write_json, write_text
from msrim.image import Volume, write_volume
from msrim.recipe import packaged_sweeps, read_sweep, read_training_recipe
from msrim.workflows.sweep import folder_of
from msrim.workflows.training_data import PAIR_FILES

ANACONV = " les_loss = false, settings = { anaconv = false } "
ROWS = {"U-Net": 0.5, "ALL-Net": 1.0}
SWEEP = """
name = "two"
summary = "two rows"
recipe = "allnet"
folds = 3
rows."U-Net" = { les_loss = false, settings = { anaconv = false } }
rows."ALL-Net" = {}
"""
CARD = """
name = "made"
version = "1"
network = "allnet"
task = "lesions"
summary = ""
contrasts = ["FLAIR"]
required = ["FLAIR"]
spacing_mm = 1.0
normalisation = ""
threshold = 0.5
sha256 = ""
licence = ""
training = ""
limits = ""
settings = {}
"""


@pytest.mark.parametrize("name", packaged_sweeps())
def test_every_row_of_a_packaged_sweep_is_a_recipe(name):
    sweep = read_sweep(Path(name), seeds=(1, 2, 3))
    plain = read_training_recipe(Path(sweep.recipe))
    recipes = [sweep.recipe_of(row) for row in sweep.rows]
    assert sweep.name == name and len({folder_of(row) for row in sweep.rows}) == len(recipes)
    assert len({recipe.model_dump_json() for recipe in recipes}) == len(recipes)
    # The recipe itself stands last, in one cycle as the papers' trainings; all rows are trained alike.
    training = {"optimiser": plain.optimiser.model_copy(update={"restarts": ()})}
    if name == "allnet-table4":
        training["learning_rate"] = 5e-3
    assert recipes[-1] == plain.model_copy(update=training)
    assert len({(recipe.learning_rate, recipe.optimiser.model_dump_json()) for recipe in recipes}) == 1


def test_rows_of_table_4_of_all_net():
    sweep = read_sweep(Path("allnet-table4"))
    found = {row: sweep.recipe_of(row, steps=7) for row in sweep.rows}
    parts = {row: (recipe.settings.get("anaconv", True), recipe.les_loss) for row, recipe in found.items()}
    assert parts == {
        "U-Net": (False, False), "U-Net + AnaConv": (True, False), "U-Net + LesLoss": (False, True),
        "ALL-Net": (True, True),
    }  # fmt: skip
    assert sweep.seeds == (1, 2, 3, 4, 5) and {recipe.steps for recipe in found.values()} == {7}
    # Only what a row names is changed.
    assert found["U-Net"].settings["widths"] == found["ALL-Net"].settings["widths"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": (1, 2)}, "seeds: give an odd number of different ones"),
        ({"folds": 1}, "folds: Input should be greater than or equal to 2"),
        ({"rows": {"a": {"les_los": True}}}, "two, row a: les_los: unknown field"),
        ({"rows": {"a": {"optimiser": {"factor": 2.0}}}}, "two, row a: optimiser.factor: Input should be less than 1"),
        ({"recipe": "alnet"}, "alnet: cannot be read as a recipe"),
    ],
)
def test_impossible_sweeps_are_refused(tmp_path, changed, message):
    path = write_text(SWEEP, tmp_path / "two.toml")
    with pytest.raises(InputError) as caught:
        sweep = read_sweep(path, **changed)
        sweep.recipe_of(next(iter(sweep.rows)))
    assert message in str(caught.value)


@pytest.fixture
def done(tmp_path) -> Path:
    """Three patients, and a sweep of which every training and every mask lies there: one row finds half of each."""
    rng = np.random.default_rng(0)
    for number, label in enumerate("abc"):
        truth = np.zeros((12, 12, 12), bool)
        truth[2:6, 2:6, 2:6] = True
        flair = Volume(rng.random(truth.shape).astype(np.float32), np.eye(4))
        anat = tmp_path / "data" / f"sub-{label}" / "anat"
        write_volume(flair, anat / f"sub-{label}_FLAIR.nii.gz")
        write_volume(Volume(truth, np.eye(4)), anat / f"sub-{label}_label-L_mask.nii.gz")
        for row, share in ROWS.items():
            write_text(CARD, tmp_path / "out" / folder_of(row) / f"fold-{number}" / "seed-1" / "card.toml")
            found = truth.copy()
            found[2 + round(4 * share) :] = False
            kept = tmp_path / "out" / folder_of(row) / "results" / f"sub-{label}" / "anat"
            write_volume(Volume(found, np.eye(4)), kept / f"sub-{label}_space-orig_label-L_mask.nii.gz")
            own = Volume(truth * np.float32(share), np.eye(4))
            write_volume(own, kept / f"sub-{label}_space-orig_label-L_desc-network_probseg.nii.gz")
            write_json({}, kept / f"sub-{label}_desc-summary.json")
    write_text(SWEEP, tmp_path / "two.toml")
    return tmp_path


def run(folder: Path, *options: str):
    arguments = ["sweep", str(folder / "two.toml"), "--data", str(folder / "data"), "--out", str(folder / "out")]
    return CliRunner().invoke(app, [*arguments, *options, "--quiet"])


def test_a_finished_sweep_is_a_table(done):
    shown = run(done, "--json")
    assert shown.exit_code == 0, shown.output
    figures = json.loads(shown.stdout)
    assert (figures["seeds"], figures["folds"], figures["rows"]["U-Net"]["patients"]) == (1, 3, 3)
    # Half of the truth and nothing else: 2 * 32 / (32 + 64); all of it: 1.
    assert figures["rows"]["U-Net"]["dice"]["mean"] == pytest.approx(2 / 3)
    assert figures["rows"]["ALL-Net"]["dice"]["mean"] == 1.0
    assert figures["rows"]["U-Net"]["average_precision"] == 1.0
    [dice] = [one for one in figures["differences"]["ALL-Net"] if one["figure"] == "dice"]
    assert dice["mean_difference"] == pytest.approx(1 / 3) and dice["patients"] == 3
    assert Path(figures["page"]).is_file() and json.loads((done / "out" / "sweep.json").read_text()) == figures
    first, row, *_ = run(done).stdout.splitlines()
    assert "n = 3 patients" in first and "1 seed(s), 2000 steps" in first
    assert row.startswith("U-Net: dice 0.667 (0.667 to 0.667), ")


def test_marked_pairs_are_judged_beside_the_single_visits(done):
    """Of CoactSeg's Table 3: new lesions of pairs, all lesions of visits; networks that compare visits do not vote."""
    write_text(SWEEP.replace('"allnet"', '"coactseg"').replace(ANACONV, ' samples = "pairs" '), done / "two.toml")
    for number, name in enumerate(("p1", "p2")):
        for file in PAIR_FILES:
            write_text("", done / "data" / name / file)
        for row, dice in ROWS.items():
            found = {"dice": dice / (number + 1), "jaccard": None, "hd95_mm": 2.0, "asd_mm": 1.0, "f1": 0.5}
            write_json(found, done / "out" / folder_of(row) / "pairs" / f"{name}.json")
    rows = json.loads(run(done, "--json").stdout)["rows"]
    assert rows["U-Net"]["pairs"] == 2 and rows["U-Net"]["new_dice"]["mean"] == pytest.approx((0.5 + 0.25) / 2)
    assert rows["ALL-Net"]["new_dice"]["mean"] == 0.75 and rows["ALL-Net"]["new_jaccard"]["mean"] is None
    assert "ALL-Net [new lesions of 2 pairs]: dice 1.000" in run(done).stdout
    folds = json.loads((done / "out" / "protocol.json").read_text(encoding="utf-8"))["folds"]
    assert folds == [["a", "p1"], ["b", "p2"], ["c"]]
    shown = run(done, "--seeds", "3")
    assert shown.exit_code == 2 and "do not vote; give --seeds 1" in shown.stderr


def test_a_folder_of_another_sweep_is_not_taken_for_this_one(done):
    assert run(done).exit_code == 0
    shown = run(done, "--steps", "5")
    assert shown.exit_code == 2 and "holds a sweep of other recipes or patients" in shown.stderr


def test_too_few_patients_are_refused_before_anything_is_written(done):
    arguments = ["--data", str(done / "data"), "--out", str(done / "new"), "--folds", "4"]
    shown = CliRunner().invoke(app, ["sweep", "allnet-table4", *arguments])
    assert shown.exit_code == 2 and "3 marked patients are too few for 4 folds" in shown.stderr
    assert not (done / "new").exists()
