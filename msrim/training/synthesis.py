"""Random effects of scanners on images: pose, contrast, bias, noise, slice thickness.

All functions take and give torch tensors of one volume, (X, Y, Z) or (C, X, Y, Z), and draw from a
``numpy.random.Generator`` so that a sample is reproducible from its seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor


def random_affine(
    rng: np.random.Generator, *, max_angle_deg: float, scale: tuple[float, float], mirror: bool = True
) -> np.ndarray:
    """Rotation, per-axis scaling and a left-right mirror in half of the cases: (3, 3) float."""
    rotation = Rotation.from_euler("xyz", rng.uniform(-max_angle_deg, max_angle_deg, 3), degrees=True).as_matrix()
    matrix = rotation @ np.diag(rng.uniform(*scale, 3))
    if mirror and rng.random() < 0.5:
        matrix = matrix @ np.diag([-1.0, 1.0, 1.0])
    return matrix


def smooth_field(
    rng: np.random.Generator, size: Sequence[int], *, channels: int, points: int | Sequence[int], spread: float
) -> Tensor:
    """Smooth random field: normal values at ``points`` per axis, interpolated to (channels, X, Y, Z)."""
    shape = (points,) * 3 if isinstance(points, int) else points
    coarse = torch.from_numpy(rng.normal(0, spread, (1, channels, *shape)).astype(np.float32))
    return F.interpolate(coarse, size=tuple(size), mode="trilinear", align_corners=True)[0]


def sampling_points(
    rng: np.random.Generator, size: Sequence[int], *, centre: np.ndarray, matrix: np.ndarray, elastic_voxels: float
) -> Tensor:
    """Where each voxel of an output crop looks in the source: (X, Y, Z, 3) float, source voxels.

    Parameters
    ----------
    size : (3,) int
        The crop.
    centre : (3,) float
        Source voxel at the middle of the crop.
    matrix : (3, 3) float
        Steps in the source for a step in the crop.
    elastic_voxels : float
        Standard deviation of the smooth displacement.
    """
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ torch.from_numpy(matrix.T).float()
    points += torch.from_numpy(np.asarray(centre)).float()
    if elastic_voxels > 0:
        longest = int(rng.integers(4, 9))
        knots = [max(2, round(longest * n / max(size))) for n in size]
        points += smooth_field(rng, size, channels=3, points=knots, spread=elastic_voxels).permute(1, 2, 3, 0)
    return points


def sample_at(volume: Tensor, points: Tensor, *, nearest: bool = False) -> Tensor:
    """Values of (C, X, Y, Z), of any type, at voxel positions (P, Q, R, 3), zero outside: (C, P, Q, R) float32."""
    last = torch.tensor([n - 1 for n in volume.shape[1:]])
    flat = points.reshape(-1, 3)
    # Only the part around the points is made float32: many whole brains lie in memory as something smaller.
    low = flat.amin(0).floor().long().clamp(min=0).minimum((last - 1).clamp(min=0))
    high = flat.amax(0).ceil().long().maximum(low + 1).minimum(last)
    (x, y, z), (a, b, c) = low.tolist(), (high + 1).tolist()
    part = volume[:, x:a, y:b, z:c].float()
    # grid_sample wants (z, y, x) order in [-1, 1].
    grid = (2 * (points - low) / (high - low).clamp(min=1) - 1).flip(-1)[None]
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(part[None], grid, mode=mode, padding_mode="zeros", align_corners=True)[0]


def blur(image: Tensor, *, sigma_voxels: Sequence[float] | np.ndarray) -> Tensor:
    """Gaussian blur of (C, X, Y, Z) along each axis by its own standard deviation; the border goes on beyond itself."""
    for axis, sigma in enumerate(sigma_voxels):
        if sigma < 0.2:
            continue
        radius = max(1, int(np.ceil(2.5 * sigma)))
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
        shape = [1, 1, 1, 1, 1]
        shape[axis + 2] = 2 * radius + 1
        padding = [0] * 6
        padding[4 - 2 * axis] = padding[5 - 2 * axis] = radius
        channels = image.shape[0]
        weight = (kernel / kernel.sum()).reshape(shape).expand(channels, *shape[1:]).contiguous()
        image = F.conv3d(F.pad(image[None], padding, mode="replicate"), weight, groups=channels)[0]
    return image


def thick_slices(image: Tensor, *, axis: int, thickness: float) -> Tensor:
    """Average (C, X, Y, Z) over slices ``thickness`` voxels thick along ``axis`` and interpolate back linearly."""
    size = list(image.shape[1:])
    coarse = list(size)
    coarse[axis] = max(2, round(size[axis] / thickness))
    slices = F.interpolate(image[None], size=coarse, mode="area")
    return F.interpolate(slices, size=size, mode="trilinear", align_corners=False)[0]


def shifted(image: Tensor, voxels: Sequence[int] | np.ndarray) -> Tensor:
    """Move (X, Y, Z) by whole voxels; the faces are repeated where nothing is known.

    Examples
    --------
    >>> shifted(torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1), (1, 0, 0)).flatten().tolist()
    [1.0, 1.0, 2.0]
    """
    for axis, by in enumerate(voxels):
        size = image.shape[axis]
        image = image.index_select(axis, (torch.arange(size) - int(by)).clamp(0, size - 1))
    return image


def bias_field(rng: np.random.Generator, size: Sequence[int], *, strength: float) -> Tensor:
    """Multiplicative field with the smoothness of a receive coil: (1, X, Y, Z), mean about 1."""
    return torch.exp(smooth_field(rng, size, channels=1, points=int(rng.integers(3, 5)), spread=strength))


def add_noise(rng: np.random.Generator, image: Tensor, *, spread: float | Tensor) -> Tensor:
    """Add normal noise of one spread, or of a spread by voxel."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    return image + spread * torch.randn(image.shape, generator=generator)


def dilate(mask: Tensor, voxels: int) -> Tensor:
    """Grow a mask (X, Y, Z) bool by a cube: so many voxels to every side, corners included.

    Examples
    --------
    >>> dilate(torch.tensor([[[False, False, True, False]]]), 1).tolist()
    [[[False, True, True, True]]]
    """
    grown = mask[None].float()
    for axis in range(3):
        # A cube is a line along each axis in turn, at a tenth of the cost.
        window, padding = [1, 1, 1], [0, 0, 0]
        window[axis], padding[axis] = 2 * voxels + 1, voxels
        grown = F.max_pool3d(grown, window, stride=1, padding=padding)
    return grown[0] > 0
