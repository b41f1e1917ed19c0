"""The rim transformation on a GPU.

Where a plane's two sums fit a block's shared memory, a block walks some slices of a volume radius by radius and writes
its sums out after each: what is read and written is the input, a few times from the cache, and the outputs, once.
Larger planes are summed in the outputs themselves: every vote goes to the first radius that reaches it, and a second
kernel adds up over the radii. The way back has a thread a voxel and no atomics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numba import cuda
from torch import Tensor

from msrim.ops._cuda.launch import SHARED_BYTES, THREADS, blocks_for, launch


def rim_transform(x: Tensor, radii: Sequence[int], eps: float) -> tuple[Tensor, Tensor]:
    """Sums of values and of gradient lengths, two (P, R, X, Y, Z), of volumes (P, X, Y, Z)."""
    volumes, rows, columns, slices = x.shape
    slice_bytes = 2 * rows * columns * x.element_size()
    width = min(slices, SHARED_BYTES // slice_bytes, THREADS)
    shape = volumes, len(radii), rows, columns, slices
    walk = *_ascending(radii), eps
    if width or not x.numel():
        v_u, v_s = x.new_empty(shape), x.new_empty(shape)
        runs = -(-slices // max(width, 1))
        launch(
            _walk_shared,
            volumes * runs,
            x.device,
            *(x, *walk, width, v_u.flatten(2, 3), v_s.flatten(2, 3)),
            shared_bytes=width * slice_bytes,
            threads=(width, THREADS // max(width, 1)),
        )
    else:
        v_u, v_s = x.new_zeros(shape), x.new_zeros(shape)
        launch(_walk, blocks_for(x.numel()), x.device, x, *walk, v_u, v_s)
        launch(_add_up, blocks_for(x.numel()), x.device, walk[1], v_u, v_s)
    return v_u, v_s


def rim_transform_backward(grad_u: Tensor, grad_s: Tensor, x: Tensor, radii: Sequence[int], eps: float) -> Tensor:
    """Gradient (P, X, Y, Z) to the volumes."""
    out, along_x, along_y = (torch.empty_like(x) for _ in range(3))
    walk = *_ascending(radii), eps
    launch(_walk_back, blocks_for(x.numel()), x.device, x, *walk, grad_u, grad_s, out, along_x, along_y)
    launch(_undifferentiate, blocks_for(x.numel()), x.device, along_x, along_y, out)
    return out


def _ascending(radii: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    order = sorted(range(len(radii)), key=radii.__getitem__)
    return tuple(radii[i] for i in order), tuple(order)


@cuda.jit(device=True)
def _differentiate(x, volume, row, column, z, eps):
    """Value, gradient length and direction at a voxel, the border repeated."""
    up, down = max(row - 1, 0), min(row + 1, x.shape[1] - 1)
    left, right = max(column - 1, 0), min(column + 1, x.shape[2] - 1)
    two, eight = x.dtype.type(2), x.dtype.type(8)
    along_x = (
        (x[volume, down, left, z] - x[volume, up, left, z])
        + two * (x[volume, down, column, z] - x[volume, up, column, z])
        + (x[volume, down, right, z] - x[volume, up, right, z])
    ) / eight
    along_y = (
        (x[volume, up, right, z] - x[volume, up, left, z])
        + two * (x[volume, row, right, z] - x[volume, row, left, z])
        + (x[volume, down, right, z] - x[volume, down, left, z])
    ) / eight
    length = math.sqrt(along_x * along_x + along_y * along_y)
    scale = length + x.dtype.type(eps)
    return x[volume, row, column, z], length, along_x / scale, along_y / scale


@cuda.jit(device=True)
def _point(x, row, column, unit_x, unit_y, k):
    """Cell that a ray reaches after k steps, -1 if it has left the plane."""
    half = x.dtype.type(0.5)
    to_row = x.dtype.type(k) * unit_x + x.dtype.type(row) + half
    to_column = x.dtype.type(k) * unit_y + x.dtype.type(column) + half
    zero, rows, columns = x.dtype.type(0), x.dtype.type(x.shape[1]), x.dtype.type(x.shape[2])
    if to_row >= zero and to_row < rows and to_column >= zero and to_column < columns:
        return np.int64(math.floor(to_row)) * x.shape[2] + np.int64(math.floor(to_column))
    return -1


@cuda.jit
def _walk_shared(x, radii, order, eps, width, v_u, v_s):
    """A thread's slice is its first index, its voxels in the plane are those that its second index counts."""
    sums = cuda.shared.array(0, x.dtype)
    columns, slices = x.shape[2], x.shape[3]
    cells = x.shape[1] * columns
    runs = (slices + width - 1) // width
    volume, first = cuda.blockIdx.x // runs, cuda.blockIdx.x % runs * width
    # The sums of values, then those of lengths; in each, as in memory, the slices of a cell side by side.
    z, lengths = cuda.threadIdx.x, cells * width
    for cell in range(cuda.threadIdx.y, cells, cuda.blockDim.y):
        sums[cell * width + z] = 0
        sums[lengths + cell * width + z] = 0
    done = 0
    for radius in range(len(radii)):
        cuda.syncthreads()
        for pixel in range(cuda.threadIdx.y, cells, cuda.blockDim.y):
            if first + z < slices:
                row, column = pixel // columns, pixel % columns
                value, length, unit_x, unit_y = _differentiate(x, volume, row, column, first + z, eps)
                for k in range(done + 1, radii[radius] + 1):
                    cell = _point(x, row, column, unit_x, unit_y, k)
                    if cell >= 0:
                        cuda.atomic.add(sums, cell * width + z, value)
                        cuda.atomic.add(sums, lengths + cell * width + z, length)
        done = radii[radius]
        cuda.syncthreads()
        for cell in range(cuda.threadIdx.y, cells, cuda.blockDim.y):
            if first + z < slices:
                v_u[volume, order[radius], cell, first + z] = sums[cell * width + z]
                v_s[volume, order[radius], cell, first + z] = sums[lengths + cell * width + z]


@cuda.jit(device=True)
def _voxel(shape, thread):
    """Volume, row, column and slice of a thread."""
    z, pixel = thread % shape[3], thread // shape[3]
    return pixel // (shape[1] * shape[2]), pixel // shape[2] % shape[1], pixel % shape[2], z


@cuda.jit
def _walk(x, radii, order, eps, v_u, v_s):
    thread = cuda.grid(1)
    if thread >= x.size:
        return
    volume, row, column, z = _voxel(x.shape, thread)
    value, length, unit_x, unit_y = _differentiate(x, volume, row, column, z, eps)
    done = 0
    for radius in range(len(radii)):
        for k in range(done + 1, radii[radius] + 1):
            cell = _point(x, row, column, unit_x, unit_y, k)
            if cell >= 0:
                at = volume, order[radius], cell // x.shape[2], cell % x.shape[2], z
                cuda.atomic.add(v_u, at, value)
                cuda.atomic.add(v_s, at, length)
        done = radii[radius]


@cuda.jit
def _add_up(order, v_u, v_s):
    thread = cuda.grid(1)
    if thread >= v_u.shape[0] * v_u.shape[2] * v_u.shape[3] * v_u.shape[4]:
        return
    volume, row, column, z = _voxel((v_u.shape[0], v_u.shape[2], v_u.shape[3], v_u.shape[4]), thread)
    for radius in range(1, len(order)):
        v_u[volume, order[radius], row, column, z] += v_u[volume, order[radius - 1], row, column, z]
        v_s[volume, order[radius], row, column, z] += v_s[volume, order[radius - 1], row, column, z]


@cuda.jit
def _walk_back(x, radii, order, eps, grad_u, grad_s, out, along_x, along_y):
    """Gradient to the values into out, and that to the two derivatives, an eighth of it, into along_x and along_y."""
    thread = cuda.grid(1)
    if thread >= x.size:
        return
    volume, row, column, z = _voxel(x.shape, thread)
    _, length, unit_x, unit_y = _differentiate(x, volume, row, column, z, eps)
    found_u, found_s = x.dtype.type(0), x.dtype.type(0)
    done = 0
    for radius in range(len(radii)):
        for k in range(done + 1, radii[radius] + 1):
            cell = _point(x, row, column, unit_x, unit_y, k)
            if cell >= 0:
                for wider in range(radius, len(radii)):
                    found_u += grad_u[volume, order[wider], cell // x.shape[2], cell % x.shape[2], z]
                    found_s += grad_s[volume, order[wider], cell // x.shape[2], cell % x.shape[2], z]
        done = radii[radius]
    share = x.dtype.type(0)
    if length > 0:
        share = found_s * (length + x.dtype.type(eps)) / (x.dtype.type(8) * length)
    out[volume, row, column, z] = found_u
    along_x[volume, row, column, z] = share * unit_x
    along_y[volume, row, column, z] = share * unit_y


@cuda.jit
def _undifferentiate(along_x, along_y, out):
    """Add the adjoint of the Sobel filter, whose border repeats: the first and last voxel stand for a neighbour too."""
    thread = cuda.grid(1)
    if thread >= out.size:
        return
    volume, row, column, z = _voxel(out.shape, thread)
    rows, columns = out.shape[1], out.shape[2]
    total = out[volume, row, column, z]
    for seen_row in range(row - (row == 0), row + 1 + (row == rows - 1)):
        for seen_column in range(column - (column == 0), column + 1 + (column == columns - 1)):
            for i in range(max(seen_row - 1, 0), min(seen_row + 2, rows)):
                for j in range(max(seen_column - 1, 0), min(seen_column + 2, columns)):
                    down, right = seen_row - i, seen_column - j
                    total += along_x[volume, i, j, z] * out.dtype.type(down * (2 - abs(right)))
                    total += along_y[volume, i, j, z] * out.dtype.type(right * (2 - abs(down)))
    out[volume, row, column, z] = total
