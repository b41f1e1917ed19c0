"""SCP and its comparators: what they compute, and what they cost beside the paper's table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from msrim.files import sha256_of
from msrim.image import Volume
from msrim.models import build, inference, load_model, read_card, write_weights
from msrim.models.inference import find_lesions
from msrim.models.networks.scp import CovariantHead, four_distances
from tests.benchmarks.scp_cost import PAPER, cost
from tests.benchmarks.scp_maps import covariant_weights, share_between_places, statistics_of

HEADS = ("scp", "base", "base-f", "base-b")


@pytest.fixture(scope="module")
def costs():
    return {key: cost(*key) for key in PAPER}


@pytest.mark.parametrize("figure", [1, 2], ids=["FLOPs", "parameters"])
def test_cost_ratios_are_the_papers_within_2_percent(costs, figure):
    for key, paper in PAPER.items():
        assert costs[key][figure] / costs["base", 128][figure] == pytest.approx(paper[figure], rel=0.02), key


def test_memory_ratios_are_the_papers_within_3_percent(costs):
    for key, (paper, _, _) in PAPER.items():
        assert costs[key][0] / costs["base", 128][0] == pytest.approx(paper, rel=0.03), key


def test_scp_256_saves_what_the_paper_says_against_base_512(costs):
    saved = [1 - small / large for small, large in zip(costs["scp", 256], costs["base", 512], strict=True)]
    assert saved == pytest.approx([0.238, 0.649, 0.747], abs=0.015)


def test_parameters_by_hand():
    """Of the function from place to weights: 4 to 128, to 128, to 16, each with its bias; and 16 shared weights."""
    extra = (4 * 128 + 128) + (128 * 128 + 128) + (128 * 16 + 16) + 16 - (16 + 1)
    scp, base = (sum(p.numel() for p in build("scp", head=head).parameters()) for head in ("scp", "base"))
    assert scp - base == extra


def test_a_bias_is_one_more_parameter_and_moves_every_logit():
    torch.manual_seed(0)
    plain = build("scp", channels=32).eval()
    biased = build("scp", channels=32, bias=True).eval()
    assert sum(p.numel() for p in biased.parameters()) - sum(p.numel() for p in plain.parameters()) == 1
    biased.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(1, 3, 16, 32)
    with torch.inference_mode():
        assert torch.allclose(biased(image), plain(image) - 2, atol=1e-5)


def test_the_place_is_four_distances():
    place = 100 * four_distances(torch.zeros(2, 3, 5, 7, 4))
    assert place.shape == (1, 4, 5, 7, 1)
    assert place[0, :, 3, 1, 0].tolist() == pytest.approx([3, 1, 2, 6])


def test_covariant_head_is_equation_13():
    torch.manual_seed(0)
    head = CovariantHead(6, 10).double()
    features = torch.randn(2, 6, 5, 7, 1, dtype=torch.float64)
    answer = head(features)
    for image, i, j in [(0, 0, 0), (1, 4, 2), (0, 3, 6)]:
        place = torch.tensor([i, j, 5 - i, 7 - j], dtype=torch.float64) / 100
        first, second, third = (head.weights_of[layer] for layer in (0, 2, 4))
        hidden = torch.relu(first.weight[:, :, 0, 0, 0] @ place + first.bias)
        hidden = torch.relu(second.weight[:, :, 0, 0, 0] @ hidden + second.bias)
        weights = third.weight[:, :, 0, 0, 0] @ hidden + third.bias + head.shared.weight[0, :, 0, 0, 0]
        assert answer[image, 0, i, j, 0].item() == pytest.approx(
            (weights @ features[image, :, i, j, 0]).item(), rel=1e-9
        )


@pytest.mark.parametrize("head", HEADS)
def test_only_the_place_makes_two_equal_neighbourhoods_differ(head):
    """A constant image, seen far from its edges: a plain network answers alike everywhere, the others do not."""
    torch.manual_seed(0)
    network = build("scp", head=head, channels=128).eval().double()
    with torch.inference_mode():
        answer = network(torch.ones(1, 3, 416, 416, dtype=torch.float64))[0, 0, 192:224, 192:224]
    # Max-pooling repeats its pattern every 16 pixels.
    assert torch.allclose(answer[:16], answer[16:], rtol=0, atol=1e-9) == (head == "base")


@pytest.mark.parametrize("head", HEADS)
def test_a_volume_is_its_slices(head):
    torch.manual_seed(0)
    network, volume = build("scp", head=head, channels=32).eval(), torch.randn(2, 3, 16, 32, 5)
    with torch.inference_mode():
        answer = network(volume)
        assert torch.allclose(answer[1, :, :, :, 3], network(volume[1:, :, :, :, 3])[0], atol=1e-5)
    assert answer.shape == (2, 1, 16, 32, 5)


def test_every_weight_of_scp_learns():
    torch.manual_seed(0)
    network = build("scp", channels=32)
    network(torch.randn(2, 3, 16, 16)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().any()] == []


def test_a_trained_network_finds_lesions_on_a_grid_of_any_size(tmp_path, monkeypatch):
    """Cut and padded to its plane and back: the answer for a pixel is that of the same pixel of the plane."""
    # Of a network that was never trained nothing has a core.
    monkeypatch.setattr(inference, "CORE_ODDS", 1.0)
    torch.manual_seed(0)
    network = build("scp", channels=32, in_channels=2, plane=(32, 48)).eval()
    weights = write_weights(network, tmp_path / "weights.safetensors")
    card = replace(
        read_card("allnet"),
        network="scp",
        settings={"channels": 32, "in_channels": 2, "plane": [32, 48]},
        task="slices",
        contrasts=("FLAIR", "T1w"),
        weights=weights,
        sha256=sha256_of(weights),
    )
    rng = np.random.default_rng(0)
    flair = Volume(rng.normal(size=(40, 40, 6)).astype(np.float32), np.eye(4))
    brain = flair.like(np.ones(flair.shape, bool))
    lesion, sphere = find_lesions(
        {"FLAIR": flair}, tissue=brain, brain=brain, mni_from_world=np.eye(4), card=card, device="cpu"
    )
    plane = np.pad(flair.data[4:-4], ((0, 0), (4, 4), (0, 0)))
    stack = np.stack([(plane - plane.mean()) / plane.std(), np.zeros_like(plane)])[None]
    with torch.inference_mode():
        expected = torch.sigmoid(network(torch.from_numpy(stack)))[0, 0].numpy()
    assert lesion.data[4:-4] == pytest.approx(expected[:, 4:-4], abs=0.01)  # bfloat16 where the processor has it
    assert not lesion.data[:4].any() and not sphere.data.any()


def test_maps_of_the_weights_follow_places_alone():
    """A head that has one set of weights everywhere shows flat maps; the packaged one's differ by place."""
    torch.manual_seed(0)
    flat = CovariantHead(4, 8)
    torch.nn.init.zeros_(flat.weights_of[-1].weight)
    weights = covariant_weights(flat, (16, 24))
    np.testing.assert_allclose(
        weights[:, 3, 5], flat.weights_of[-1].bias.detach() + flat.shared.weight.detach().flatten(), atol=1e-6
    )
    assert share_between_places(weights) < 1e-9
    assert all(not image.any() for image in statistics_of(weights).values())
    head = load_model(read_card("scp")).head
    learned = covariant_weights(head, (160, 224))
    assert learned.shape == (16, 160, 224) and share_between_places(learned) > 0.1
    assert all(image.min() == 0 and image.max() == 1 for image in statistics_of(learned).values())
