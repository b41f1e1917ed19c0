"""The directed accumulator as a torch operator: pixels cast their values as votes into cells that grids point to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from msrim.ops import reference

KERNELS = ("nearest", "bilinear")


def accumulate(u: Tensor, grids: Tensor, size: Sequence[int], *, kernel: str = "nearest") -> Tensor:
    """Add up, in each cell of a target, the values of all pixels that point to it.

    ``V[b, c, t] = sum_k sum_s U[b, c, s] prod_d K(G[b, k, d, s], t_d)``: with one grid the adjoint of
    ``torch.nn.functional.grid_sample``; with several a Hough, Radon or polar transform, or any other cast of votes.

    Parameters
    ----------
    u : (B, C, *S) float tensor
        Maps with at least one axis of space.
    grids : (B or 1, K, D, *S) float tensor, voxels of the target
        K places that each pixel votes for. Component d counts cells along the target's axis d, the centre of the first
        cell being 0. D, from 1 to 3, needs not be the number of axes of `u`.
    size : D integers
        Cells of the target along each axis.
    kernel : "nearest" or "bilinear"
        ``K(g, i)`` is 1 if ``floor(g + 0.5) == i`` else 0, or ``max(0, 1 - abs(g - i))``. Votes outside the target are
        dropped, NaN among them.

    Returns
    -------
    (B, C, *size) tensor of u's dtype
        Summed in float32 or, if either input is float64, in float64.

    Raises
    ------
    ValueError
        Shapes, dtypes or devices do not fit, or the kernel is unknown.

    Notes
    -----
    Zhang et al. 2023 (DeDA), Eq. 2; the gradient to `u` is Eq. 3, exact for both kernels. The gradient to `grids`,
    which the paper does not have, exists for "bilinear"; it is None for "nearest".

    On a CPU the result is the same to the last bit whatever the number of threads. On a GPU sums are made in no fixed
    order, but under ``torch.use_deterministic_algorithms(True)``, where plain torch takes over, slower.
    Half-precision inputs are copied to float32; under autocast all inputs and the result are float32.

    Examples
    --------
    Two pixels vote for cell 1, the third falls outside:

    >>> accumulate(torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[[1.0, 1.4, -0.6]]]]), (3,))
    tensor([[[0., 3., 0.]]])

    Lines by Hough: a pixel votes, at each of 64 angles, for the line through it, so D is 2 as well but the axes are
    angle and distance from the corner. The row 5 of an image is the line at distance 5, its normal at angle 0:

    >>> image = torch.zeros(1, 1, 16, 16)
    >>> image[..., 5, :] = 1
    >>> row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    >>> step = torch.arange(64.0)[:, None, None].expand(-1, 16, 16)
    >>> angle = step * torch.pi / 64
    >>> lines = torch.stack([step, row * angle.cos() + column * angle.sin() + 16], 1)
    >>> votes = accumulate(image, lines[None], (64, 39))
    >>> divmod(int(votes.argmax()), 39)
    (0, 21)

    A projection as Radon's is the same with the pixels' values; each angle keeps the image's whole mass:

    >>> sinogram = accumulate(torch.rand(1, 1, 16, 16), lines[None], (64, 39), kernel="bilinear")
    >>> bool(torch.allclose(sinogram.sum(-1), sinogram.sum(-1)[..., :1]))
    True

    Polar coordinates about the centre, 8 radii by 8 angles: a disc of radius 5 fills the radii below 5.

    >>> radius, angle = torch.hypot(row - 7.5, column - 7.5), torch.atan2(row - 7.5, column - 7.5)
    >>> polar = torch.stack([radius - 0.5, angle * 4 / torch.pi + 3.5])
    >>> accumulate((radius < 5).float()[None, None], polar[None, None], (8, 8)).sum(-1)[0, 0]
    tensor([ 4.,  8., 20., 20., 28.,  0.,  0.,  0.])

    Splatting to a bilateral grid, space by 4 and intensity by 4 levels, a 3-D target from a 2-D image:

    >>> gray = torch.arange(64.0).reshape(1, 1, 8, 8) / 63
    >>> y, x = torch.meshgrid(torch.arange(8.0) / 4, torch.arange(8.0) / 4, indexing="ij")
    >>> splat = accumulate(torch.ones_like(gray), torch.stack([y, x, gray[0, 0] * 3])[None, None], (3, 3, 4))
    >>> splat.sum((2, 3))
    tensor([[[11., 21., 21., 11.]]])
    """
    return torch.ops.msrim.accumulate(u, grids, list(size), kernel)


@torch.library.custom_op("msrim::accumulate", mutates_args=(), device_types=("cpu", "cuda"))
def _accumulate(u: Tensor, grids: Tensor, size: Sequence[int], kernel: str) -> Tensor:
    _check(u, grids, size, kernel)
    if u.is_cuda and torch.are_deterministic_algorithms_enabled():
        return reference.accumulate(u, grids, size, kernel=kernel)
    places, values = _fold(grids, u)
    out = kernels_for(u).accumulate(values, places, tuple(size), bilinear=kernel == "bilinear")
    return out.view(*u.shape[:2], *size).to(u.dtype)


@torch.library.custom_op("msrim::sample", mutates_args=(), device_types=("cpu", "cuda"))
def _sample(v: Tensor, grids: Tensor, kernel: str) -> Tensor:
    """The adjoint of accumulate, Eq. 3: the sum, (B, C, *S), of what `v` (B, C, *size) holds at a pixel's K places."""
    places, values = _fold(grids, v)
    out = kernels_for(v).sample(values, places, tuple(v.shape[2:]), bilinear=kernel == "bilinear")
    return out.view(*v.shape[:2], *grids.shape[3:]).to(v.dtype)


@torch.library.custom_op("msrim::grad_grids", mutates_args=(), device_types=("cpu", "cuda"))
def _grad_grids(u: Tensor, v: Tensor, grids: Tensor) -> Tensor:
    """Gradient of ``<accumulate(u, grids), v>``, bilinear, to the grids."""
    places, values, held = _fold(grids, u, v)
    return kernels_for(u).grad_grids(values, held, places, tuple(v.shape[2:])).view(grids.shape).to(grids.dtype)


@_accumulate.register_fake
def _(u: Tensor, grids: Tensor, size: Sequence[int], kernel: str) -> Tensor:
    _check(u, grids, size, kernel)
    return u.new_empty(*u.shape[:2], *size)


@_sample.register_fake
def _(v: Tensor, grids: Tensor, kernel: str) -> Tensor:
    return v.new_empty(*v.shape[:2], *grids.shape[3:])


@_grad_grids.register_fake
def _(u: Tensor, v: Tensor, grids: Tensor) -> Tensor:
    return torch.empty_like(grids, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, grids, *_, ctx.kernel = inputs
    ctx.size = values.shape[2:]
    ctx.learns_grids = ctx.kernel == "bilinear" and ctx.needs_input_grad[1]
    ctx.save_for_backward(grids, *([values] if ctx.learns_grids else []))


def _accumulate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grids, *u = ctx.saved_tensors
    grad_u = torch.ops.msrim.sample(grad, grids, ctx.kernel) if ctx.needs_input_grad[0] else None
    return grad_u, torch.ops.msrim.grad_grids(*u, grad, grids) if ctx.learns_grids else None, None, None


def _sample_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grids, *v = ctx.saved_tensors
    grad_v = torch.ops.msrim.accumulate(grad, grids, ctx.size, ctx.kernel) if ctx.needs_input_grad[0] else None
    return grad_v, torch.ops.msrim.grad_grids(grad, *v, grids) if ctx.learns_grids else None, None


_accumulate.register_autograd(_accumulate_backward, setup_context=_keep)
_sample.register_autograd(_sample_backward, setup_context=_keep)
for _device in ("cpu", "cuda"):
    _accumulate.register_autocast(_device, torch.float32)


def kernels_for(tensor: Tensor) -> ModuleType:
    """The module of kernels for a tensor's device, compiled at its first use."""
    if tensor.is_cuda:
        from msrim.ops import _cuda

        return _cuda
    from msrim.ops import _cpu

    return _cpu


def _fold(grids: Tensor, *maps: Tensor) -> list[Tensor]:
    """The grids (B, K, D, S) and maps (B, C, S) in the dtype of the sums, contiguous.

    One grid for the whole batch is one item with B * C channels: its cells are found once.
    """
    dtype = reduce(torch.promote_types, (m.dtype for m in maps), torch.promote_types(grids.dtype, torch.float32))
    flat = [m.detach().to(dtype).contiguous().flatten(2) for m in maps]
    if len(grids) == 1:
        flat = [m.flatten(0, 1)[None] for m in flat]
    return [grids.detach().to(dtype).contiguous().flatten(3), *flat]


def _check(u: Tensor, grids: Tensor, size: Sequence[int], kernel: str) -> None:
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r}: choose one of {', '.join(KERNELS)}")
    for name, tensor in {"u": u, "grids": grids}.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}: votes and places are real numbers, convert it with .float()")
    if u.device != grids.device:
        raise ValueError(f"u is on {u.device} and grids on {grids.device}: bring them to one device")
    if not 1 <= len(size) <= 3 or min(size) < 1:
        raise ValueError(f"size {tuple(size)}: give 1 to 3 sides of at least one cell")
    if math.prod(size) >= 2**31 - 1:
        raise ValueError(f"size {tuple(size)}: more cells than 2**31 - 2")
    if u.ndim < 3:
        raise ValueError(f"u has shape {tuple(u.shape)}; it must be (B, C, *S)")
    batches = {1, len(u)}
    if grids.ndim != u.ndim + 1 or grids.shape[2:] != (len(size), *u.shape[2:]) or len(grids) not in batches:
        raise ValueError(
            f"grids have shape {tuple(grids.shape)}; for u {tuple(u.shape)} and size {tuple(size)} it must be"
            f" (B, K, D, *S): ({' or '.join(map(str, sorted(batches)))}, K, {len(size)},"
            f" {', '.join(map(str, u.shape[2:]))})"
        )
