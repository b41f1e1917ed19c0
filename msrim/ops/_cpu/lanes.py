"""Eight maps side by side on a CPU: how Numba's compiler is made to move and add eight numbers at once."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from msrim.ops._cpu.threads import compiled

LANES = 8


@compiled()
def transpose(source, target):
    """``target = source.T`` as far as both reach, in tiles that fit the registers; rows lie without gaps."""
    rows, columns = min(source.shape[0], target.shape[1]), min(source.shape[1], target.shape[0])
    whole_rows, whole_columns = rows - rows % LANES, columns - columns % LANES
    for i in range(0, whole_rows, LANES):
        for j in range(0, whole_columns, LANES):
            _transpose_tile(source, i, j, target)
    for i in range(rows):
        for j in range(whole_columns if i < whole_rows else 0, columns):
            target[j, i] = source[i, j]


@intrinsic
def add_row(typing, target, i, source, j, weight):
    """``target[i] += weight * source[j]`` for rows of eight; LLVM alone doesn't see that the arrays are apart."""

    def generate(context, builder, signature, arguments):
        array, i_type, _, j_type, _ = signature.args
        kind = ir.VectorType(context.get_data_type(array.dtype), LANES)
        into, i, out_of, j, weight = arguments
        i, j = context.cast(builder, i, i_type, types.intp), context.cast(builder, j, j_type, types.intp)
        start = ir.Constant(i.type, 0)
        to = _vector_at(context, builder, array, into, i, start)
        row = _load(builder, _vector_at(context, builder, array, out_of, j, start), array)
        lane = builder.insert_element(ir.Constant(kind, ir.Undefined), weight, ir.Constant(ir.IntType(32), 0))
        weights = builder.shuffle_vector(lane, lane, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))
        votes = builder.fmul(row, weights, flags=("contract",))
        _store(builder, builder.fadd(_load(builder, to, array), votes, flags=("contract",)), to, array)
        return context.get_dummy_value()

    return types.void(target, i, source, j, target.dtype), generate


@intrinsic
def _transpose_tile(typing, source, i, j, target):
    """``target[j : j + 8, i : i + 8] = source[i : i + 8, j : j + 8].T``."""

    def generate(context, builder, signature, arguments):
        from_array, i_type, j_type, to_array = signature.args
        from_value, i, j, to_value = arguments
        i, j = context.cast(builder, i, i_type, types.intp), context.cast(builder, j, j_type, types.intp)

        def rows_from(array, value, first, column):
            for k in range(LANES):
                yield _vector_at(context, builder, array, value, builder.add(first, ir.Constant(i.type, k)), column)

        rows = [_load(builder, at, from_array) for at in rows_from(from_array, from_value, i, j)]
        # Three perfect shuffles of eight rows transpose them.
        halves = [[k // 2 + LANES * (k % 2) + half for k in range(LANES)] for half in (0, LANES // 2)]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), LANES), half) for half in halves]
        for _ in range(3):
            rows = [
                builder.shuffle_vector(rows[k], rows[k + LANES // 2], mask) for k in range(LANES // 2) for mask in masks
            ]
        for row, at in zip(rows, rows_from(to_array, to_value, j, i), strict=True):
            _store(builder, row, at, to_array)
        return context.get_dummy_value()

    return types.void(source, i, j, target), generate


def _vector_at(context, builder, array: types.Array, value, row, column):
    """Pointer to the eight numbers at [row, column] of a 2-D array."""
    fields = context.make_array(array)(context, builder, value)
    start = builder.mul(row, builder.extract_value(fields.strides, 0))
    start = builder.add(start, builder.mul(column, fields.itemsize))
    at = builder.gep(builder.bitcast(fields.data, ir.IntType(8).as_pointer()), [start])
    return builder.bitcast(at, ir.VectorType(context.get_data_type(array.dtype), LANES).as_pointer())


def _load(builder, at, array: Any):
    row = builder.load(at)
    row.align = array.dtype.bitwidth // 8
    return row


def _store(builder, row, at, array: Any) -> None:
    builder.store(row, at).align = array.dtype.bitwidth // 8
