"""Recipes are checked before anything else happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from msrim.errors import InputError
from msrim.models.rims import INPUTS
from msrim.recipe import Recipe, read_recipe, read_training_recipe

PIPELINES = Path(__file__).parents[1] / "pipelines"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_the_default_recipe_file_states_the_defaults():
    assert read_recipe(PIPELINES / "segment.toml") == Recipe()
    stated = (PIPELINES / "segment.toml").read_text()
    assert [name for name in Recipe.model_fields if f"{name} = " not in stated] == []


def test_a_recipe_is_found_by_its_name_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_training_recipe(Path("allnet")) == read_training_recipe(PIPELINES / "allnet.toml")
    (tmp_path / "segment").write_text("threshold = 0.25")
    assert read_recipe(Path("segment")).threshold == 0.25
    with pytest.raises(InputError, match=r"alnet: cannot be read as a recipe; give .* one of allnet.*, head, "):
        read_training_recipe(Path("alnet"))


@pytest.mark.parametrize("path", sorted(PIPELINES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_in_pipelines_is_valid(path):
    if path.stem == "segment":
        read_recipe(path)
        return
    recipe = read_training_recipe(path)
    if recipe.task == "rims":
        assert recipe.normalisation == INPUTS[recipe.network].normalisation


def test_options_win_over_the_file(tmp_path):
    path = write(tmp_path, 'model = "mine"\ndevice = "cuda"\n')
    recipe = read_recipe(path, device="cpu", model=None, brain_extracted=True)
    assert (recipe.model, recipe.device, recipe.brain_extracted) == ("mine", "cpu", True)


def test_a_recipe_of_another_editor(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xef\xbb\xbfthreshold = 0.25\n")
    assert read_recipe(path).threshold == 0.25
    path.write_bytes("threshold = 0.25  # f\xfcr 7 T".encode("latin-1"))
    with pytest.raises(InputError, match=r"recipe.toml: cannot be read as a recipe: it is not UTF-8"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("treshold = 0.4", "recipe.toml: treshold: unknown field; known are model, backend, device, "),
        ("threshold = 1.5", "recipe.toml: threshold: Input should be less than 1"),
        ("min_lesion_mm3 = nan", "recipe.toml: min_lesion_mm3: Input should be a finite number"),
        ('device = "tpu"', "recipe.toml: device: Input should be 'auto', 'cpu' or 'cuda'"),
        ('model = ""', "recipe.toml: model: String should have at least 1 character"),
        ("model = ", "recipe.toml: not a TOML file: "),
    ],
)
def test_errors_name_file_and_field(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        read_recipe(write(tmp_path, text))
    assert message in str(caught.value)


TRAINING = """
name = "n"
version = "1"
task = "lesions"
summary = ""
normalisation = ""
network = "allnet"
contrasts = ["FLAIR"]
steps = 1
batch_size = 1
learning_rate = 1e-3
"""


@pytest.mark.parametrize(("crop", "sides"), [("64", (64, 64, 64)), ("[128, 128, 6]", (128, 128, 6))])
def test_a_crop_is_a_cube_or_three_sides(tmp_path, crop, sides):
    assert read_training_recipe(write(tmp_path, f"{TRAINING}crop = {crop}")).crop == sides


@pytest.mark.parametrize("crop", ["50", "[128, 40, 128]", "[64, 64]", "0", '"large"'])
def test_crops_that_no_network_can_halve_are_refused(tmp_path, crop):
    with pytest.raises(InputError, match=r"recipe\.toml: crop\."):
        read_training_recipe(write(tmp_path, f"{TRAINING}crop = {crop}"))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(InputError, match="cannot be read as a recipe"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "image.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as a recipe"):
        read_recipe(tmp_path / "image.toml")


def test_recipes_do_not_change():
    with pytest.raises(ValidationError):
        Recipe().model = "other"


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ("intensity_range = [5.0, -2.0]", "intensity_range: Value error, the lower end comes first"),
        ("threshold_range = [0.9, 0.1]", "threshold_range: Value error, the lower end comes first"),
        ("threshold_range = [0.1, 1.0]", "threshold_range.1: Input should be less than 1"),
    ],
)
def test_ranges_ascend(tmp_path, ends, message):
    with pytest.raises(InputError) as caught:
        read_training_recipe(write(tmp_path, TRAINING + ends))
    assert message in str(caught.value)
