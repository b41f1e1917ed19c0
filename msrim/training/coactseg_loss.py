"""The loss of CoactSeg on batches of single visits and pairs (Wu et al. 2023, Eq. 2 to 4)."""

from __future__ import annotations

from torch import Tensor

from msrim.models.networks.coactseg import lesion_probabilities
from msrim.training.losses import soft_dice

NEW_LESION_WEIGHT = 1.0


def coactseg_loss(logits: Tensor, lesions: Tensor, new: Tensor, known: Tensor, relation_weight: Tensor) -> Tensor:
    """``L = L_al + lambda1 L_nl + lambda2 L_rr`` (Eq. 4).

    Parameters
    ----------
    logits : (N, 6, X, Y, Z) float
        Of :class:`msrim.models.networks.coactseg.CoactSeg`.
    lesions : (N, 2, X, Y, Z) float
        All lesions at baseline and at follow-up, the same for a single visit.
    new : (N, 1, X, Y, Z) float
        New lesions.
    known : (N, 2) bool
        Whether all lesions are marked in a sample, and whether the new ones are. The paper's single visits are
        (True, False) and its pairs (False, True); synthesised pairs are (True, True).
    relation_weight : (N,) float
        lambda2 of this step, the same for all samples: 0 in the first half of a training with a warm-up, then 1.

    Returns
    -------
    Tensor
        A scalar.

    Notes
    -----
    Every norm of the relations (Eq. 3) is read as a mean of squares, and Dice goes over the whole batch, as everywhere
    in this package; what no sample of the batch knows adds nothing.

    Examples
    --------
    >>> import torch
    >>> logits, nothing = torch.zeros(1, 6, 1, 1, 1), torch.zeros(1, 2, 1, 1, 1)
    >>> float(coactseg_loss(logits, nothing, nothing[:, :1], torch.tensor([[True, True]]), torch.ones(1)))
    0.0
    """
    baseline, followup, change = lesion_probabilities(logits).split(1, dim=1)
    marked, paired = known[:, 0], known[:, 1]
    loss = soft_dice(baseline[marked], lesions[marked, :1]) + soft_dice(followup[marked], lesions[marked, 1:])
    loss = loss + NEW_LESION_WEIGHT * soft_dice(change[paired], new[paired])
    return loss + relation_weight[0] * relation_loss(baseline, followup, new, paired)


def relation_loss(baseline: Tensor, followup: Tensor, new: Tensor, paired: Tensor) -> Tensor:
    """Loss of the relations between the heads (Eq. 3); each term is zero where its relation holds.

    A visit against itself has the same lesions twice; where tissue is new, baseline has no lesion and follow-up has
    one.

    Parameters
    ----------
    baseline, followup : (N, 1, X, Y, Z) float
        Probability of lesion.
    new : (N, 1, X, Y, Z) float
    paired : (N,) bool
        False for single visits.
    """
    same = _mean((baseline - followup).square()[~paired])
    masked = new[paired] > 0
    absent = _mean(baseline[paired][masked].square())
    present = _mean((1 - followup[paired][masked]).square())
    return same + absent + present


def _mean(values: Tensor) -> Tensor:
    """Mean, zero of nothing: a batch may have no pair, and a pair no new lesion."""
    return values.sum() / max(values.numel(), 1)
