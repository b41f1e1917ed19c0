"""The rim transformation (DA-TR): a ring's edge votes, along its gradients, for the ring's centre."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from msrim.ops import reference
from msrim.ops.accumulator import kernels_for


def rim_transform(
    x: Tensor, radii: Sequence[int] = (5, 7, 9, 11, 13, 15), *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Let every voxel vote for the voxels that its in-plane gradient points to, up to each of several distances.

    Slice by slice: ``S`` is the length of the Sobel gradient, ``G[k] = k * gradient / (S + eps) + mesh`` for k = 1..N,
    ``V_u = accumulate(x, G)`` and ``V_s = accumulate(S, G)`` with the nearest kernel. The votes for a larger N contain
    those for a smaller one, so one walk along the ray serves all radii and no grid is ever made.

    Parameters
    ----------
    x : (B, C, X, Y, *Z) float tensor
        Images or feature maps; the planes are (X, Y), whatever axes follow are slices.
    radii : sequence of R integers, voxels
        The numbers N of steps, in any order.
    eps : float, in units of x a voxel
        Keeps the direction finite where the gradient vanishes; such a voxel votes for itself.

    Returns
    -------
    v_u, v_s : two (B, C, R, X, Y, *Z) tensors of x's dtype
        Sums of values and of gradient lengths, one a radius. ``torch.cat([v_u, v_s], 2).flatten(1, 2)`` makes channels
        of them. Summed in float32, or float64 if x is float64.

    Raises
    ------
    ValueError
        x is not a real tensor of at least 4 axes, or radii are no positive integers.

    Notes
    -----
    Zhang et al. 2023 (DeDA), Sect. 2.2, Eq. 4. The Sobel filter is divided by 8, so that a ramp of slope 1 has S = 1,
    and repeats the border. The gradient goes back through the values and through S (where S = 0, as 0), not through the
    votes' places: these are rounded, their derivative is zero wherever it exists.
    Precision, determinism and autocast are as for :func:`msrim.ops.accumulate`.

    Examples
    --------
    A bright ring of radius 4 gathers votes at its centre, more of them than a disc's edge:

    >>> i, j = torch.meshgrid(torch.arange(17.0), torch.arange(17.0), indexing="ij")
    >>> distance = torch.hypot(i - 8, j - 8)
    >>> ring = torch.exp(-((distance - 4) ** 2))[None, None]
    >>> v_u, v_s = rim_transform(ring, radii=(3, 6))
    >>> v_s.shape
    torch.Size([1, 1, 2, 17, 17])
    >>> divmod(int(v_s[0, 0, 1].argmax()), 17)
    (8, 8)
    """
    return torch.ops.msrim.rim_transform(x, list(radii), eps)


@torch.library.custom_op("msrim::rim_transform", mutates_args=(), device_types=("cpu", "cuda"))
def _rim_transform(x: Tensor, radii: Sequence[int], eps: float) -> tuple[Tensor, Tensor]:
    _check(x, radii)
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        v_u, v_s = reference.rim_transform(x, radii, eps=eps)
        # Both are parts of one tensor there, and an operator's outputs must not share memory.
        return v_u.clone(), v_s.clone()
    planes = _planes(x)
    v_u, v_s = kernels_for(x).rim_transform(planes, radii, eps)
    shape = _shape(x, radii)
    return v_u.view(shape).to(x.dtype), v_s.view(shape).to(x.dtype)


@torch.library.custom_op("msrim::rim_transform_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _rim_transform_backward(grad_u: Tensor, grad_s: Tensor, x: Tensor, radii: Sequence[int], eps: float) -> Tensor:
    planes = _planes(x)
    volumes, *sides = planes.shape
    grads = [g.detach().to(planes.dtype).contiguous().view(volumes, len(radii), *sides) for g in (grad_u, grad_s)]
    return kernels_for(x).rim_transform_backward(*grads, planes, radii, eps).view(x.shape).to(x.dtype)


@_rim_transform.register_fake
def _(x: Tensor, radii: Sequence[int], eps: float) -> tuple[Tensor, Tensor]:
    _check(x, radii)
    return x.new_empty(_shape(x, radii)), x.new_empty(_shape(x, radii))


@_rim_transform_backward.register_fake
def _(grad_u: Tensor, grad_s: Tensor, x: Tensor, radii: Sequence[int], eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, ctx.radii, ctx.eps = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad_u: Tensor, grad_s: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    return torch.ops.msrim.rim_transform_backward(grad_u, grad_s, x, ctx.radii, ctx.eps), None, None


_rim_transform.register_autograd(_backward, setup_context=_keep)
for _device in ("cpu", "cuda"):
    _rim_transform.register_autocast(_device, torch.float32)


def _planes(x: Tensor) -> Tensor:
    """All volumes of a batch, (B * C, X, Y, Z), contiguous, in the dtype of the sums."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.detach().to(dtype).contiguous().view(math.prod(x.shape[:2]), *x.shape[2:4], math.prod(x.shape[4:]))


def _shape(x: Tensor, radii: Sequence[int]) -> tuple[int, ...]:
    return (*x.shape[:2], len(radii), *x.shape[2:])


def _check(x: Tensor, radii: Sequence[int]) -> None:
    if not x.is_floating_point():
        raise ValueError(f"x is {x.dtype}: the rim transformation is of real numbers, convert it with .float()")
    if x.ndim < 4 or 0 in x.shape[2:4]:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (B, C, X, Y) or (B, C, X, Y, Z), planes not empty")
    if not radii or min(radii) < 1:
        raise ValueError(f"radii {tuple(radii)}: give positive whole numbers of voxels")
