"""Weights as the tiles want them, and products with them.

A packed weight is described by a row of int64 (a `spec`, columns below), so that one kernel runs any of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types

from ramify.models.kernels.jit import address, compiled, link, native
from ramify.models.kernels.rowwise import floats, gate, quantise
from ramify.models.kernels.team import claim, finish, fork, new_board, wait
from ramify.models.kernels.tiles import BYTES as IN_BYTES
from ramify.models.kernels.tiles import PANEL, ROWS, byte_tile, float_tile

Array = np.ndarray[Any, np.dtype[Any]]

# Columns of a spec. Addresses of the first panel and of its column sums, bytes from one panel to the next; the
# address of the bias, or 0; in how many equal parts the outputs are padded to whole panels.
KIND, INPUTS, OUTPUTS, PANELS, STRIDE, SUMS, BIAS, PARTS = range(8)
SPEC = 8
FLOATS, BYTES = range(2)  # kinds

BLOCK = 96  # rows that go through a panel together: their inputs stay in a second-level cache
DEPTH = 768  # inner indices at a time, for the same reason
SHARES = 8  # items of a product per thread, so that threads end together
SCRATCH = 2 * BLOCK * PANEL  # float32 that an item may need
ALONE = 1 << 21  # multiplications, some 20 microseconds, that are not worth a second thread


@dataclass(slots=True, eq=False)
class Packed:
    """A weight: its spec, and the arrays that the spec's addresses point into.

    sums: of bytes, what each output's products are added to, and its scale. bias: one number per output, or None.
    """

    spec: Array
    panels: Array
    sums: Array | None
    bias: Array | None

    @property
    def nbytes(self) -> int:
        """Bytes that the weight takes, all told."""
        return sum(part.nbytes for part in (self.panels, self.sums, self.bias) if part is not None)


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros that begin at a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def pack_floats(weight_OI: Array, bias_O: Array | None = None, parts: int = 1) -> Packed:
    """float32 weights: panels of [inputs, PANEL]."""
    outputs, inputs = weight_OI.shape
    panels = aligned((_count(outputs, parts), inputs, PANEL), np.float32)
    for panel, rows in zip(panels, _rows(weight_OI, parts), strict=True):
        panel[:, : len(rows)] = rows.T
    return _packed(FLOATS, weight_OI, panels, None, bias_O, parts)


def pack_bytes(codes_OI: Array, scales_O: Array, bias_O: Array | None = None, parts: int = 1) -> Packed:
    """int8 weights with one scale per output: panels of [inputs / 4, PANEL, 4].

    Inputs come as bytes with 128 added, which the sums of every output take back.
    """
    outputs, inputs = codes_OI.shape
    quads = -(-inputs // 4)
    panels = aligned((_count(outputs, parts), quads, PANEL, 4), np.int8)
    sums = aligned((len(panels), 2, PANEL), np.int32)
    padded = np.zeros((PANEL, 4 * quads), np.int8)
    several = zip(panels, sums, _rows(codes_OI, parts), _rows(scales_O.view(np.int32), parts), strict=True)
    for panel, (total, scale), rows, scales in several:
        padded[:] = 0
        padded[: len(rows), :inputs] = rows
        panel[:] = padded.reshape(PANEL, quads, 4).transpose(1, 0, 2)
        total[:] = -128 * padded.sum(1, dtype=np.int32)
        scale[: len(rows)] = scales
    return _packed(BYTES, codes_OI, panels, sums, bias_O, parts)


def _count(outputs: int, parts: int) -> int:
    """How many panels hold so many outputs."""
    return parts * -(-outputs // parts // PANEL)


def _rows(weight: Array, parts: int) -> list[Array]:
    """The outputs of every panel."""
    return [part[at : at + PANEL] for part in np.split(weight, parts) for at in range(0, len(part), PANEL)]


def _packed(kind: int, weight: Array, panels: Array, sums: Array | None, bias: Array | None, parts: int) -> Packed:
    spec = np.zeros(SPEC, np.int64)
    spec[[KIND, OUTPUTS, INPUTS, PARTS]] = kind, *weight.shape, parts
    spec[[PANELS, STRIDE]] = panels.ctypes.data, panels[0].nbytes
    spec[SUMS] = 0 if sums is None else sums.ctypes.data
    spec[BIAS] = 0 if bias is None else bias.ctypes.data
    return Packed(spec, panels, sums, bias)


@compiled
def width(spec):
    """Bytes from one row of inputs to the next: float32, or bytes in groups of four."""
    return 4 * spec[INPUTS] if spec[KIND] == FLOATS else (spec[INPUTS] + 3) // 4 * 4


@compiled
def panel_product(spec, panel, rows, x, scales, y, y_stride, keep):
    """One panel of x W^T, without the bias: y[rows, PANEL], added to what is there if `keep`. x, scales and y are
    addresses, y_stride counts numbers."""
    weights, stride, blocks = spec[PANELS] + panel * spec[STRIDE], width(spec), (rows + ROWS - 1) // ROWS
    if IN_BYTES and spec[KIND] == BYTES:
        sums = spec[SUMS] + 8 * PANEL * panel
        for block in range(blocks):
            first, end = rows * block // blocks, rows * (block + 1) // blocks
            native(byte_tile, (end - first, x + first * stride, stride, scales + 4 * first, weights, sums, stride // 4,
                               y + 4 * first * y_stride, y_stride, keep))
        return
    inputs = spec[INPUTS]
    for start in range(0, inputs, DEPTH):
        depth = min(DEPTH, inputs - start)
        for block in range(blocks):
            first, end = rows * block // blocks, rows * (block + 1) // blocks
            native(float_tile, (end - first, x + first * stride + 4 * start, inputs, weights + 4 * PANEL * start,
                                depth, y + 4 * first * y_stride, y_stride, keep + start))


@compiled
def add_bias(spec, column, rows, count, y, y_stride):
    """Add the bias of `count` outputs from `column` on to y[rows, count]."""
    if spec[BIAS] == 0:
        return
    bias = floats(spec[BIAS] + 4 * column, count)
    for row in range(rows):
        out = floats(y + 4 * row * y_stride, count)
        for at in range(count):
            out[at] += bias[at]


@compiled
def products(spec, first, end, rows, x, scales, y, y_stride, keep, scratch):
    """x W^T + b for the panels first..end-1: their columns of y[rows, outputs], added to what is there if `keep`."""
    size = spec[OUTPUTS] // spec[PARTS]
    per_part = (size + PANEL - 1) // PANEL
    for panel in range(first, end):
        inside = panel % per_part * PANEL
        column, count = panel // per_part * size + inside, min(PANEL, size - inside)
        place = y + 4 * column
        if count == PANEL:
            panel_product(spec, panel, rows, x, scales, place, y_stride, keep)
        else:
            panel_product(spec, panel, rows, x, scales, address(scratch), PANEL, 0)
            for row in range(rows):
                out, new = floats(place + 4 * row * y_stride, count), scratch[row * PANEL : row * PANEL + count]
                for at in range(count):
                    out[at] = out[at] + new[at] if keep else new[at]
        add_bias(spec, column, rows, count, place, y_stride)


@compiled
def gated(spec, first, end, rows, x, scales, y, scratch):
    """silu(x G^T + b) * (x U^T + c) for the panels first..end-1 of each half of W: columns of y[rows, outputs / 2]."""
    size = spec[OUTPUTS] // 2
    half = (size + PANEL - 1) // PANEL
    one, two = scratch[: BLOCK * PANEL], scratch[BLOCK * PANEL :]
    for panel in range(first, end):
        column, count = panel * PANEL, min(PANEL, size - panel * PANEL)
        panel_product(spec, panel, rows, x, scales, address(one), PANEL, 0)
        panel_product(spec, panel + half, rows, x, scales, address(two), PANEL, 0)
        add_bias(spec, column, rows, count, address(one), PANEL)
        add_bias(spec, size + column, rows, count, address(two), PANEL)
        for row in range(rows):
            at = row * PANEL
            gate(one[at : at + count], two[at : at + count], floats(y + 4 * (row * size + column), count))


@compiled
def product_phase(board, phase, threads, spec, rows, x, scales, y, keep, scratch, halves):
    """y = x W^T + b, or y += that if `keep`, or the gated product if `halves`: a thread's share of the phase."""
    size = spec[OUTPUTS] // spec[PARTS]
    panels = (size + PANEL - 1) // PANEL * (1 if halves else spec[PARTS])
    blocks = (rows + BLOCK - 1) // BLOCK
    each = max(1, panels * blocks // (SHARES * threads))  # panels per item
    groups = (panels + each - 1) // each
    item = claim(board, phase)
    while item < groups * blocks:
        block, first = item // groups, item % groups * each
        top, end = rows * block // blocks, min(first + each, panels)
        count, inputs = rows * (block + 1) // blocks - top, x + top * width(spec)
        if halves:
            gated(spec, first, end, count, inputs, scales + 4 * top, y + 4 * top * size, scratch)
        else:
            outputs = spec[OUTPUTS]
            products(spec, first, end, count, inputs, scales + 4 * top, y + 4 * top * outputs, outputs, keep, scratch)
        finish(board, phase)
        item = claim(board, phase)
    wait(board, phase, groups * blocks)


@compiled
def rows_per_item(rows, threads):
    """How many rows one thread takes at a time between products."""
    return max(1, min(16, rows // (4 * threads)))


@compiled
def quantise_phase(board, phase, threads, x, codes, scales):
    """Rows of x as bytes: a thread's share of the phase."""
    rows = len(x)
    each = rows_per_item(rows, threads)
    count = (rows + each - 1) // each
    item = claim(board, phase)
    while item < count:
        for row in range(item * each, min(rows, item * each + each)):
            scales[row] = quantise(x[row], codes[row])
        finish(board, phase)
        item = claim(board, phase)
    wait(board, phase, count)


@compiled
def _member(threads, board, spec, x, codes, scales, y, scratch):
    thread, inputs = claim(board, 0), address(x)
    if spec[KIND] == BYTES:
        quantise_phase(board, 1, threads, x, codes, scales)
        inputs = address(codes)
    native(product_phase, (board, 2, threads, spec, len(x), inputs, address(scales), address(y), 0,
                           scratch[thread], False))


@compiled
def _product(threads, board, spec, x, codes, scales, y, scratch):
    fork(threads, _member, (threads, board, spec, x, codes, scales, y, scratch))


_LONG, _LONGS, _FLOATS, _LINES = types.int64, types.int64[::1], types.float32[::1], types.float32[:, ::1]
link(product_phase, (_LONGS, *(_LONG,) * 2, _LONGS, *(_LONG,) * 5, _FLOATS, types.boolean))
link(_member, (_LONG, _LONGS, _LONGS, _LINES, types.uint8[:, ::1], _FLOATS, _LINES, _LINES))


def product(packed: Packed, x_TI: Array, threads: int) -> Array:
    """x W^T + b for float32 rows that lie one after another."""
    rows, in_bytes = len(x_TI), packed.spec[KIND] == BYTES
    if rows * packed.spec[INPUTS] * packed.spec[OUTPUTS] < ALONE:
        threads = 1
    y_TO = np.empty((rows, packed.spec[OUTPUTS]), np.float32)
    codes = np.empty((rows, width(packed.spec)) if in_bytes else (0, 0), np.uint8)
    scales, scratch = np.empty(rows, np.float32), np.empty((threads, SCRATCH), np.float32)
    _product(threads, new_board(3), packed.spec, x_TI, codes, scales, y_TO, scratch)
    return y_TO
