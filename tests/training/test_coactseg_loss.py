"""Equations 2 to 4 of CoactSeg, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msrim.training.coactseg_loss import coactseg_loss, relation_loss


def batch(*, relation: float):
    """A single visit and a pair of two voxels each, with the probabilities that are in the tests below."""
    probability = torch.tensor([[[0.8, 0.2], [0.6, 0.1], [0.3, 0.3]], [[0.4, 0.5], [0.9, 0.5], [0.7, 0.1]]])
    logits = torch.zeros(2, 6, 2, 1, 1)
    logits[:, 1::2] = torch.logit(probability)[..., None, None]
    lesions = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])[..., None, None]
    new = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]])[..., None, None]
    known = torch.tensor([[True, False], [False, True]])
    return logits, lesions, new, known, torch.full((2,), relation)


def dice(probability, truth):
    return 1 - 2 * np.dot(probability, truth) / (np.sum(probability) + np.sum(truth))


SEGMENTATION = dice([0.8, 0.2], [1, 0]) + dice([0.6, 0.1], [1, 0]) + dice([0.7, 0.1], [1, 0])
RELATIONS = ((0.8 - 0.6) ** 2 + (0.2 - 0.1) ** 2) / 2 + 0.4**2 + (1 - 0.9) ** 2


def test_segmentation_terms_by_hand():
    assert float(coactseg_loss(*batch(relation=0.0))) == pytest.approx(SEGMENTATION, rel=1e-5)


def test_relations_are_added_at_the_second_stage():
    assert float(coactseg_loss(*batch(relation=1.0))) == pytest.approx(SEGMENTATION + RELATIONS, rel=1e-5)


def test_unmarked_samples_teach_nothing():
    """The labels of what is not known may hold anything."""
    logits, lesions, new, known, weight = batch(relation=0.0)
    lesions[1], new[0] = 1.0, 1.0
    assert float(coactseg_loss(logits, lesions, new, known, weight)) == pytest.approx(SEGMENTATION, rel=1e-5)


def test_relations_of_right_answers_are_nothing():
    new = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1).repeat(2, 1, 1, 1, 1)
    baseline = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).reshape(2, 1, 2, 1, 1)
    followup = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).reshape(2, 1, 2, 1, 1)
    assert float(relation_loss(baseline, followup, new, torch.tensor([False, True]))) == 0


@pytest.mark.parametrize("known", [[[True, False]], [[False, True]]], ids=["single", "pair"])
def test_batches_of_one_kind_have_gradients(known):
    logits = torch.randn(1, 6, 4, 4, 4, requires_grad=True)
    truth = (torch.rand(1, 2, 4, 4, 4) > 0.5).float()
    coactseg_loss(logits, truth, truth[:, :1], torch.tensor(known), torch.ones(1)).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
