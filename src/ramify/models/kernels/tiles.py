"""The inner loops of matrix products, written as LLVM vectors: what a compiler does not find by itself.

A tile is `rows` rows of the output times one panel of PANEL columns; its sums stay in registers while the inner
dimension runs through. Weights are packed panel by panel: for each inner index the PANEL columns side by side
(for bytes, four inner indices of each column side by side). Addresses and sizes are plain integers.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ramify.models.kernels.jit import compiled, each_count, fetch, has, link

# Registers of a machine decide the tile: sums, one panel's row of weights and one broadcast input fit together.
LANES, VECTORS, ROWS = (16, 4, 6) if has("avx512f") else (8, 2, 6) if has("avx2") else (4, 4, 6)
PANEL = LANES * VECTORS
# Multiply and add in one instruction; without it a tile would call a function for every number.
FUSED = has("fma") or platform.machine().lower() in ("arm64", "aarch64")
# Sums of byte products in one instruction; without it the int8 executor is not offered.
BYTES = has("avx512f") and has("avx512vnni")

_INT, _LONG, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)
LINE = 64  # bytes that come from memory together
Values = list[list[Any]]  # of a tile, by row and by vector


def _long(value: int) -> ir.Constant:
    return ir.Constant(_LONG, value)


def _offset(builder: Any, address: Any, kind: Any, *terms: Any) -> Any:
    """A pointer to `kind`, bytes beyond an address."""
    for term in terms:
        address = builder.add(address, term)
    return builder.inttoptr(address, kind.as_pointer())


def _broadcast(builder: Any, scalar: Any, kind: Any) -> Any:
    """A vector whose lanes all hold the scalar."""
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, _INT(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * LANES))


def _each(rows: int, value: Any) -> Values:
    return [[value(row, vector) for vector in range(VECTORS)] for row in range(rows)]


def _inner_loop(builder: Any, depth: Any, start: Values, multiply: Any, scalar: Any, inputs: list[Any],
                weights: Any, ahead: Any, pace: Any) -> Values:
    """Run through the inner dimension, asking for what lies `ahead` on the way, `pace` bytes each time. `scalar` is the
    type of one input; returns the sums."""
    kind, rows, entry = start[0][0].type, len(start), builder.block
    loop, after = (builder.append_basic_block(name) for name in ("inner", "sums"))
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_LONG)
    index.add_incoming(_long(0), entry)
    sums = _each(rows, lambda row, vector: builder.phi(kind))
    left = builder.mul(index, _long(4 * PANEL))
    columns = _FLOATS if scalar is _FLOAT else _INTS
    panel = [builder.load(_offset(builder, weights, columns, left, _long(4 * LANES * vector)), align=4)
             for vector in range(VECTORS)]
    for line in range(2):
        fetch(builder, builder.add(builder.add(ahead, builder.mul(index, pace)), _long(LINE * line)), 2)
    step = builder.mul(index, _long(4))
    done: Values = []
    for row in range(rows):
        one = builder.load(_offset(builder, inputs[row], scalar, step), align=4)
        spread = _broadcast(builder, one, columns)
        done.append([multiply(sums[row][vector], spread, panel[vector]) for vector in range(VECTORS)])
    following = builder.add(index, _long(1))
    index.add_incoming(following, loop)
    for row in range(rows):
        for vector in range(VECTORS):
            sums[row][vector].add_incoming(start[row][vector], entry)
            sums[row][vector].add_incoming(done[row][vector], loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    return done


def _kept(builder: Any, keep: Any, places: Values) -> Values:
    """What the output holds where it is to be added to, else zeros."""
    entry = builder.block
    load, after = (builder.append_basic_block(name) for name in ("load", "start"))
    builder.cbranch(builder.icmp_signed("!=", keep, _long(0)), load, after)
    builder.position_at_end(load)
    held = [[builder.load(place, align=4) for place in row] for row in places]
    builder.branch(after)
    builder.position_at_end(after)
    out = _each(len(places), lambda row, vector: builder.phi(_FLOATS))
    for row, values in zip(out, held, strict=True):
        for phi, value in zip(row, values, strict=True):
            phi.add_incoming(value, load)
            phi.add_incoming(ir.Constant(_FLOATS, None), entry)
    return out


def _places(builder: Any, address: Any, stride: Any, rows: int) -> Values:
    """Where the tile lies in the output."""
    return _each(rows, lambda row, vector: _offset(builder, address, _FLOATS, builder.mul(stride, _long(4 * row)),
                                                   _long(4 * LANES * vector)))


@intrinsic
def _float_tile(typing: Any, rows: Any, x: Any, x_stride: Any, w: Any, depth: Any, y: Any, y_stride: Any,
                keep: Any, ahead: Any, pace: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, x, x_stride, w, depth, y, y_stride, keep, ahead, pace = args
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
        for count in each_count(builder, rows, ROWS):
            places = _places(builder, y, y_stride, count)
            inputs = [builder.add(x, builder.mul(x_stride, _long(4 * row))) for row in range(count)]
            sums = _inner_loop(builder, depth, _kept(builder, keep, places),
                               lambda total, one, column: builder.call(fma, [one, column, total]), _FLOAT, inputs, w,
                               ahead, pace)
            for row in range(count):
                for vector in range(VECTORS):
                    builder.store(sums[row][vector], places[row][vector], align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), generate


@intrinsic
def _byte_tile(typing: Any, rows: Any, x: Any, x_stride: Any, scales: Any, w: Any, sums: Any, depth: Any, y: Any,
               y_stride: Any, keep: Any, ahead: Any, pace: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, x, x_stride, scales, w, offsets, depth, y, y_stride, keep, ahead, pace = args
        kind = ir.FunctionType(_INTS, [_INTS] * 3)
        dot = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")

        def column(kind: Any, part: int, vector: int) -> Any:
            place = _offset(builder, offsets, kind, _long(4 * (PANEL * part + LANES * vector)))
            return builder.load(place, align=4)

        for count in each_count(builder, rows, ROWS):
            places = _places(builder, y, y_stride, count)
            inputs = [builder.add(x, builder.mul(x_stride, _long(row))) for row in range(count)]
            begin = [column(_INTS, 0, vector) for vector in range(VECTORS)]
            sums = _inner_loop(builder, depth, [begin] * count,
                               lambda total, quad, column: builder.call(dot, [total, quad, column]), _INT, inputs, w,
                               ahead, pace)
            held = _kept(builder, keep, places)
            for row in range(count):
                scale = builder.load(_offset(builder, scales, _FLOAT, _long(4 * row)))
                for vector in range(VECTORS):
                    value = builder.sitofp(sums[row][vector], _FLOATS)
                    value = builder.fmul(value, builder.fmul(column(_FLOATS, 1, vector),
                                                             _broadcast(builder, scale, _FLOATS)))
                    builder.store(builder.fadd(value, held[row][vector]), places[row][vector], align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12), generate


@compiled
def float_tile(rows, x, x_stride, w, depth, y, y_stride, keep, ahead, pace):
    """y = x w, or y += x w if `keep`, for one panel and at most ROWS rows of float32. Strides count numbers.

    On the way two neighbouring lines of memory are asked for at every inner index, at first those at `ahead` and then
    those `pace` bytes further on each time; any address will do.
    """
    _float_tile(rows, x, x_stride, w, depth, y, y_stride, keep, ahead, pace)


@compiled
def byte_tile(rows, x, x_stride, scales, w, sums, depth, y, y_stride, keep, ahead, pace):
    """The same for bytes: y = scale_row * scale_column * (sums + x w), with x unsigned and w signed bytes.

    x_stride counts bytes, y_stride numbers, `depth` groups of four bytes. `sums` is the address of PANEL int32 that
    the products are added to, followed by the columns' PANEL float32 scales.
    """
    _byte_tile(rows, x, x_stride, scales, w, sums, depth, y, y_stride, keep, ahead, pace)


link(float_tile, (types.int64,) * 10)
if BYTES:
    link(byte_tile, (types.int64,) * 12)
