"""A slice network from CT scans to weights, by the command line's own way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import write_lits_scan
from typer.testing import CliRunner

from msrim.cli.main import app
from msrim.console import Console
from msrim.errors import InputError
from msrim.image import Volume, read_volume, same_grid, write_volume
from msrim.models import load_model, read_card
from msrim.recipe import read_training_recipe
from msrim.workflows.train import train

RECIPE = """
name = "ct"
version = "1"
task = "slices"
summary = "tumours"
normalisation = "z"
network = "scp"
contrasts = ["CT"]
steps = 2
batch_size = 2
learning_rate = 1e-3
workers = 0
settings = { channels = 32, in_channels = 1, plane = [32, 48] }
"""


@pytest.fixture
def lits(tmp_path):
    rng = np.random.default_rng(0)
    for number in (0, 1):
        write_lits_scan(tmp_path / "data", number, rng)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def test_ct_in_card_and_weights_out(lits):
    recipe = read_training_recipe(lits / "recipe.toml")
    out = train(recipe, lits / "data", lits / "out", leave_out=["1"], console=Console(quiet=True))
    card = read_card(out)
    assert (card.task, card.contrasts, card.network) == ("slices", ("CT",), "scp")
    assert "1 scans" in card.training
    assert load_model(card).plane == (32, 48)


def test_a_made_ct_goes_from_training_to_a_mask(lits):
    """Turned on the disk: the network sees it as in training, and the mask lies on the file's own grid."""
    recipe = read_training_recipe(lits / "recipe.toml")
    model = train(recipe, lits / "data", lits / "out", leave_out=["1"], console=Console(quiet=True))
    straight = read_volume(lits / "data" / "volume-1.nii")
    affine = np.array([[0.0, -1.0, 0.0, 69.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    turned = Volume(straight.data[::-1].transpose(1, 0, 2), affine)
    found = {}
    for name, volume in (("straight", straight), ("turned", turned)):
        image = write_volume(volume, lits / f"{name}.nii.gz")
        shown = CliRunner().invoke(app, ["predict", str(model), str(image), "--out", str(lits / name), "--quiet"])
        assert shown.stdout == f"{lits}/{name}/{name}_label-L_mask.nii.gz\n"
        mask = read_volume(Path(shown.stdout.strip()), mask=True)
        found[name] = read_volume(lits / name / f"{name}_label-L_probseg.nii.gz").data
        assert same_grid(mask, volume)
        np.testing.assert_array_equal(mask.data, found[name] >= read_card(model).threshold)
    # The plane of 32 x 48 pixels shows 64 x 96 of the scan's 70 x 90; the network says nothing of what lies beyond.
    assert not found["straight"][0].any() and found["straight"][30:40].all()
    np.testing.assert_allclose(found["turned"], found["straight"][::-1].transpose(1, 0, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "message"), [("head", "does not work slice by slice"), ("scp", "takes several contrasts")]
)
def test_other_models_are_refused_before_anything_is_written(lits, model, message):
    image = str(lits / "data" / "volume-0.nii")
    shown = CliRunner().invoke(app, ["predict", model, image, "--out", str(lits / "none")])
    assert (shown.exit_code, (lits / "none").exists()) == (2, False)
    [line] = shown.stderr.splitlines()
    assert message in line


def test_nothing_left_and_labels_of_another_scan(lits):
    recipe = read_training_recipe(lits / "recipe.toml")
    with pytest.raises(InputError, match="is left to train on"):
        train(recipe, lits / "data", lits / "out", leave_out=["0", "1"], console=Console(quiet=True))
    with pytest.raises(InputError, match="no marked subject 2 to leave out"):
        train(recipe, lits / "data", lits / "out", leave_out=["2"], console=Console(quiet=True))
    write_volume(Volume(np.eye(70, 90)[..., None].repeat(8, 2), np.eye(4)), lits / "data" / "segmentation-1.nii")
    with pytest.raises(InputError, match="not on the grid of volume-1"):
        train(recipe, lits / "data", lits / "out", leave_out=[], console=Console(quiet=True))
