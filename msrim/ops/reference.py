"""The accumulator and the rim transformation in plain torch: what the kernels must equal, slower and larger."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor


def accumulate(u: Tensor, grids: Tensor, size: Sequence[int], *, kernel: str = "nearest") -> Tensor:
    """The twin of :func:`msrim.ops.accumulate`.

    Examples
    --------
    >>> accumulate(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[[0.0, 0.5]]]]), (2,), kernel="bilinear")
    tensor([[[2., 1.]]])
    """
    dtype = torch.promote_types(torch.promote_types(u.dtype, grids.dtype), torch.float32)
    values = u.to(dtype).flatten(2)
    grids = grids.to(dtype).flatten(3).expand(len(u), -1, -1, -1)
    # One cell more than there are: votes that fall outside go there.
    out = values.new_zeros(*u.shape[:2], math.prod(size) + 1)
    for cell, weight in _votes(grids, size, kernel=kernel):
        out.scatter_add_(2, cell[:, None].expand_as(values), values * weight[:, None])
    return out[..., :-1].unflatten(2, tuple(size)).to(u.dtype)


def _votes(grids: Tensor, size: Sequence[int], *, kernel: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Cell and weight, (B, S) each, of every pixel's vote: one a grid, or one a corner of the cell around it."""
    dims = len(size)
    for grid in grids.unbind(1):
        low = torch.floor(grid + 0.5) if kernel == "nearest" else torch.floor(grid)
        for corner in [(0,) * dims] if kernel == "nearest" else product((0, 1), repeat=dims):
            cell = grid.new_zeros(grid[:, 0].shape, dtype=torch.long)
            inside = torch.ones_like(cell, dtype=torch.bool)
            weight = torch.ones_like(grid[:, 0])
            for axis, (step, side) in enumerate(zip(corner, size, strict=True)):
                at = low[:, axis] + step
                inside = inside & (at >= 0) & (at < side)
                cell = cell * side + at.long()
                if kernel == "bilinear":
                    fraction = grid[:, axis] - low[:, axis]
                    weight = weight * (fraction if step else 1 - fraction)
            yield torch.where(inside, cell, math.prod(size)), torch.where(inside, weight, 0)


def rim_transform(
    x: Tensor, radii: Sequence[int] = (5, 7, 9, 11, 13, 15), *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """The twin of :func:`msrim.ops.rim_transform`: every grid is made, then each radius accumulates its own.

    Examples
    --------
    >>> v_u, v_s = rim_transform(torch.rand(1, 2, 8, 8, 3), radii=(2, 4))
    >>> v_u.shape
    torch.Size([1, 2, 2, 8, 8, 3])
    """
    shape = x.shape
    image = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(4) if x.ndim > 4 else x[..., None]
    image = image.to(torch.promote_types(x.dtype, torch.float32)).permute(0, 1, 4, 2, 3).flatten(0, 2)
    gradient = sobel(image)
    strength = magnitude(gradient)
    unit = (gradient / (strength + eps)[:, None]).detach()
    mesh = torch.stack(torch.meshgrid(*(torch.arange(n).to(unit) for n in shape[2:4]), indexing="ij"))
    grids = torch.stack([k * unit + mesh for k in range(1, max(radii) + 1)], 1)
    maps = torch.stack([image, strength], 1)
    votes = torch.stack([accumulate(maps, grids[:, :radius], shape[2:4]) for radius in radii], 1)
    votes = votes.unflatten(0, (*shape[:2], math.prod(shape[4:])))
    v_u, v_s = votes.permute(4, 0, 1, 3, 5, 6, 2).reshape(2, *shape[:2], len(radii), *shape[2:]).to(x.dtype)
    return v_u, v_s


def sobel(image: Tensor) -> Tensor:
    """Gradient (P, 2, X, Y) of planes (P, X, Y) per voxel, the border repeated: a ramp of slope 1 has gradient 1."""
    padded = torch.cat([image[:, :1], image, image[:, -1:]], 1)
    padded = torch.cat([padded[..., :1], padded, padded[..., -1:]], 2)
    along_x = padded[:, 2:] - padded[:, :-2]
    along_y = padded[..., 2:] - padded[..., :-2]
    return torch.stack(
        [
            (along_x[..., :-2] + 2 * along_x[..., 1:-1] + along_x[..., 2:]) / 8,
            (along_y[:, :-2] + 2 * along_y[:, 1:-1] + along_y[:, 2:]) / 8,
        ],
        1,
    )


def magnitude(gradient: Tensor) -> Tensor:
    """Length (P, X, Y) of a gradient (P, 2, X, Y); its own gradient is 0, not infinite, where it vanishes."""
    square = gradient[:, 0] * gradient[:, 0] + gradient[:, 1] * gradient[:, 1]
    rising = square > 0
    return torch.where(rising, torch.where(rising, square, 1).sqrt(), 0)
