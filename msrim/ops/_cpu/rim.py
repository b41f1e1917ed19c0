"""The rim transformation on a CPU.

Slices are walked one after the other: what a slice needs, its sums and its directions, fits the first or second level
of the cache, and no grid is made. Work is divided by volume and by runs of slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from msrim.ops._cpu.lanes import transpose
from msrim.ops._cpu.threads import compiled, empty, parallel_for

# Slices that are walked together; their sums are written side by side, as they lie in memory.
SLICES = 16
# Cells that take the votes that fall outside, in turn: each addition would wait for the last one if it were one cell.
OUTSIDE = 16


def rim_transform(x: Tensor, radii: Sequence[int], eps: float) -> tuple[Tensor, Tensor]:
    """Sums of values and of gradient lengths, two (P, R, X, Y, Z), of volumes (P, X, Y, Z)."""
    volumes, *sides = x.shape
    v_u, v_s = (empty(volumes, len(radii), *sides, like=x) for _ in range(2))
    parallel_for(_walk, volumes * _runs(x), x, *_ascending(radii), eps, v_u.flatten(2, 3), v_s.flatten(2, 3))
    return v_u, v_s


def rim_transform_backward(grad_u: Tensor, grad_s: Tensor, x: Tensor, radii: Sequence[int], eps: float) -> Tensor:
    """Gradient (P, X, Y, Z) to the volumes."""
    out = empty(*x.shape, like=x)
    grads = grad_u.flatten(2, 3), grad_s.flatten(2, 3)
    parallel_for(_walk_back, len(x) * _runs(x), x, *_ascending(radii), eps, *grads, out)
    return out


def _runs(x: Tensor) -> int:
    return -(-x.shape[3] // SLICES)


def _ascending(radii: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(radii, kind="stable")
    return np.asarray(radii, dtype=np.int64)[order], order


@compiled()
def _walk(x, radii, order, eps, v_u, v_s, first, last):
    """Pieces first..last of the volumes x (P, X, Y, Z) into the sums (P, R, X * Y, Z)."""
    rows, columns, slices = x.shape[1:]
    cells = rows * columns
    runs = -(-slices // SLICES)
    most = min(SLICES, slices)
    padded = np.empty((rows + 2, columns + 2), x.dtype)
    value, length = np.empty((most, cells), x.dtype), np.empty((most, cells), x.dtype)
    unit = np.empty((most, 2, cells), x.dtype)
    sum_u, sum_s = np.empty((most, cells + OUTSIDE), x.dtype), np.empty((most, cells + OUTSIDE), x.dtype)
    # Unsigned, or every use would ask whether it counts from the end.
    cell = np.empty(cells, np.uint32)
    mesh = np.empty((2, cells), x.dtype)
    _mesh(rows, columns, mesh)
    for piece in range(first, last):
        volume, start = piece // runs, piece % runs * SLICES
        n = min(SLICES, slices - start)
        transpose(x[volume].reshape(cells, slices)[:, start : start + n], value)
        for z in range(n):
            _differentiate(value[z], padded, eps, length[z], unit[z])
        sum_u[:] = 0
        sum_s[:] = 0
        done = 0
        for radius in range(len(radii)):
            for z in range(n):
                from_u, from_s, to_u, to_s = value[z], length[z], sum_u[z], sum_s[z]
                for k in range(done + 1, radii[radius] + 1):
                    _point(unit[z], mesh, k, rows, columns, cell)
                    for i in range(cells):
                        to_u[cell[i]] += from_u[i]
                        to_s[cell[i]] += from_s[i]
            done = radii[radius]
            transpose(sum_u[:n, :cells], v_u[volume, order[radius], :, start : start + n])
            transpose(sum_s[:n, :cells], v_s[volume, order[radius], :, start : start + n])


@compiled()
def _walk_back(x, radii, order, eps, grad_u, grad_s, out, first, last):
    """Pieces first..last of the gradients to the sums (P, R, X * Y, Z) into that to the volumes."""
    rows, columns, slices = x.shape[1:]
    cells = rows * columns
    runs = -(-slices // SLICES)
    most = min(SLICES, slices)
    padded, line = np.empty((rows + 2, columns + 2), x.dtype), np.empty(columns + 2, x.dtype)
    value, length = np.empty((most, cells), x.dtype), np.empty((most, cells), x.dtype)
    unit = np.empty((most, 2, cells), x.dtype)
    # Gradient of a vote of step k: the gradients of all radii that reach k. The outside holds nothing.
    held_u, held_s = np.empty((most, cells + OUTSIDE), x.dtype), np.empty((most, cells + OUTSIDE), x.dtype)
    wider = np.empty((most, cells), x.dtype)
    found_u, found_s = np.empty((most, cells), x.dtype), np.empty((most, cells), x.dtype)
    # Unsigned, or every use would ask whether it counts from the end.
    cell = np.empty(cells, np.uint32)
    mesh = np.empty((2, cells), x.dtype)
    _mesh(rows, columns, mesh)
    for piece in range(first, last):
        volume, start = piece // runs, piece % runs * SLICES
        n = min(SLICES, slices - start)
        transpose(x[volume].reshape(cells, slices)[:, start : start + n], value)
        for z in range(n):
            _differentiate(value[z], padded, eps, length[z], unit[z])
        for array in (held_u, held_s, found_u, found_s):
            array[:] = 0
        for radius in range(len(radii) - 1, -1, -1):
            for grad, held in ((grad_u, held_u), (grad_s, held_s)):
                transpose(grad[volume, order[radius], :, start : start + n], wider)
                for z in range(n):
                    for i in range(cells):
                        held[z, i] += wider[z, i]
            for z in range(n):
                from_u, from_s, to_u, to_s = held_u[z], held_s[z], found_u[z], found_s[z]
                for k in range(radii[radius - 1] + 1 if radius else 1, radii[radius] + 1):
                    _point(unit[z], mesh, k, rows, columns, cell)
                    for i in range(cells):
                        to_u[i] += from_u[cell[i]]
                        to_s[i] += from_s[cell[i]]
        for z in range(n):
            _undifferentiate(found_s[z], length[z], unit[z], eps, padded, line, found_u[z])
        transpose(found_u[:n], out[volume].reshape(cells, slices)[:, start : start + n])


@compiled()
def _differentiate(value, padded, eps, length, unit):
    """Gradient's length (cells) and direction (2, cells) in a plane, its border repeated; `padded` is scratch."""
    rows, columns = padded.shape[0] - 2, padded.shape[1] - 2
    kind = value.dtype.type
    for i in range(rows):
        here = value[i * columns : (i + 1) * columns]
        padded[i + 1, 1:-1] = here
        padded[i + 1, 0], padded[i + 1, columns + 1] = here[0], here[columns - 1]
    padded[0], padded[rows + 1] = padded[1], padded[rows]
    for i in range(rows):
        above, here, below = padded[i], padded[i + 1], padded[i + 2]
        into = length[i * columns : (i + 1) * columns]
        unit_x, unit_y = unit[0, i * columns : (i + 1) * columns], unit[1, i * columns : (i + 1) * columns]
        for j in range(columns):
            x = (below[j] - above[j]) + kind(2) * (below[j + 1] - above[j + 1]) + (below[j + 2] - above[j + 2])
            y = (above[j + 2] - above[j]) + kind(2) * (here[j + 2] - here[j]) + (below[j + 2] - below[j])
            x, y = x / kind(8), y / kind(8)
            into[j] = np.sqrt(x * x + y * y)
            unit_x[j], unit_y[j] = x / (into[j] + kind(eps)), y / (into[j] + kind(eps))


@compiled()
def _undifferentiate(found, length, unit, eps, padded, line, out):
    """Add to out what the adjoint of _differentiate makes of the gradient to the lengths."""
    rows, columns = padded.shape[0] - 2, padded.shape[1] - 2
    kind = out.dtype.type
    padded[:] = 0
    for i in range(rows):
        for along in range(2):
            line[:] = 0
            for j in range(columns):
                at = i * columns + j
                if length[at] > 0:
                    share = found[at] * (length[at] + kind(eps)) / (kind(8) * length[at]) * unit[along, at]
                    if along == 0:
                        line[j] += share
                        line[j + 1] += kind(2) * share
                        line[j + 2] += share
                    else:
                        line[j] -= share
                        line[j + 2] += share
            for j in range(columns + 2):
                if along == 0:
                    padded[i, j] -= line[j]
                else:
                    padded[i, j] += line[j]
                    padded[i + 1, j] += kind(2) * line[j]
                padded[i + 2, j] += line[j]
    padded[1] += padded[0]
    padded[rows] += padded[rows + 1]
    for i in range(rows):
        padded[i + 1, 1] += padded[i + 1, 0]
        padded[i + 1, columns] += padded[i + 1, columns + 1]
        for j in range(columns):
            out[i * columns + j] += padded[i + 1, j + 1]


@compiled()
def _mesh(rows, columns, mesh):
    """Row and column (2, cells) of every pixel of a plane."""
    for i in range(rows):
        for j in range(columns):
            mesh[0, i * columns + j], mesh[1, i * columns + j] = i, j


@compiled()
def _point(unit, mesh, k, rows, columns, cell):
    """Cells that the rays of all pixels reach after k steps; the cells behind the last one are the outside."""
    # One loop over the plane, not one a row: rows are too short for the compiler's vectors.
    kind = unit.dtype.type
    half = kind(0.5)
    x, y, start_x, start_y = unit[0], unit[1], mesh[0], mesh[1]
    for i in range(len(cell)):
        row = np.floor(kind(k) * x[i] + start_x[i] + half)
        column = np.floor(kind(k) * y[i] + start_y[i] + half)
        inside = (row >= 0) & (row < kind(rows)) & (column >= 0) & (column < kind(columns))
        outside = np.int32(rows * columns) + np.int32(i) % np.int32(OUTSIDE)
        cell[i] = np.int32(row) * np.int32(columns) + np.int32(column) if inside else outside
