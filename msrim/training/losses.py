"""Losses of the packaged networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_dice(probability: Tensor, truth: Tensor) -> Tensor:
    """One minus the soft Dice overlap (Milletari et al. 2016) of the whole batch, averaged over channels.

    Channels that the truth of this batch lacks have no overlap and are left out; without any, the loss is
    zero.

    Parameters
    ----------
    probability, truth : (N, K, X, Y, Z) float

    Examples
    --------
    >>> float(soft_dice(torch.ones(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)))
    0.0
    """
    axes = (0, *range(2, probability.ndim))
    size = truth.sum(axes)
    overlap = 2 * (probability * truth).sum(axes) / (probability.sum(axes) + size).clamp(min=1e-6)
    present = (size > 0).to(overlap.dtype)
    return ((1 - overlap) * present).sum() / present.sum().clamp(min=1)


def focal(logits: Tensor, truth: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss, the LesLoss when ``truth`` is the sphere mask (ALL-Net, Eq. 3 with its missing minus sign).

    Parameters
    ----------
    logits, truth : (N, 1, X, Y, Z) float

    Examples
    --------
    One voxel at probability one half: ``-0.25 * 0.5**2 * log(0.5)``.

    >>> round(float(focal(torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1))), 6)
    0.043322
    """
    probability = torch.sigmoid(logits)
    foreground = alpha * (1 - probability) ** gamma * F.logsigmoid(logits) * truth
    background = (1 - alpha) * probability**gamma * F.logsigmoid(-logits) * (1 - truth)
    return -(foreground + background).mean()


def cross_entropy_and_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Equal parts of cross entropy and soft Dice for exclusive labels.

    Parameters
    ----------
    logits : (N, K, X, Y, Z) float
    labels : (N, X, Y, Z) int64
    """
    log_probability = logits.log_softmax(1)
    truth = torch.zeros_like(logits).scatter_(1, labels[:, None], 1.0)
    return F.nll_loss(log_probability, labels) + soft_dice(log_probability.exp(), truth)


def all_net_loss(logits: Tensor, lesions: Tensor, spheres: Tensor, *, les_loss: bool = True) -> Tensor:
    """LesLoss + binary cross entropy + soft Dice, equal weights (ALL-Net, section 2.5).

    Parameters
    ----------
    logits : (N, 2, X, Y, Z) float
        Lesion head, sphere head.
    lesions, spheres : (N, 1, X, Y, Z) float
    les_loss : bool
        Without it the sphere head learns nothing: the baseline of the paper's Table 4.
    """
    lesion, sphere = logits[:, :1], logits[:, 1:]
    overlap = soft_dice(torch.sigmoid(lesion), lesions)
    voxels = F.binary_cross_entropy_with_logits(lesion, lesions) + overlap
    return focal(sphere, spheres) + voxels if les_loss else voxels


def slice_loss(logits: Tensor, lesions: Tensor) -> Tensor:
    """Binary cross entropy and soft Dice, equal weights; the paper does not name its loss, this is its baseline's."""
    return F.binary_cross_entropy_with_logits(logits, lesions) + soft_dice(torch.sigmoid(logits), lesions)
