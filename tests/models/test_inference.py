"""From a network's answer to the probability of lesion."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from msrim.image import Volume, resample
from msrim.models import build, inference, load_model, read_card
from msrim.models.inference import parse_head, without_batch_norm
from msrim.preprocess.template import load_template, load_template_brain_mask


@pytest.mark.parametrize("task", ["lesions", "slices"])
def test_what_keeps_to_the_surface_of_the_brain_is_no_lesion(task, monkeypatch):
    """Whatever the network says: 5 mm are cortex and the mask's rim, 6 mm reach below."""
    brain = Volume(np.zeros((48, 48, 48), bool), np.eye(4))
    brain.data[8:40, 8:40, 8:40] = True
    logits = torch.full((1, 2, *brain.shape), -9.0)
    logits[0, 0, 20:26, 20:26, 6:13] = 9.0
    logits[0, 0, 20:26, 30:36, 6:14] = 9.0
    monkeypatch.setattr(inference, "load_model", lambda card: SimpleNamespace(plane=(48, 48)))
    monkeypatch.setattr(inference, "run_network", lambda network, channels, *, device: logits)
    lesion, _ = inference.find_lesions(
        {"FLAIR": brain.like(brain.data.astype(np.float32))},
        tissue=brain,
        brain=brain,
        mni_from_world=np.eye(4),
        card=replace(read_card("allnet"), task=task),
    )
    found = lesion.data > 0.5
    assert found[20:26, 30:36, 8:14].all()
    assert found.sum() == 6 * 6 * 6


def test_how_dark_csf_is_does_not_reach_a_network_that_was_trained_without(monkeypatch):
    brain = Volume(np.zeros((16, 16, 16), bool), np.eye(4))
    brain.data[4:12, 4:12, 4:12] = True
    flair = np.where(brain.data, 1, -3).astype(np.float32)
    flair[6:8, 6:8, 6:8] = -9
    seen = []
    monkeypatch.setattr(inference, "load_model", lambda card: None)
    monkeypatch.setattr(
        inference,
        "run_network",
        lambda network, channels, *, device: seen.append(channels[0, 0]) or torch.zeros(1, 2, *brain.shape),
    )
    for card in (read_card("allnet"), replace(read_card("allnet"), intensity_range=(-2.0, 0.5))):
        inference.find_lesions(
            {"FLAIR": brain.like(flair)}, tissue=brain, brain=brain, mni_from_world=np.eye(4), card=card
        )
    assert sorted(np.unique(seen[1])) == [-2.0, 0.0, 0.5]
    assert not seen[1][~brain.data].any()


def test_a_network_gets_its_contrasts_in_the_cards_order_and_then_the_place(monkeypatch):
    """Whatever the order of the patient's; what the patient lacks is zero."""
    brain = Volume(np.zeros((32, 32, 32), bool), np.eye(4))
    brain.data[4:28, 4:28, 4:28] = True
    images = {
        name: brain.like(value * brain.data.astype(np.float32)) for name, value in (("T2w", 0.5), ("FLAIR", 0.25))
    }
    seen = []
    monkeypatch.setattr(inference, "load_model", lambda card: None)
    monkeypatch.setattr(
        inference,
        "run_network",
        lambda network, channels, *, device: seen.append(channels[0]) or torch.zeros(1, 2, *brain.shape),
    )
    card = replace(read_card("allnet"), contrasts=("T1w", "FLAIR", "T2w"))
    inference.find_lesions(images, tissue=brain, brain=brain, mni_from_world=np.eye(4), card=card)
    assert [float(channel[16, 16, 16]) for channel in seen[0][:3]] == [0.0, 0.25, 0.5]
    # x, y and z in units of 100 mm grow along the array's axes; the last channel is the way to the brain's boundary.
    steps = [float(np.diff(seen[0][3 + axis], axis=axis).mean()) for axis in range(3)]
    assert seen[0].shape[0] == 9 and steps == pytest.approx([0.01] * 3, rel=1e-3)
    assert seen[0][8, 16, 16, 16] > seen[0][8, 6, 16, 16] > 0


def test_labels_end_where_the_brain_mask_does():
    """However bright what lies around is, and however dark it leaves the tissue."""
    template, mask = load_template(), load_template_brain_mask()
    head = template.data.copy()
    head[~mask.data] = 20 * head.max()
    given = {"contrast": "T1w", "card": read_card("head")}
    labels, alone = (parse_head(template.like(data), mask, **given) for data in (head, template.data * mask.data))
    inside = resample(mask, labels, nearest=True).data
    assert np.array_equal(labels.data > 0, inside)
    assert np.array_equal(labels.data, alone.data)


@pytest.mark.parametrize("name, channels", [("allnet", 9), ("scp", 3), ("head", 3)])
def test_a_network_without_batch_norm_answers_the_same(name, channels):
    network = load_model(read_card(name))
    folded = without_batch_norm(network)
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, channels, 32, 32, 16)).astype(np.float32))
    with torch.inference_mode():
        expected, found = network(image), folded(image)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    kept = [sum(isinstance(m, torch.nn.BatchNorm3d) for m in each.modules()) for each in (network, folded)]
    assert kept[1] == 0 and kept[0] == {"allnet": 18, "scp": 18, "head": 0}[name]


def test_a_network_in_training_is_not_taken_for_one_that_has_learnt():
    with pytest.raises(AssertionError):
        without_batch_norm(build("allnet", widths=[2, 4], head_width=2))
