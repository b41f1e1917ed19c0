"""How a lesion looks that is painted into an image: its edge, its texture and its contrast.

Training paints lesions of other people into crops (:mod:`msrim.training.lesions`); ``--grade`` paints lesions of known
size into the patient's own images (:mod:`msrim.workflows.grade`).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from msrim.training import synthesis


def painted_share(painted: Tensor, rng: np.random.Generator) -> Tensor:
    """How much of its contrast each voxel of a painted lesion has, and each voxel beside it.

    Parameters
    ----------
    painted : (X, Y, Z) bool tensor
        Lesions; on a grid of about 1 mm.
    rng : Generator
        Draws the width of the edge and the texture.

    Returns
    -------
    (1, X, Y, Z) float32 tensor
        About 1 inside, 0 outside, soft in between.
    """
    edge = synthesis.blur(painted[None].float(), sigma_voxels=rng.uniform(0.4, 1.0, 3))
    size = edge.shape[1:]
    texture = 1 + 0.25 * synthesis.smooth_field(rng, size, channels=1, points=knots(edge[0], 5.5), spread=1)
    if rng.random() < 0.5:
        # Faint parts beside bright ones, as in confluent lesions.
        coarse = synthesis.smooth_field(rng, size, channels=1, points=knots(edge[0], 30), spread=0.5)
        texture *= (0.9 + coarse).clamp(0.3, 1.5)
    return edge * texture


def knots(image: Tensor, spacing_voxels: float) -> list[int]:
    """Of a smooth field over (X, Y, Z), for each axis."""
    return [max(2, round(n / spacing_voxels) + 1) for n in image.shape]
