"""A network trained on crops, run over a whole brain in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

# The side of the crops of training. Windows three quarters of a side apart overlap by 20 voxels; a voxel lies in two
# windows along each axis at most, where the paper's stride of 20 visits it in four. Time, memory and agreement:
# `python -m tests.benchmarks.overlap`.
WINDOW = 80
STRIDE = 60
# Weight of a window's border beside its middle: what lies there lacked half of its surroundings.
BORDER_WEIGHT = 0.05


def slide(
    predict: Callable[[np.ndarray], Tensor], channels: np.ndarray, *, window: int = WINDOW, stride: int = STRIDE
) -> Tensor:
    """Logits of a whole volume from overlapping windows.

    Where windows overlap their logits are averaged, the middles of windows weighing most. Windows without any image
    are not run and count as certainly background of a two-class head.

    Parameters
    ----------
    predict : callable
        Maps (N, C, W, W, W) float32 to logits (N, K, W, W, W), see :func:`msrim.models.inference.prepare_network`.
    channels : (C, X, Y, Z) float32
        Zero outside the brain.
    window, stride : int
        Voxels. Memory is that of the volume K + 1 times and of one window's activations.

    Returns
    -------
    (K, X, Y, Z) float32

    Examples
    --------
    >>> image = np.arange(1.0, 28.0, dtype=np.float32).reshape(1, 3, 3, 3)
    >>> torch.allclose(slide(torch.from_numpy, image, window=2, stride=1), torch.from_numpy(image))
    True
    """
    size = channels.shape[1:]
    # Volumes smaller than a window are filled up with background.
    padded = np.pad(channels, [(0, 0), *((0, max(0, window - n)) for n in size)])
    weight = _window_weight(window)
    total, weights = None, torch.zeros(padded.shape[1:])
    for corner in product(*(_starts(n, window=window, stride=stride) for n in padded.shape[1:])):
        box = tuple(slice(start, start + window) for start in corner)
        crop = padded[:, *box]
        if not crop.any():
            continue
        logits = predict(np.ascontiguousarray(crop)[None])[0]
        if total is None:
            total = torch.zeros(logits.shape[0], *padded.shape[1:])
        total[:, *box] += weight * logits
        weights[box] += weight
    if total is None:
        raise ValueError("there is no image in the volume: every voxel is zero")
    covered = weights > 0
    total[:, covered] /= weights[covered]
    total[::2, ~covered] = 10.0  # e^-10 is below what any threshold asks
    return total[:, : size[0], : size[1], : size[2]]


def _starts(length: int, *, window: int, stride: int) -> list[int]:
    """First voxel of each window along an axis; the last one ends with the axis.

    Spread evenly, so that the last overlap is no larger than the others.
    """
    count = -(-(length - window) // stride) + 1
    return np.linspace(0, length - window, count).round().astype(int).tolist()


def _window_weight(window: int) -> Tensor:
    """Product of triangles that fall from 1 in the middle to BORDER_WEIGHT at the border: (W, W, W)."""
    ramp = 1 - (1 - BORDER_WEIGHT) * (torch.arange(window) - (window - 1) / 2).abs() / max((window - 1) / 2, 1)
    return ramp[:, None, None] * ramp[:, None] * ramp
