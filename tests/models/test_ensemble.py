"""Models that decide together: trained alike, by majority; of any kind, by their mean log odds."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy.special import logit

from msrim.errors import ModelError
from msrim.image import Volume
from msrim.models import build, inference, load_model, read_card, write_weights
from msrim.models.cards import join_models, write_card
from msrim.models.registry import for_slices
from msrim.models.rims import INPUTS, inputs_of, rim_probabilities
from msrim.recipe import TrainingRecipe

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
        (["head"] * 3, "models for lesions or rims can vote"),
        (five[:1], "three different models"),
        ([five[0]] * 3, "three different models"),
        ([*five[:2], model(tmp_path, seed=7, head_width=8)], "differ in settings"),
        ([*five[:2], model(tmp_path, seed=8, intensity_range=(-2, 5))], "differ in intensity_range"),
    ):
        with pytest.raises(ModelError, match=reason):
            join_models(models, tmp_path / "vote", name="vote")
    assert not (tmp_path / "vote").exists()


def test_models_joined_by_a_plus_decide_by_their_mean_log_odds(five, monkeypatch):
    # Of networks that were never trained nothing has a core.
    monkeypatch.setattr(inference, "CORE_ODDS", 1.0)
    flair = Volume(np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32), np.eye(4))
    brain = flair.like(np.ones(flair.shape, bool))

    def answer(model):
        card = read_card(model)
        return inference.find_lesions(
            {"FLAIR": flair}, tissue=brain, brain=brain, mni_from_world=np.eye(4), card=card, device="cpu"
        )

    one, other, both = (answer(model) for model in (five[0], five[1], f"{five[0]}+{five[1]}"))
    for a, b, mean in zip(one, other, both, strict=True):
        assert logit(mean.data) == pytest.approx((logit(a.data) + logit(b.data)) / 2, abs=1e-4)
    assert abs(one[0].data - other[0].data).max() > 0.01


def test_card_of_models_joined_by_a_plus():
    card, parts = read_card("allnet+scp"), (read_card("allnet"), read_card("scp"))
    assert card.label == f"{parts[0].label}+{parts[1].label}"
    assert logit(card.threshold) == pytest.approx(np.mean([logit(part.threshold) for part in parts]), abs=1e-3)
    assert (card.contrasts, card.required) == (("FLAIR", "T1w", "T2w"), ("FLAIR",))
    for part in parts:
        paragraphs = [text for text in card.limits.split("\n\n") if part.label in text]
        told = {sentence for text in paragraphs for sentence in re.split(r"(?<=[.]) |: ", text)}
        assert set(re.split(r"(?<=[.]) |: ", " ".join(part.limits.split()))) <= told
    assert card.limits.count("Look at every case.") == 1


def test_what_cannot_decide_together(five):
    for models, reason in (
        ("allnet+datrnet", "datrnet@.*only models for lesions"),
        ("allnet+coactseg", "only models for lesions"),
        ("allnet+scp+allnet", "one model twice"),
        ("allnet+skynet", "skynet: no such model"),
        ("allnet+", r"allnet\+: no name on one side of"),
    ):
        with pytest.raises(ModelError, match=reason):
            read_card(models)
        with pytest.raises(ModelError, match=reason):
            for_slices(models, 3.0)
    with pytest.raises(ModelError, match="name one"):
        load_model(read_card(f"{five[0]}+{five[1]}"))


def test_a_folder_with_a_plus_in_its_name_is_one_model(tmp_path):
    folder = model(tmp_path / "a+b", seed=3)
    assert read_card(folder).members == ()


def test_a_folder_called_like_packaged_models_does_not_take_their_place(tmp_path, monkeypatch):
    (tmp_path / "allnet+scp").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [card.name for card in read_card("allnet+scp").members] == ["allnet", "scp"]


def test_rim_models_vote_each_by_its_own_threshold(tmp_path):
    settings = {"features": 4, "radii": [5], "pre_convs": 1, "widths": [4, 4, 8, 8]}
    recipe = TrainingRecipe(
        name="rims", version="1", task="rims", summary="of a test", normalisation="none", network="datrnet",
        settings=settings, contrasts=("Chimap", "FLAIR"), steps=1, batch_size=1, learning_rate=1,
    )  # fmt: skip
    patches = np.random.default_rng(0).normal(size=(40, 3, 32, 32, 8)).astype(np.float32)
    folders, votes = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        weights = write_weights(build("datrnet", **settings), tmp_path / f"{seed}" / "weights.safetensors")
        folders.append(str(weights.parent))
        write_card(recipe, weights, settings=settings, spacing_mm=[0.75, 0.75, 3.0], threshold=0.5, training="none",
                   limits="a test")  # fmt: skip
        found = rim_probabilities(read_card(folders[-1]), patches, None)
        limit = round(float(np.quantile(found, 0.3 + 0.2 * seed)), 4)
        write_card(recipe, weights, settings=settings, spacing_mm=[0.75, 0.75, 3.0], threshold=limit, training="none",
                   limits="a test")  # fmt: skip
        votes.append(found >= limit)
    card = read_card(join_models(folders, tmp_path / "vote", name="vote"))
    assert card.task == "rims" and inputs_of(card) == INPUTS["datrnet"]
    joined = rim_probabilities(card, patches, None) >= card.threshold
    assert np.array_equal(joined, np.sum(votes, axis=0) >= 2) and 0 < joined.sum() < 40
