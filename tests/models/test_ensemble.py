"""Models that vote."""

from __future__ import annotations

import pytest
import torch

from msrim.errors import ModelError
from msrim.models import build, load_model, read_card
from msrim.recipe import TrainingRecipe
from msrim.training.loop import write_weights
from msrim.workflows.cards import join_models, write_card

SMALL = {"contrasts": 1, "widths": [4, 8], "head_width": 4}


def model(folder, *, seed, intensity_range=None, **settings):
    recipe = TrainingRecipe(
        name=f"seed{seed}", version="1", task="lesions", summary="of a test", normalisation="none", network="allnet",
        settings=SMALL | settings, contrasts=("FLAIR",), steps=1, batch_size=1, learning_rate=1,
        intensity_range=intensity_range,
    )  # fmt: skip
    torch.manual_seed(seed)
    weights = write_weights(build("allnet", **recipe.settings), folder / f"{seed}" / "weights.safetensors")
    write_card(recipe, weights, settings=recipe.settings, training="none", limits="a test")
    return str(weights.parent)


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    return [model(tmp_path_factory.mktemp("five"), seed=seed) for seed in range(5)]


def test_a_threshold_on_the_joined_answer_is_the_majority(five, tmp_path):
    card = read_card(join_models(five, tmp_path / "vote", name="vote"))
    assert (card.label, card.task, card.contrasts) == ("vote@1", "lesions", ("FLAIR",))
    torch.manual_seed(9)
    image = torch.randn(1, 7, 16, 16, 16)
    with torch.inference_mode():
        votes = torch.stack([load_model(read_card(folder))(image) for folder in five])
        joined = load_model(card)(image)
    limit = float(votes.median())
    counted = (votes > limit).sum(0)
    assert torch.equal(joined > limit, counted >= 3)
    assert (counted == 2).any() and (counted == 3).any()


def test_what_cannot_vote(five, tmp_path):
    for models, reason in (
        (five[:4], "odd number"),
        (["datrnet"] * 3, "models for lesions can vote"),
        (five[:1], "three different models"),
        ([five[0]] * 3, "three different models"),
        ([*five[:2], model(tmp_path, seed=7, head_width=8)], "differ in settings"),
        ([*five[:2], model(tmp_path, seed=8, intensity_range=(-2, 5))], "differ in intensity_range"),
    ):
        with pytest.raises(ModelError, match=reason):
            join_models(models, tmp_path / "vote", name="vote")
    assert not (tmp_path / "vote").exists()
