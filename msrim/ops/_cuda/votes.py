"""The accumulator on a GPU.

Where the sums of some channels fit a block's shared memory they are made there, by a block a batch item and group of
channels, or by several, each with a part of the pixels, if the blocks were too few to fill the GPU. Larger sums are
made in place. Gathering, the way back, needs no atomic: a thread a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numba import cuda
from torch import Tensor

from msrim.ops._cuda.launch import SHARED_BYTES, blocks_for, launch

# Channels that a thread serves with one computation of a place.
CHANNELS = 8
# Blocks that keep the largest GPU busy.
BLOCKS = 1024


def accumulate(values: Tensor, places: Tensor, size: Sequence[int], *, bilinear: bool) -> Tensor:
    """Sums (B, C, T) of values (B, C, S) at places (B, K, D, S) in voxels of a target with T cells."""
    batch, channels, pixels = values.shape
    cells = math.prod(size)
    width = min(channels, SHARED_BYTES // (cells * values.element_size()))
    fits = width > 0
    if not fits:
        width = min(channels, CHANNELS)
    groups = -(-channels // max(width, 1))
    most = blocks_for(pixels)
    parts = max(1, min(most, BLOCKS // max(batch * groups, 1))) if fits else most
    out = values.new_zeros(batch, channels, cells)
    launch(
        _vote_shared if fits else _vote,
        batch * groups * parts,
        values.device,
        *(values, places, tuple(size), bilinear, width, groups, parts, out),
        shared_bytes=width * cells * values.element_size() if fits else 0,
    )
    return out


def sample(held: Tensor, places: Tensor, size: Sequence[int], *, bilinear: bool) -> Tensor:
    """For each pixel the sum (B, C, S) of what held (B, C, T) has at the pixel's places (B, K, D, S)."""
    batch, channels, _ = held.shape
    out = held.new_empty(batch, channels, places.shape[3])
    threads = batch * -(-channels // CHANNELS) * places.shape[3]
    launch(_gather, blocks_for(threads), held.device, held, places, tuple(size), bilinear, out)
    return out


def grad_grids(values: Tensor, held: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    """Gradient (B, K, D, S) of the bilinear ``sum(accumulate(values) * held)`` to the places."""
    out = torch.empty_like(places)
    threads = places.shape[0] * places.shape[1] * places.shape[3]
    launch(_vote_grad, blocks_for(threads), values.device, values, held, places, tuple(size), out)
    return out


@cuda.jit(device=True)
def _aim(places, item, step, pixel, corner, size, bilinear):
    """Cell and weight of a vote, bilinear ones for one corner (a bit an axis); a cell of -1 is outside."""
    one = places.dtype.type(1)
    half = places.dtype.type(0.5)
    cell = 0
    weight = one
    for axis in range(places.shape[2]):
        place = places[item, step, axis, pixel]
        # NaN and what is too large for an integer never get past this line. At -1 a bilinear vote weighs nothing, but
        # its gradient to the place is that of a step to the right, as at every whole number.
        if not (place >= -one and place < places.dtype.type(size[axis])):
            return -1, one
        low = np.int64(math.floor(place if bilinear else place + half))
        upper = corner >> axis & 1
        if low + upper < 0 or low + upper >= size[axis]:
            return -1, one
        cell = cell * size[axis] + low + upper
        if bilinear:
            fraction = place - places.dtype.type(low)
            weight *= fraction if upper else one - fraction
    return cell, weight


@cuda.jit
def _vote_shared(values, places, size, bilinear, width, groups, parts, out):
    sums = cuda.shared.array(0, values.dtype)
    channels, pixels = values.shape[1], values.shape[2]
    cells = out.shape[2]
    part = cuda.blockIdx.x % parts
    group = cuda.blockIdx.x // parts % groups
    item = cuda.blockIdx.x // (parts * groups)
    first = group * width
    n = min(width, channels - first)
    for i in range(cuda.threadIdx.x, n * cells, cuda.blockDim.x):
        sums[i] = 0
    cuda.syncthreads()
    corners = 1 << places.shape[2] if bilinear else 1
    for pixel in range(part * cuda.blockDim.x + cuda.threadIdx.x, pixels, parts * cuda.blockDim.x):
        for step in range(places.shape[1]):
            for corner in range(corners):
                cell, weight = _aim(places, item, step, pixel, corner, size, bilinear)
                if cell >= 0:
                    for channel in range(n):
                        vote = weight * values[item, first + channel, pixel]
                        cuda.atomic.add(sums, channel * cells + cell, vote)
    cuda.syncthreads()
    for channel in range(n):
        for cell in range(cuda.threadIdx.x, cells, cuda.blockDim.x):
            if parts == 1:
                out[item, first + channel, cell] = sums[channel * cells + cell]
            else:
                cuda.atomic.add(out, (item, first + channel, cell), sums[channel * cells + cell])


@cuda.jit
def _vote(values, places, size, bilinear, width, groups, parts, out):
    part = cuda.blockIdx.x % parts
    group = cuda.blockIdx.x // parts % groups
    item = cuda.blockIdx.x // (parts * groups)
    pixel = part * cuda.blockDim.x + cuda.threadIdx.x
    if pixel >= values.shape[2]:
        return
    corners = 1 << places.shape[2] if bilinear else 1
    for step in range(places.shape[1]):
        for corner in range(corners):
            cell, weight = _aim(places, item, step, pixel, corner, size, bilinear)
            if cell >= 0:
                for channel in range(group * width, min((group + 1) * width, values.shape[1])):
                    cuda.atomic.add(out, (item, channel, cell), weight * values[item, channel, pixel])


@cuda.jit
def _gather(held, places, size, bilinear, out):
    channels, pixels = out.shape[1], out.shape[2]
    groups = (channels + CHANNELS - 1) // CHANNELS
    thread = cuda.grid(1)
    if thread >= out.shape[0] * groups * pixels:
        return
    pixel, group, item = thread % pixels, thread // pixels % groups, thread // (pixels * groups)
    sums = cuda.local.array(CHANNELS, held.dtype)
    for i in range(CHANNELS):
        sums[i] = 0
    corners = 1 << places.shape[2] if bilinear else 1
    for step in range(places.shape[1]):
        for corner in range(corners):
            cell, weight = _aim(places, item, step, pixel, corner, size, bilinear)
            if cell >= 0:
                for i in range(CHANNELS):
                    if group * CHANNELS + i < channels:
                        sums[i] += weight * held[item, group * CHANNELS + i, cell]
    for i in range(CHANNELS):
        if group * CHANNELS + i < channels:
            out[item, group * CHANNELS + i, pixel] = sums[i]


@cuda.jit
def _vote_grad(values, held, places, size, out):
    steps, dims, pixels = places.shape[1], places.shape[2], places.shape[3]
    thread = cuda.grid(1)
    if thread >= places.shape[0] * steps * pixels:
        return
    pixel, step, item = thread % pixels, thread // pixels % steps, thread // (pixels * steps)
    one = values.dtype.type(1)
    for axis in range(dims):
        out[item, step, axis, pixel] = 0
    for corner in range(1 << dims):
        cell, _ = _aim(places, item, step, pixel, corner, size, True)
        if cell < 0:
            continue
        product = values.dtype.type(0)
        for channel in range(values.shape[1]):
            product += values[item, channel, pixel] * held[item, channel, cell]
        for axis in range(dims):
            share = product if corner >> axis & 1 else -product
            for other in range(dims):
                if other != axis:
                    fraction = places[item, step, other, pixel]
                    fraction -= places.dtype.type(math.floor(fraction))
                    share *= fraction if corner >> other & 1 else one - fraction
            out[item, step, axis, pixel] += share
