"""What happens to one token between two matrix products. Everything is float32; loops become vector operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from ramify.models.kernels.jit import compiled

LOG2E = np.float32(1.4426950408889634)
# 2^f for |f| <= 1/2, by powers of f: ln(2)^k / k!
POWERS = tuple(np.float32(number) for number in (
    1.0, 0.6931471805599453, 0.2402265069591007, 0.05550410866482158, 0.009618129107628477, 0.0013333558146428443,
    0.00015403530393381608,
))  # fmt: skip
ONE, HALF, ZERO = np.float32(1.0), np.float32(0.5), np.float32(0.0)
LOWEST, HIGHEST = np.float32(-126.0), np.float32(127.0)  # exponents that float32 has
MIDDLE = np.float32(128.0)  # what bytes without a sign have for zero
LARGEST = np.float32(127.0)  # of a signed byte, so that both signs reach equally far


@intrinsic
def _as_float(typing: Any, bits: Any) -> Any:
    """The float32 that these 32 bits are."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _size_bits(typing: Any, number: Any) -> Any:
    """The bits of a float32 without its sign. As integers they are in the order of sizes, and of integers the largest
    is found sixteen at a time."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.and_(builder.bitcast(args[0], ir.IntType(32)), ir.IntType(32)(0x7FFFFFFF))

    return types.int32(types.float32), generate


@intrinsic
def _pointer(typing: Any, address: Any, kind: Any) -> Any:
    """An address as a pointer to numbers of a kind."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind.dtype)(types.int64, kind), generate


@compiled
def floats(address, count):
    """`count` float32 at an address, as an array."""
    return carray(_pointer(address, np.float32), count)


@compiled
def signed(address, count):
    """`count` signed bytes."""
    return carray(_pointer(address, np.int8), count)


@compiled
def unsigned(address, count):
    """`count` bytes without a sign."""
    return carray(_pointer(address, np.uint8), count)


@compiled
def exponential(x):
    """e^x, with a relative error below 1e-6 for |x| < 10 and 1e-5 everywhere; 0 and infinity are never reached."""
    power = min(max(x * LOG2E, LOWEST), HIGHEST)
    whole = np.floor(power + HALF)
    f = power - whole
    c0, c1, c2, c3, c4, c5, c6 = POWERS
    near = c0 + f * (c1 + f * (c2 + f * (c3 + f * (c4 + f * (c5 + f * c6)))))
    return near * _as_float((np.int32(whole) + np.int32(127)) << np.int32(23))


@compiled
def gate(gates, values, out):
    """out = silu(gates) * values."""
    for at in range(len(out)):
        out[at] = gates[at] / (ONE + exponential(-gates[at])) * values[at]


@compiled
def norm(x, weight, eps, out):
    """Root-mean-square norm; `out` may be `x`."""
    total = ZERO
    for at in range(len(x)):
        total += x[at] * x[at]
    scale = ONE / np.sqrt(total / np.float32(len(x)) + np.float32(eps))
    for at in range(len(x)):
        out[at] = x[at] * scale * weight[at]


@compiled
def quantise(x, codes):
    """Fill `codes` with x / scale + 128, rounded to bytes, and return the scale: the largest of x becomes 127.

    Bytes of `codes` beyond x become 128, a zero.
    """
    bits = np.int32(0)
    for at in range(len(x)):
        bits = max(bits, _size_bits(x[at]))
    largest = _as_float(bits)
    inverse = LARGEST / largest if largest > ZERO else ZERO
    for at in range(len(x)):
        codes[at] = np.uint8(np.int32(np.rint(x[at] * inverse) + MIDDLE))
    codes[len(x) :] = np.uint8(128)
    return largest / LARGEST


@compiled
def turn(x, cosines, sines):
    """Rotate one head in place: pair i is channels (i, i + r), of the first 2r."""
    half = len(cosines)
    for at in range(half):
        first, second = x[at], x[half + at]
        x[at] = first * cosines[at] - second * sines[at]
        x[half + at] = second * cosines[at] + first * sines[at]


@compiled
def angles(position, frequencies, scale, cosines, sines):
    """Cosines and sines of the rotations at one position."""
    for at in range(len(frequencies)):
        angle = np.float32(position) * frequencies[at]
        cosines[at] = np.float32(np.cos(angle)) * scale
        sines[at] = np.float32(np.sin(angle)) * scale
