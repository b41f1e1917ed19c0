"""Every registered network, by the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from msrim.errors import ModelError
from msrim.models import build, load_model, read_card
from msrim.models.inference import scale_intensities
from msrim.models.networks.allnet import AnaConv
from msrim.models.networks.head import fold_blocks, unfold_blocks
from msrim.models.registry import packaged_cards
from msrim.training.losses import all_net_loss, focal, soft_dice

ALL_NETS = ("allnet", "allnet-tiramisu")
CHANNELS = dict.fromkeys(ALL_NETS, (9, 2)) | {"head": (3, 9), "coactseg": (3, 6), "scp": (3, 1)}


@pytest.mark.parametrize("name", CHANNELS)
def test_a_network_answers_for_every_voxel(name):
    inputs, outputs = CHANNELS[name]
    with torch.inference_mode():
        answer = build(name).eval()(torch.zeros(1, inputs, 16, 32, 48))
    assert answer.shape == (1, outputs, 16, 32, 48)


def test_an_unknown_network_is_refused():
    with pytest.raises(ModelError, match="choose one of allnet, "):
        build("resnet")


@pytest.mark.parametrize("card", list(packaged_cards()), ids=lambda card: card.label)
def test_packaged_weights_fit_their_cards(card):
    assert all(torch.isfinite(value).all() for value in load_model(card).state_dict().values())


@pytest.mark.parametrize("card", list(packaged_cards()), ids=lambda card: card.label)
def test_packaged_cards_say_what_a_user_must_know(card):
    """What it is for, on what it was trained, what it cannot do; and its numbers are possible ones."""
    assert card.task in ("brain", "head", "lesions", "longitudinal", "rims", "slices")
    for text in (card.summary, card.normalisation, card.training, card.limits, card.licence):
        assert len(text.split()) >= 1 and "TODO" not in text
    assert len(card.training.split()) > 5 and len(card.limits.split()) > 5
    assert set(card.required) <= set(card.contrasts)
    assert 0 < card.threshold < 1 and len(card.sha256) == 64
    assert np.all(np.asarray(card.spacing_mm) > 0)


def test_damaged_weights_are_refused(tmp_path):
    card = read_card("head")
    damaged = bytearray(card.weights.read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(damaged)
    card_file = card.weights.parents[1] / "cards" / "head.toml"
    (tmp_path / "card.toml").write_text(card_file.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ModelError, match="damaged"):
        load_model(read_card(tmp_path))


def test_a_folder_called_like_a_packaged_model_does_not_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "head").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_card("head").name == "head"
    with pytest.raises(ModelError, match="cannot be read as a model card"):
        read_card("./head")


def test_ana_conv_sees_where_a_voxel_is():
    """The same features at another place give another answer; without coordinates a convolution could not tell."""
    torch.manual_seed(0)
    layer = AnaConv(2, 4).eval()
    features = torch.ones(1, 2, 3, 3, 3)
    here, there = torch.zeros(1, 6, 3, 3, 3), torch.ones(1, 6, 3, 3, 3)
    assert not torch.allclose(layer(features, here), layer(features, there))
    assert layer.fuse[0].in_channels == 2 + 6


@pytest.mark.parametrize("name", ALL_NETS)
def test_without_ana_conv_a_network_knows_no_place(name):
    """The baseline of ALL-Net's Table 4, which differs by the six coordinates' weights alone."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 32, 32, 32)
    places = torch.randn(2, 6, 32, 32, 32)
    inputs = torch.cat([image.expand(2, -1, -1, -1, -1), places], dim=1)
    networks = {anaconv: build(name, anaconv=anaconv).eval() for anaconv in (True, False)}
    with torch.inference_mode():
        alike = {anaconv: torch.equal(*network(inputs)) for anaconv, network in networks.items()}
    assert alike == {True: False, False: True}
    count = {anaconv: sum(p.numel() for p in network.parameters()) for anaconv, network in networks.items()}
    assert count[True] - count[False] == 2 * 6 * 8 * 27


def test_folding_loses_no_voxel():
    volume = torch.arange(2 * 3 * 4 * 6 * 8.0).reshape(2, 3, 4, 6, 8)
    folded = fold_blocks(volume)
    assert folded.shape == (2, 24, 2, 3, 4)
    assert torch.equal(folded[1, 8:16, 1, 2, 3], volume[1, 1, 2:4, 4:6, 6:8].reshape(8))
    assert torch.equal(unfold_blocks(folded), volume)


def test_focal_loss_against_equation_3_by_hand():
    probability = np.array([0.9, 0.2, 0.6])
    sphere = np.array([1.0, 1.0, 0.0])
    alpha, gamma = 0.25, 2.0
    by_hand = -np.mean(
        alpha * (1 - probability) ** gamma * np.log(probability) * sphere
        + (1 - alpha) * probability**gamma * np.log(1 - probability) * (1 - sphere)
    )
    logits = torch.logit(torch.from_numpy(probability)).reshape(1, 1, 3, 1, 1)
    assert float(focal(logits, torch.from_numpy(sphere).reshape(1, 1, 3, 1, 1))) == pytest.approx(by_hand, rel=1e-9)


def test_focal_loss_is_cross_entropy_without_focus():
    logits, truth = torch.randn(2, 1, 3, 3, 3), (torch.rand(2, 1, 3, 3, 3) > 0.5).float()
    plain = F.binary_cross_entropy_with_logits(logits, truth)
    assert torch.allclose(2 * focal(logits, truth, alpha=0.5, gamma=0.0), plain)


def test_intensities_are_scaled_by_their_own_percentiles():
    image = np.concatenate([np.zeros(50), np.arange(1.0, 202.0)]).astype(np.float32)
    scaled = scale_intensities(image)
    assert (scaled[0], scaled[50 + 100], scaled[-1]) == (0, pytest.approx(0.5), 1)
    assert not scale_intensities(np.full(8, -3.0, np.float32)).any()


def test_soft_dice_by_hand():
    probability = torch.tensor([0.5, 0.5, 1.0, 0.0]).reshape(1, 1, 4, 1, 1)
    truth = torch.tensor([1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 4, 1, 1)
    assert float(soft_dice(probability, truth)) == pytest.approx(1 - 2 * 1.5 / (2 + 2))


def test_all_net_loss_weighs_its_three_parts_equally():
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 4, 4, 4)
    lesions, spheres = (torch.rand(1, 1, 4, 4, 4) > 0.7).float(), (torch.rand(1, 1, 4, 4, 4) > 0.5).float()
    parts = (
        focal(logits[:, 1:], spheres)
        + F.binary_cross_entropy_with_logits(logits[:, :1], lesions)
        + soft_dice(torch.sigmoid(logits[:, :1]), lesions)
    )
    assert torch.allclose(all_net_loss(logits, lesions, spheres), parts)
    without = all_net_loss(logits, lesions, spheres, les_loss=False)
    assert torch.allclose(parts - without, focal(logits[:, 1:], spheres))
