"""The inner loops of attention as LLVM vectors: scores, weights and weighted sums of a few query heads at a time.

Addresses are plain integers and point to float32 unless said otherwise; sizes and pitches of addresses are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ramify.models.kernels.jit import compiled, each_count, fetch, has
from ramify.models.kernels.tiles import LINE

GROUP = 16  # numbers of a vector, and keys that are scored side by side; on narrow machines it takes several registers
# Query heads of a tile and vectors of each: with their sums all registers but a few are in use.
FEW = 4  # up to so many query heads, memory is what takes time, and is asked for in advance
ROWS, VECTORS = (8, 2) if has("avx512f") else (4, 1)

_BYTE, _HALF, _INT, _LONG, _FLOAT = (*(ir.IntType(size) for size in (8, 16, 32, 64)), ir.FloatType())
_FLOATS, _INTS = ir.VectorType(_FLOAT, GROUP), ir.VectorType(_INT, GROUP)
# 2^x on [-1/2, 1/2] to within 8e-8 of itself, highest power first, fitted so that the largest error is least.
EXP2 = (0.0013276472, 0.0096755413, 0.055507133, 0.2402212, 0.69314697, 1.0000001)
KEYS = 128  # of a row of scores at most
PITCH = 4 * (KEYS + GROUP * VECTORS)  # bytes from one row of scores to the next: the last tile may not be full
# Smaller exponents of two give 2^-100, which is nothing beside a weight of one, and times a scale still a number that
# processors are fast with.
LEAST = -100.0


def _long(value: int) -> ir.Constant:
    return ir.Constant(_LONG, value)


def _floats(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [value] * GROUP)


def _load(builder: Any, kind: Any, address: Any, beyond: int = 0) -> Any:
    place = builder.inttoptr(builder.add(address, _long(beyond)), kind.as_pointer())
    return builder.load(place, align=8 if kind is _LONG else 4)


def _cached(builder: Any, kind: Any, address: Any, beyond: int) -> Any:
    """The vector of cached numbers so many numbers beyond an address: float32, bfloat16 held as int16, or bytes."""
    if kind is _FLOAT:
        return _load(builder, _FLOATS, address, 4 * beyond)
    size, narrow = _size(kind), ir.VectorType(kind, GROUP)
    place = builder.inttoptr(builder.add(address, _long(size * beyond)), narrow.as_pointer())
    numbers = builder.load(place, align=size)
    if kind is _BYTE:
        return builder.sitofp(builder.sext(numbers, _INTS), _FLOATS)
    wide = builder.zext(numbers, _INTS)  # bfloat16 is the upper half of a float32
    return builder.bitcast(builder.shl(wide, ir.Constant(_INTS, [16] * GROUP)), _FLOATS)


def _kind(kv: Any) -> Any:
    """What a store of this array type holds, as LLVM type."""
    return {8: _BYTE, 16: _HALF, 32: _FLOAT}[kv.dtype.bitwidth]


def _size(kind: Any) -> int:
    """Bytes of a number of the store."""
    return {_BYTE: 1, _HALF: 2, _FLOAT: 4}[kind]


def _lead(kind: Any) -> int:
    """Bytes before the numbers of a group: its scales, if there are any."""
    return 4 * GROUP if kind is _BYTE else 0


def _store(builder: Any, value: Any, address: Any, beyond: int = 0) -> None:
    builder.store(value, builder.inttoptr(builder.add(address, _long(beyond)), value.type.as_pointer()), align=4)


def _spread(builder: Any, scalar: Any) -> Any:
    """A vector whose numbers are all the scalar."""
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scalar, _INT(0))
    return builder.shuffle_vector(first, first, ir.Constant(_INTS, [0] * GROUP))


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    """An LLVM intrinsic on vectors of floats."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{GROUP}f32"), args)


def _fma(builder: Any, left: Any, right: Any, more: Any) -> Any:
    return _call(builder, "fma", _FLOATS, left, right, more)


def _larger(builder: Any, left: Any, right: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", left, right), left, right)


def _loop(builder: Any, count: Any, step: int, start: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> Any:
    """for index in range(0, count, step), at least once: values = body(index, values). Returns the last values."""
    entry = builder.block
    loop, after = (builder.append_basic_block(name) for name in ("loop", "after"))
    builder.branch(loop)
    builder.position_at_end(loop)
    index, values = builder.phi(_LONG), [builder.phi(value.type) for value in start]
    done = body(index, values)
    following = builder.add(index, _long(step))
    for phi, first, later in zip([index, *values], [_long(0), *start], [following, *done], strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return done


def _grow(builder: Any, sums: list[Any], ones: list[Any], many: list[Any]) -> list[Any]:
    """sums, row by row, + the outer product of scalars and vectors."""
    spread = [_spread(builder, one) for one in ones]
    return [_fma(builder, spread[at // len(many)], many[at % len(many)], total) for at, total in enumerate(sums)]


def _exp2(builder: Any, x: Any) -> Any:
    """2^x of a vector, for x up to 126; never less than 2^LEAST."""
    x = _larger(builder, x, _floats(LEAST))
    whole = _call(builder, "rint", _FLOATS, x)
    rest = builder.fsub(x, whole)
    power = _floats(EXP2[0])
    for coefficient in EXP2[1:]:
        power = _fma(builder, power, rest, _floats(coefficient))
    exponent = builder.shl(builder.fptosi(whole, _INTS), ir.Constant(_INTS, [23] * GROUP))
    return builder.bitcast(builder.add(builder.bitcast(power, _INTS), exponent), _FLOATS)


@intrinsic
def _scores(typing: Any, kv: Any, rows: Any, lines: Any, spots: Any, shift: Any, depth: Any, out: Any) -> Any:
    kind = _kind(kv)
    size = _size(kind)
    turns = max(2, LINE // (size * GROUP))  # at a time: as many as use up whole lines

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, rows, lines, spots, shift, depth, out = args
        keys = [_load(builder, _LONG, spots, 8 * vector) for vector in range(VECTORS)]
        soon = [builder.add(key, shift) for key in keys]
        soon += [_load(builder, _LONG, spots, 8 * vector) for vector in range(VECTORS, 2 * VECTORS)]
        for count in each_count(builder, rows, ROWS):
            heads = [_load(builder, _LONG, lines, 8 * row) for row in range(count)]
            if _lead(kind) and count <= FEW:
                for place in soon:
                    fetch(builder, place, 1)

            def body(index: Any, sums: list[Any], heads: list[Any] = heads, count: int = count) -> list[Any]:
                at, step = builder.mul(index, _long(size * GROUP)), builder.mul(index, _long(4))
                at = builder.add(at, _long(_lead(kind)))
                for turn in range(turns):
                    many = [_cached(builder, kind, builder.add(key, at), GROUP * turn) for key in keys]
                    ones = [_load(builder, _FLOAT, builder.add(head, step), 4 * turn) for head in heads]
                    sums = _grow(builder, sums, ones, many)
                    if count <= FEW and size * GROUP * turn % LINE == 0:
                        for place in soon:
                            fetch(builder, builder.add(builder.add(place, at), _long(size * GROUP * turn)), 1)
                return sums

            for at, total in enumerate(_loop(builder, depth, turns, [_floats(0)] * (count * VECTORS), body)):
                if _lead(kind):
                    total = builder.fmul(total, _load(builder, _FLOATS, keys[at % VECTORS]))
                _store(builder, total, out, PITCH * (at // VECTORS) + 4 * GROUP * (at % VECTORS))
        return context.get_dummy_value()

    return types.void(kv, *[types.int64] * 6), generate


@intrinsic(prefer_literal=True)
def _weigh(typing: Any, kv: Any, vectors: Any, rows: Any, weights: Any, keeps: Any, spots: Any, keys: Any,
           shift: Any, value_pitch: Any, out: Any, out_pitch: Any) -> Any:
    wide, kind = vectors.literal_value, _kind(kv)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, _, rows, weights, keeps, spots, keys, shift, value_pitch, out, out_pitch = args
        shift = builder.add(shift, _long(_lead(kind)))
        for count in each_count(builder, rows, ROWS):
            places = [builder.add(out, builder.mul(out_pitch, _long(row))) for row in range(count)]
            keep = [_spread(builder, _load(builder, _FLOAT, keeps, 4 * row)) for row in range(count)]
            start = [builder.fmul(keep[row], _load(builder, _FLOATS, places[row], 4 * GROUP * vector))
                     for row in range(count) for vector in range(wide)]

            def body(index: Any, sums: list[Any], count: int = count) -> list[Any]:
                group = builder.mul(builder.udiv(index, _long(GROUP)), _long(8))
                value = builder.add(_load(builder, _LONG, builder.add(spots, group)), shift)
                value = builder.add(value, builder.mul(builder.urem(index, _long(GROUP)), value_pitch))
                row = builder.add(weights, builder.mul(index, _long(4)))
                for turn in range(4):
                    many = [_cached(builder, kind, value, GROUP * vector) for vector in range(wide)]
                    ones = [_load(builder, _FLOAT, row, PITCH * head + 4 * turn) for head in range(count)]
                    sums, value = _grow(builder, sums, ones, many), builder.add(value, value_pitch)
                return sums

            for at, total in enumerate(_loop(builder, keys, 4, start, body)):
                _store(builder, total, places[at // wide], 4 * GROUP * (at % wide))
        return context.get_dummy_value()

    return types.void(kv, vectors, *[types.int64] * 9), generate


@intrinsic
def highest(typing: Any, row: Any, count: Any, start: Any) -> Any:
    """The largest of `start` and the first `count` numbers of a row, a multiple of GROUP."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, count, start = args

        def body(index: Any, tops: list[Any]) -> list[Any]:
            value = _load(builder, _FLOATS, builder.add(row, builder.mul(index, _long(4))))
            return [_larger(builder, value, tops[0])]

        [top] = _loop(builder, count, GROUP, [_spread(builder, start)], body)
        return _call(builder, "vector.reduce.fmax", _FLOAT, top)

    return types.float32(types.int64, types.int64, types.float32), generate


@intrinsic
def power(typing: Any, x: Any) -> Any:
    """2^x of one number up to 126."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_element(_exp2(builder, _spread(builder, args[0])), _INT(0))

    return types.float32(types.float32), generate


@intrinsic
def soften(typing: Any, kv: Any, row: Any, count: Any, factor: Any, top: Any, spots: Any, shift: Any) -> Any:
    """Turn scores s of a row into weights 2^(factor * (s - top)), in place. Returns their sum.

    If the values of the store `kv` have scales, which lie `shift` behind the groups of keys at the addresses at
    `spots`, the row becomes the weights times these.
    """
    scaled = _lead(_kind(kv)) > 0

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, row, count, factor, top, spots, shift = args
        factors, tops = _spread(builder, factor), _spread(builder, top)

        def body(index: Any, sums: list[Any]) -> list[Any]:
            place = builder.add(row, builder.mul(index, _long(4)))
            x = builder.fmul(builder.fsub(_load(builder, _FLOATS, place), tops), factors)
            weight = _exp2(builder, x)
            if scaled:
                spot = builder.add(spots, builder.mul(builder.udiv(index, _long(GROUP)), _long(8)))
                scale = _load(builder, _FLOATS, builder.add(_load(builder, _LONG, spot), shift))
                _store(builder, builder.fmul(weight, scale), place)
            else:
                _store(builder, weight, place)
            return [builder.fadd(sums[0], weight)]

        [total] = _loop(builder, count, GROUP, [_floats(0)], body)
        kind = ir.FunctionType(_FLOAT, [_FLOAT, _FLOATS])
        add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{GROUP}f32")
        return builder.call(add, [_FLOAT(0), total], fastmath=("reassoc",))

    return types.float32(kv, *[types.int64] * 2, *[types.float32] * 2, *[types.int64] * 2), generate


@intrinsic
def cap(typing: Any, row: Any, count: Any, factor: Any, softcap: Any) -> Any:
    """Turn scores s of a row into softcap * tanh(factor * s), in place."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, count, factor, softcap = args
        # tanh x = 1 - 2 / (e^2x + 1); beyond 20 it is 1 in float32, below -20 it is -1.
        factors, caps = builder.fmul(_spread(builder, factor), _floats(2 * 1.442695041)), _spread(builder, softcap)

        def body(index: Any, values: list[Any]) -> list[Any]:
            place = builder.add(row, builder.mul(index, _long(4)))
            x = builder.fmul(_load(builder, _FLOATS, place), factors)
            x = builder.select(builder.fcmp_ordered("<", x, _floats(60)), x, _floats(60))
            part = builder.fdiv(_floats(2), builder.fadd(_exp2(builder, x), _floats(1)))
            _store(builder, builder.fmul(caps, builder.fsub(_floats(1), part)), place)
            return values

        _loop(builder, count, GROUP, [], body)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.float32), generate


@intrinsic
def held(typing: Any, kv: Any, x: Any) -> Any:
    """A float32 as the store `kv` holds it: as it is, or rounded to the nearest bfloat16 or signed byte."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _kind(kv) is _FLOAT:
            return args[1]
        if _kind(kv) is _BYTE:
            kind = ir.FunctionType(_FLOAT, [_FLOAT])
            even = cgutils.get_or_insert_function(builder.module, kind, "llvm.rint.f32")
            return builder.fptosi(builder.call(even, [args[1]]), _BYTE)
        bits = builder.bitcast(args[1], _INT)
        odd = builder.and_(builder.lshr(bits, _INT(16)), _INT(1))
        bits = builder.add(builder.add(bits, _INT(0x7FFF)), odd)
        return builder.trunc(builder.lshr(bits, _INT(16)), _HALF)

    return kv.dtype(kv, types.float32), generate


@compiled
def scores(kv, rows, lines, spots, shift, depth, out):
    """Products of `rows` queries with GROUP * VECTORS keys of the store `kv`, times their scales if they have such.

    lines: address of each query's address. spots: address of the addresses of VECTORS groups of keys, each [depth,
    GROUP], and then of those that come next; their values lie `shift` behind. depth is a multiple of 4. What is needed
    next is asked for where a few query heads leave memory the time.
    """
    _scores(kv, rows, lines, spots, shift, depth, out)


@compiled
def weigh(kv, rows, weights, keeps, spots, keys, shift, depth, out):
    """out = keep * out + weights @ values, for `rows` query heads, `keys` keys of `kv` and `depth` numbers each.

    keeps: address of one factor per row. spots: address of the addresses of groups of GROUP keys; their values,
    [GROUP, depth], lie `shift` behind. out: [rows, depth]. keys is a multiple of 4, depth of GROUP.
    """
    done, size = 0, kv.itemsize
    while depth - done >= GROUP * VECTORS:
        _weigh(kv, VECTORS, rows, weights, keeps, spots, keys, shift + size * done, size * depth, out + 4 * done,
               4 * depth)
        done += GROUP * VECTORS
    while done < depth:
        _weigh(kv, 1, rows, weights, keeps, spots, keys, shift + size * done, size * depth, out + 4 * done, 4 * depth)
        done += GROUP
