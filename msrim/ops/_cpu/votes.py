"""The accumulator on a CPU.

All channels of a pixel vote for the same cells. So eight channels lie side by side while votes are cast, and one
vector instruction adds eight votes; maps are turned to that layout, and sums back, tile by tile in the cache. Work is
divided by batch item, by groups of eight channels and, where this is too few, by parts of the pixels, each with sums of
its own, which are added in a fixed order. No two threads write to one place, and their number changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from msrim.ops._cpu.lanes import LANES, add_row, transpose
from msrim.ops._cpu.threads import compiled, empty, parallel_for

# Pixels whose votes are made ready together, and grids: their cells and weights fill half of a first-level cache.
PIXELS = 512
VOTES = 8
# Cells that take the votes that fall outside, in turn: each addition would wait for the last one if it were one cell.
OUTSIDE = 16
# Pieces that a batch too small to share out is cut into.
PIECES = 8
# Sums may be reordered and multiply-adds fused; NaN and infinity keep their meaning.
REORDERED = {"contract", "reassoc", "nsz"}


def accumulate(values: Tensor, places: Tensor, size: Sequence[int], *, bilinear: bool) -> Tensor:
    """Sums (B, C, T) of values (B, C, S) at places (B, K, D, S) in voxels of a target with T cells."""
    batch, channels, pixels = values.shape
    cells = int(np.prod(size))
    groups, parts = _pieces(batch, channels, min(pixels, places.shape[1] * pixels // cells))
    out = empty(parts, batch, channels, cells, like=values)
    parallel_for(_vote, batch * groups * parts, values, out, places, size, bilinear, False, groups, parts)
    return out.sum(0) if parts > 1 else out[0]


def sample(held: Tensor, places: Tensor, size: Sequence[int], *, bilinear: bool) -> Tensor:
    """For each pixel the sum (B, C, S) of what held (B, C, T) has at the pixel's places (B, K, D, S)."""
    batch, channels, cells = held.shape
    pixels = places.shape[3]
    groups, parts = _pieces(batch, channels, min(pixels, places.shape[1] * pixels // cells))
    out = empty(batch, channels, pixels, like=held)
    parallel_for(_vote, batch * groups * parts, out, held[None], places, size, bilinear, True, groups, parts)
    return out


def grad_grids(values: Tensor, held: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    """Gradient (B, K, D, S) of the bilinear ``sum(accumulate(values) * held)`` to the places."""
    batch, _, pixels = values.shape
    out = empty(*places.shape, like=places)
    _, parts = _pieces(batch, 1, pixels)
    parallel_for(_vote_grad, batch * parts, values, held, places, size, out, parts)
    return out


def _pieces(batch: int, channels: int, most_parts: int) -> tuple[int, int]:
    """Groups of channels and parts of the pixels that each batch item is cut into."""
    groups = min(-(-channels // LANES), -(-PIECES // max(batch, 1)))
    parts = min(most_parts, -(-PIECES // max(batch * groups, 1)))
    return max(groups, 1), max(parts, 1)


@compiled(fastmath=REORDERED)
def _vote(values, sums, places, size, bilinear, gather, groups, parts, first, last):
    """Cast votes from values (B, C, S) into sums (parts, B, C, T), or `gather` them from sums[0] into values."""
    channels, pixels = values.shape[1:]
    steps, dims = places.shape[1:3]
    cells = sums.shape[3]
    corners = 1 << dims if bilinear else 1
    blocks = -(-channels // LANES)
    most_blocks = -(-blocks // groups)
    held = np.zeros((most_blocks, cells + OUTSIDE, LANES), values.dtype)
    rows = np.zeros((most_blocks, PIXELS, LANES), values.dtype)
    cell = np.zeros((VOTES, PIXELS), np.int32)
    weight = np.zeros((VOTES, PIXELS), values.dtype)
    for piece in range(first, last):
        part, group, item = piece % parts, piece // parts % groups, piece // (parts * groups)
        block = blocks * group // groups
        width = blocks * (group + 1) // groups - block
        for i in range(width):
            if gather:
                transpose(sums[0, item, (block + i) * LANES : (block + i + 1) * LANES], held[i, :cells])
            else:
                held[i] = 0
        stop = pixels * (part + 1) // parts
        for start in range(pixels * part // parts, stop, PIXELS):
            n = min(PIXELS, stop - start)
            for i in range(width):
                if gather:
                    rows[i] = 0
                else:
                    transpose(
                        values[item, (block + i) * LANES : (block + i + 1) * LANES, start : start + n], rows[i, :n]
                    )
            for vote in range(0, steps * corners, VOTES):
                votes = min(VOTES, steps * corners - vote)
                for j in range(votes):
                    step, corner = (vote + j) // corners, (vote + j) % corners
                    _aim(places[item, step], start, n, size, bilinear, corner, cell[j], weight[j])
                for i in range(width):
                    for j in range(votes):
                        if gather:
                            for pixel in range(n):
                                add_row(rows[i], pixel, held[i], cell[j, pixel], weight[j, pixel])
                        else:
                            for pixel in range(n):
                                add_row(held[i], cell[j, pixel], rows[i], pixel, weight[j, pixel])
            if gather:
                for i in range(width):
                    transpose(
                        rows[i, :n], values[item, (block + i) * LANES : (block + i + 1) * LANES, start : start + n]
                    )
        if not gather:
            for i in range(width):
                transpose(held[i, :cells], sums[part, item, (block + i) * LANES : (block + i + 1) * LANES])


@compiled(fastmath=REORDERED)
def _aim(places, start, n, size, bilinear, corner, cell, weight):
    """Cell and weight of n votes at places (D, S), bilinear ones for one corner (a bit an axis) around each place."""
    one, half = places.dtype.type(1), places.dtype.type(0.5)
    cells = np.int32(1)
    cell[:n] = 0
    weight[:n] = one
    for axis in range(places.shape[0]):
        side = np.int32(size[axis])
        cells *= side
        limit = places.dtype.type(side)
        upper = corner >> axis & 1
        row = places[axis]
        for i in range(n):
            place = row[start + i]
            low = np.floor(place) if bilinear else np.floor(place + half)
            at = low + one if upper else low
            # Compared as real numbers, so that NaN and infinity are outside too. A lost vote's cell stays negative.
            inside = (at >= 0) & (at < limit)
            cell[i] = cell[i] * side + np.int32(at) if inside else -1
            if bilinear:
                weight[i] *= place - low if upper else one - (place - low)
    for i in range(n):
        lost = cell[i] < 0
        cell[i] = cells + np.int32(i) % np.int32(OUTSIDE) if lost else cell[i]
        weight[i] = 0 if lost else weight[i]


@compiled(fastmath=REORDERED)
def _vote_grad(values, held, places, size, out, parts, first, last):
    """Gradient of the bilinear <sums of values, held> to places, pixel by pixel."""
    channels, pixels = values.shape[1:]
    steps, dims = places.shape[1:3]
    cells = held.shape[2]
    width = -(-channels // LANES) * LANES
    sums = np.zeros((cells + OUTSIDE, width), values.dtype)
    rows = np.zeros((PIXELS, width), values.dtype)
    cell = np.zeros(PIXELS, np.int32)
    weight = np.zeros(PIXELS, values.dtype)
    for piece in range(first, last):
        part, item = piece % parts, piece // parts
        transpose(held[item], sums[:cells, :channels])
        stop = pixels * (part + 1) // parts
        for start in range(pixels * part // parts, stop, PIXELS):
            n = min(PIXELS, stop - start)
            transpose(values[item, :, start : start + n], rows[:n, :channels])
            for step in range(steps):
                at = places[item, step]
                for axis in range(dims):
                    out[item, step, axis, start : start + n] = 0
                for corner in range(1 << dims):
                    _aim(at, start, n, size, True, corner, cell, weight)
                    for pixel in range(n):
                        product = values.dtype.type(0)
                        for channel in range(width):
                            product += rows[pixel, channel] * sums[cell[pixel], channel]
                        for axis in range(dims):
                            share = product if corner >> axis & 1 else -product
                            for other in range(dims):
                                if other != axis:
                                    fraction = at[other, start + pixel] - np.floor(at[other, start + pixel])
                                    share *= fraction if corner >> other & 1 else values.dtype.type(1) - fraction
                            out[item, step, axis, start + pixel] += share
