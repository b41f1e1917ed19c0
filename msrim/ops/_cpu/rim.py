"""The rim transformation on a CPU.

Slices are walked one after the other: what a slice needs, its sums and its directions, fits the first or second level
of the cache, and no grid is made. Work is divided by volume and by runs of slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from msrim.ops._cpu.threads import compiled, share

# Slices that are walked together; their sums are written side by side, as they lie in memory.
SLICES = 16


def rim_transform(x: Tensor, radii: Sequence[int], eps: float) -> tuple[Tensor, Tensor]:
    """Sums of values and of gradient lengths, two (P, R, X, Y, Z), of volumes (P, X, Y, Z)."""
    volumes, *sides = x.shape
    v_u, v_s = (x.new_empty(volumes, len(radii), *sides) for _ in range(2))
    share(_walk, volumes * _runs(x), x, *_ascending(radii), eps, v_u, v_s)
    return v_u, v_s


def rim_transform_backward(grad_u: Tensor, grad_s: Tensor, x: Tensor, radii: Sequence[int], eps: float) -> Tensor:
    """Gradient (P, X, Y, Z) to the volumes."""
    out = torch.empty_like(x)
    share(_walk_back, len(x) * _runs(x), x, *_ascending(radii), eps, grad_u, grad_s, out)
    return out


def _runs(x: Tensor) -> int:
    return -(-x.shape[3] // SLICES)


def _ascending(radii: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(radii, kind="stable")
    return np.asarray(radii, dtype=np.int64)[order], order


@compiled()
def _walk(x, radii, order, eps, v_u, v_s, first, last):
    rows, columns, slices = x.shape[1:]
    cells = rows * columns
    runs = -(-slices // SLICES)
    most = min(SLICES, slices)
    padded = np.empty((rows + 2, columns + 2), x.dtype)
    # Value and gradient length, side by side: one vote moves both.
    maps = np.empty((most, cells, 2), x.dtype)
    sums = np.empty((most, cells + 1, 2), x.dtype)
    unit = np.empty((most, 2, cells), x.dtype)
    cell = np.empty(cells, np.int32)
    for piece in range(first, last):
        volume, start = piece // runs, piece % runs * SLICES
        n = min(SLICES, slices - start)
        sums[:] = 0
        for z in range(n):
            _differentiate(x[volume, :, :, start + z], padded, eps, maps[z], unit[z])
        done = 0
        for radius in range(len(radii)):
            for z in range(n):
                for k in range(done + 1, radii[radius] + 1):
                    _point(unit[z], k, rows, columns, cell)
                    for i in range(cells):
                        sums[z, cell[i], 0] += maps[z, i, 0]
                        sums[z, cell[i], 1] += maps[z, i, 1]
            done = radii[radius]
            slot = order[radius]
            for row in range(rows):
                for column in range(columns):
                    for z in range(n):
                        v_u[volume, slot, row, column, start + z] = sums[z, row * columns + column, 0]
                        v_s[volume, slot, row, column, start + z] = sums[z, row * columns + column, 1]


@compiled()
def _walk_back(x, radii, order, eps, grad_u, grad_s, out, first, last):
    rows, columns, slices = x.shape[1:]
    cells = rows * columns
    runs = -(-slices // SLICES)
    most = min(SLICES, slices)
    padded = np.empty((rows + 2, columns + 2), x.dtype)
    maps = np.empty((most, cells, 2), x.dtype)
    # What is held for a vote of step k: the gradients of all radii that reach k. The last cell is the outside.
    held = np.empty((most, cells + 1, 2), x.dtype)
    found = np.empty((most, cells, 2), x.dtype)
    unit = np.empty((most, 2, cells), x.dtype)
    cell = np.empty(cells, np.int32)
    line = np.empty(columns + 2, x.dtype)
    for piece in range(first, last):
        volume, start = piece // runs, piece % runs * SLICES
        n = min(SLICES, slices - start)
        held[:] = 0
        found[:] = 0
        for z in range(n):
            _differentiate(x[volume, :, :, start + z], padded, eps, maps[z], unit[z])
        for radius in range(len(radii) - 1, -1, -1):
            slot = order[radius]
            for row in range(rows):
                for column in range(columns):
                    for z in range(n):
                        held[z, row * columns + column, 0] += grad_u[volume, slot, row, column, start + z]
                        held[z, row * columns + column, 1] += grad_s[volume, slot, row, column, start + z]
            for z in range(n):
                for k in range(radii[radius - 1] + 1 if radius else 1, radii[radius] + 1):
                    _point(unit[z], k, rows, columns, cell)
                    for i in range(cells):
                        found[z, i, 0] += held[z, cell[i], 0]
                        found[z, i, 1] += held[z, cell[i], 1]
        for z in range(n):
            _undifferentiate(found[z], maps[z], unit[z], eps, padded, line, out[volume, :, :, start + z])


@compiled()
def _differentiate(plane, padded, eps, maps, unit):
    """Value and gradient length (cells, 2), and direction (2, cells), of a plane, its border repeated."""
    rows, columns = plane.shape
    kind = plane.dtype.type
    for i in range(rows):
        for j in range(columns):
            padded[i + 1, j + 1] = plane[i, j]
        padded[i + 1, 0], padded[i + 1, columns + 1] = plane[i, 0], plane[i, columns - 1]
    padded[0], padded[rows + 1] = padded[1], padded[rows]
    for i in range(rows):
        above, here, below = padded[i], padded[i + 1], padded[i + 2]
        for j in range(columns):
            x = (below[j] - above[j]) + kind(2) * (below[j + 1] - above[j + 1]) + (below[j + 2] - above[j + 2])
            y = (above[j + 2] - above[j]) + kind(2) * (here[j + 2] - here[j]) + (below[j + 2] - below[j])
            x, y = x / kind(8), y / kind(8)
            length = np.sqrt(x * x + y * y)
            maps[i * columns + j, 0], maps[i * columns + j, 1] = here[j + 1], length
            unit[0, i * columns + j], unit[1, i * columns + j] = x / (length + kind(eps)), y / (length + kind(eps))


@compiled()
def _undifferentiate(found, maps, unit, eps, padded, line, out):
    """The adjoint of _differentiate: from the gradients to value and gradient length to that of the plane."""
    rows, columns = out.shape
    kind = out.dtype.type
    padded[:] = 0
    for i in range(rows):
        for along_x in (True, False):
            line[:] = 0
            for j in range(columns):
                at = i * columns + j
                length = maps[at, 1]
                share = found[at, 1] * (length + kind(eps)) / (kind(8) * length) if length > 0 else kind(0)
                if along_x:
                    line[j] += share * unit[0, at]
                    line[j + 1] += kind(2) * share * unit[0, at]
                    line[j + 2] += share * unit[0, at]
                else:
                    line[j] -= share * unit[1, at]
                    line[j + 2] += share * unit[1, at]
            for j in range(columns + 2):
                if along_x:
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
            out[i, j] = found[i * columns + j, 0] + padded[i + 1, j + 1]


@compiled()
def _point(unit, k, rows, columns, cell):
    """Cells that the rays of all pixels reach after k steps; the cell behind the last one is the outside."""
    kind = unit.dtype.type
    half = kind(0.5)
    for i in range(rows):
        x = unit[0, i * columns : (i + 1) * columns]
        y = unit[1, i * columns : (i + 1) * columns]
        into = cell[i * columns : (i + 1) * columns]
        for j in range(columns):
            row, column = (
                np.floor(kind(k) * x[j] + kind(i) + half),
                np.floor(kind(k) * y[j] + kind(np.int32(j)) + half),
            )
            inside = (row >= 0) & (row < kind(rows)) & (column >= 0) & (column < kind(columns))
            into[j] = np.int32(row) * np.int32(columns) + np.int32(column) if inside else rows * columns
