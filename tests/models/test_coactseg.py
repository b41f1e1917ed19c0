"""CoactSeg: the network of the paper, and a whole brain in windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from msrim.files import sha256_of
from msrim.image import Volume
from msrim.models import inference, load_model
from msrim.models.inference import find_changes, prepare_network
from msrim.models.networks.coactseg import CoactSeg, lesion_probabilities
from msrim.models.registry import read_card
from msrim.models.sliding import slide


def settled(width: int) -> CoactSeg:
    """A network whose batch norms have seen something, as after training."""
    torch.manual_seed(0)
    network = CoactSeg(width=width)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 3, 32, 32, 32))
    return network.eval()


def cpu(network: nn.Module) -> Callable[[np.ndarray], torch.Tensor]:
    """The network as a function on the CPU."""
    return prepare_network(network, device="cpu")


def test_the_paper_s_number_of_parameters():
    assert sum(parameter.numel() for parameter in CoactSeg().parameters()) == 9_484_502
    assert sum(parameter.numel() for parameter in CoactSeg(width=8).parameters()) < 9_484_502 / 3.9


def test_new_lesions_are_told_from_the_features_of_both_visits():
    """Equal heads for both visits leave the new-lesion head without their difference, and it answers otherwise."""
    network = settled(4)
    image = torch.randn(1, 3, 16, 16, 16)
    with torch.no_grad():
        before = network(image)
        network.features[1].load_state_dict(network.features[0].state_dict())
        after = network(image)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_probability_is_the_softmax_of_each_head():
    logits = torch.randn(1, 6, 2, 2, 2)
    expected = torch.stack([logits[:, 2 * head : 2 * head + 2].softmax(1)[:, 1] for head in range(3)], dim=1)
    assert torch.allclose(lesion_probabilities(logits), expected)


@pytest.fixture
def card(tmp_path):
    """A folder like that of `msrim train`, with a network that was never trained."""
    save_file(settled(4).state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "card.toml").write_text(
        'name = "coactseg"\nversion = "0"\nnetwork = "coactseg"\nsettings = { width = 4 }\ntask = "longitudinal"\n'
        'summary = ""\ncontrasts = ["FLAIR"]\nrequired = ["FLAIR"]\nspacing_mm = 1.0\nnormalisation = ""\n'
        f'threshold = 0.5\nsha256 = "{sha256_of(tmp_path / "weights.safetensors")}"\n'
        'licence = ""\ntraining = ""\nlimits = ""\n'
    )
    return read_card(tmp_path)


def test_swapped_visits_give_swapped_answers(card):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 48, 48, 48)).astype(np.float32)
    lesions, changes = find_changes(first, second, card=card)
    swapped_lesions, swapped_changes = find_changes(second, first, card=card)
    np.testing.assert_array_equal(lesions, swapped_lesions[::-1])
    np.testing.assert_array_equal(changes, swapped_changes[::-1])
    assert np.abs(changes[0] - changes[1]).max() > 1e-3
    # New is what the third head says of the visits in their order.
    stack = np.stack([first, second, second - first])
    forth = lesion_probabilities(slide(cpu(load_model(card)), stack)[None])[0].numpy()
    np.testing.assert_array_equal(changes[1], forth[2])
    np.testing.assert_array_equal(find_changes(first, second, card=card, both_ways=False)[0], forth[:2])
    assert lesions.shape == (2, 48, 48, 48)


class Shift(nn.Module):
    """Each voxel answers with its neighbour's value, which a window's border does not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(x, (1, 0))[..., :-1]


def test_a_single_visit_is_shown_as_if_nothing_had_changed(card, monkeypatch):
    """The all-lesion answer of `segment --model coactseg`: the mean of both heads, of the image and no difference."""
    rng = np.random.default_rng(1)
    brain = Volume(np.zeros((32, 32, 32), bool), np.eye(4))
    brain.data[2:-2, 2:-2, 2:-2] = True
    flair = np.where(brain.data, rng.normal(3, 2, brain.shape), 0).astype(np.float32)
    monkeypatch.setattr(inference, "hysteresis", lambda probability, *, core_odds: probability)
    monkeypatch.setattr(inference, "remove_superficial", lambda probability, brain, *, deeper_than_mm: probability)
    found, spheres = inference.find_lesions(
        {"FLAIR": brain.like(flair)}, tissue=brain, brain=brain, mni_from_world=np.eye(4), card=card
    )
    inside = flair[brain.data]
    image = np.where(brain.data, (flair - inside.mean()) / inside.std(), 0).astype(np.float32)
    logits = slide(cpu(load_model(card)), np.stack([image, image, np.zeros_like(image)])).numpy()
    odds = (logits[1] - logits[0] + logits[3] - logits[2]) / 2
    np.testing.assert_allclose(found.data, brain.data / (1 + np.exp(-odds)), atol=2e-3)
    assert not spheres.data.any() and np.ptp(found.data[brain.data]) > 0.01


def test_windows_agree_with_the_whole_where_they_see_enough():
    rng = np.random.default_rng(0)
    image = rng.random((1, 24, 25, 40)).astype(np.float32) + 1
    whole = Shift()(torch.from_numpy(image)[None])[0]
    tiled = slide(cpu(Shift()), image, window=16, stride=12)
    # The first plane of a window is wrong there, and weighs next to nothing beside the window before it.
    assert (tiled - whole).abs().mean() < 0.01
    assert torch.equal(tiled[..., 1:11], whole[..., 1:11]) or torch.allclose(tiled[..., 1:11], whole[..., 1:11])


def test_a_volume_smaller_than_a_window_comes_back_in_its_own_size():
    image = np.ones((1, 10, 20, 30), np.float32)
    assert torch.equal(slide(cpu(nn.Identity()), image, window=16, stride=12), torch.from_numpy(image))


def test_air_is_background_without_being_looked_at():
    image = np.zeros((2, 16, 16, 64), np.float32)
    image[:, :, :, :16] = 1
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    logits = slide(cpu(Watch()), image, window=16, stride=16)
    assert len(seen) == 1
    assert (logits[0, ..., 16:] - logits[1, ..., 16:] == 10).all()


def test_an_empty_volume_is_refused():
    with pytest.raises(ValueError, match="no image"):
        slide(cpu(nn.Identity()), np.zeros((1, 16, 16, 16), np.float32), window=16)
