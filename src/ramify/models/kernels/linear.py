"""Products with packed weights: a panel at a time, shared out among threads."""

from __future__ import annotations

import numpy as np
from numba import types

from ramify.models.kernels.jit import address, compiled, link, native
from ramify.models.kernels.packed import (
    BIAS,
    BYTES,
    FLOATS,
    GROUP,
    INPUTS,
    KIND,
    NIBBLES,
    OUTPUTS,
    PANELS,
    PARTS,
    STRIDE,
    SUMS,
    Array,
    Packed,
)
from ramify.models.kernels.rowwise import floats, gate, quantise, signed, unsigned
from ramify.models.kernels.team import claim, finish, fork, new_board, wait
from ramify.models.kernels.tiles import BYTES as IN_BYTES
from ramify.models.kernels.tiles import PANEL, ROWS, byte_tile, float_tile

BLOCK = 96  # rows that go through a panel together: their inputs stay in a second-level cache
DEPTH = 768  # inner indices at a time, for the same reason
SLICE = 2 * GROUP  # of them, when weights are made floats first: those stay in a first-level cache
SHARES = 8  # items of a product per thread, so that threads end together
ROOM = 2 * BLOCK * PANEL  # where in the scratch weights are made floats
SCRATCH = ROOM + SLICE * PANEL  # float32 that an item may need
ALONE = 1 << 21  # multiplications, some 20 microseconds, that are not worth a second thread


@compiled
def width(spec):
    """Bytes from one row of inputs to the next: float32, or bytes in groups of four."""
    return (spec[INPUTS] + 3) // 4 * 4 if spec[KIND] == BYTES else 4 * spec[INPUTS]


@compiled
def _ahead(weights, following, depth, block, blocks):
    """Where a tile begins to fetch, so that the weights that its thread takes next are in the cache when it is their
    turn: every block of rows has a share of them. One block alone is as fast as memory: it looks a page ahead."""
    return weights + 4096 if blocks == 1 else following + 4 * PANEL * depth * block // blocks


@compiled
def unpack(spec, panel, start, depth, out):
    """The weights of a panel for `depth` inputs from `start` on, as floats: out[depth * PANEL]."""
    codes, place = spec[PANELS] + panel * spec[STRIDE], spec[SUMS]
    if spec[KIND] == NIBBLES:
        groups = (spec[INPUTS] + GROUP - 1) // GROUP
        pairs = unsigned(codes + start // 2 * PANEL, (depth + 1) // 2 * PANEL)
        for at in range(depth):
            scales = floats(place + 4 * PANEL * (panel * groups + (start + at) // GROUP), PANEL)
            shift, line = np.int32(4 * (at % 2)), at // 2 * PANEL
            for column in range(PANEL):
                code = (np.int32(pairs[line + column]) >> shift & np.int32(15)) - np.int32(8)
                out[at * PANEL + column] = np.float32(code) * scales[column]
    else:
        weights, scales = signed(codes + start * PANEL, depth * PANEL), floats(place + 4 * PANEL * panel, PANEL)
        for at in range(depth):
            for column in range(PANEL):
                out[at * PANEL + column] = np.float32(weights[at * PANEL + column]) * scales[column]


@compiled
def look_up(spec, ids, out_ND):
    """Weights of the outputs `ids`, as floats: rows of an embedding table. Not of NIBBLES, and not stacked."""
    inputs = spec[INPUTS]
    for at in range(len(ids)):
        panel, column = ids[at] // PANEL, ids[at] % PANEL
        place, out = spec[PANELS] + panel * spec[STRIDE], out_ND[at]
        if spec[KIND] == FLOATS:
            numbers = floats(place, inputs * PANEL)
            for inner in range(inputs):
                out[inner] = numbers[inner * PANEL + column]
        elif spec[KIND] == BYTES:
            codes, scale = signed(place, spec[STRIDE]), floats(spec[SUMS] + 4 * PANEL * (2 * panel + 1), PANEL)[column]
            for inner in range(inputs):
                out[inner] = np.float32(codes[inner // 4 * (4 * PANEL) + 4 * column + inner % 4]) * scale
        else:
            codes, scale = signed(place, spec[STRIDE]), floats(spec[SUMS] + 4 * PANEL * panel, PANEL)[column]
            for inner in range(inputs):
                out[inner] = np.float32(codes[inner * PANEL + column]) * scale


@compiled
def panel_product(spec, panel, following, rows, x, scales, y, y_stride, keep, scratch):
    """One panel of x W^T, without the bias: y[rows, PANEL], added to what is there if `keep`. `following` is the panel
    that the thread will take next. x, scales and y are addresses, y_stride counts numbers."""
    following = spec[PANELS] + following * spec[STRIDE]
    weights, stride, blocks = spec[PANELS] + panel * spec[STRIDE], width(spec), (rows + ROWS - 1) // ROWS
    if IN_BYTES and spec[KIND] == BYTES:
        sums = spec[SUMS] + 8 * PANEL * panel
        for block in range(blocks):
            first, end = rows * block // blocks, rows * (block + 1) // blocks
            ahead = _ahead(weights, following, stride // 4, block, blocks)
            native(byte_tile, (end - first, x + first * stride, stride, scales + 4 * first, weights, sums, stride // 4,
                               y + 4 * first * y_stride, y_stride, keep, ahead, 4 * PANEL // blocks))
        return
    inputs, plain = spec[INPUTS], spec[KIND] == FLOATS
    step = DEPTH if plain else SLICE
    room = scratch[ROOM:]
    for start in range(0, inputs, step):
        depth, panels = min(step, inputs - start), weights + 4 * PANEL * start
        if not plain:
            unpack(spec, panel, start, depth, room)
            panels = address(room)
        for block in range(blocks):
            first, end = rows * block // blocks, rows * (block + 1) // blocks
            then = panels + 4 * PANEL * depth if start + depth < inputs else following
            native(float_tile, (end - first, x + first * stride + 4 * start, inputs, panels, depth,
                                y + 4 * first * y_stride, y_stride, keep + start,
                                _ahead(panels, then, depth, block, blocks), 4 * PANEL // blocks))


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
def products(spec, first, end, following, rows, x, scales, y, y_stride, keep, scratch):
    """x W^T + b for the panels first..end-1: their columns of y[rows, outputs], added to what is there if `keep`."""
    size = spec[OUTPUTS] // spec[PARTS]
    per_part = (size + PANEL - 1) // PANEL
    for panel in range(first, end):
        inside = panel % per_part * PANEL
        column, count = panel // per_part * size + inside, min(PANEL, size - inside)
        place, then = y + 4 * column, panel + 1 if panel + 1 < end else following
        if count == PANEL:
            panel_product(spec, panel, then, rows, x, scales, place, y_stride, keep, scratch)
        else:
            panel_product(spec, panel, then, rows, x, scales, address(scratch), PANEL, 0, scratch)
            for row in range(rows):
                out, new = floats(place + 4 * row * y_stride, count), scratch[row * PANEL : row * PANEL + count]
                for at in range(count):
                    out[at] = out[at] + new[at] if keep else new[at]
        add_bias(spec, column, rows, count, place, y_stride)


@compiled
def gated(spec, first, end, following, rows, x, scales, y, scratch):
    """silu(x G^T + b) * (x U^T + c) for the panels first..end-1 of each half of W: columns of y[rows, outputs / 2]."""
    size = spec[OUTPUTS] // 2
    half = (size + PANEL - 1) // PANEL
    one, two = scratch[: BLOCK * PANEL], scratch[BLOCK * PANEL : ROOM]
    for panel in range(first, end):
        column, count = panel * PANEL, min(PANEL, size - panel * PANEL)
        then = panel + 1 if panel + 1 < end else following
        panel_product(spec, panel, panel + half, rows, x, scales, address(one), PANEL, 0, scratch)
        panel_product(spec, panel + half, then, rows, x, scales, address(two), PANEL, 0, scratch)
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
        following = (item + threads) % groups * each  # threads take items by turns, more or less
        count, inputs = rows * (block + 1) // blocks - top, x + top * width(spec)
        if halves:
            gated(spec, first, end, following, count, inputs, scales + 4 * top, y + 4 * top * size, scratch)
        else:
            outputs = spec[OUTPUTS]
            products(spec, first, end, following, count, inputs, scales + 4 * top, y + 4 * top * outputs, outputs, keep,
                     scratch)
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
