"""All layers of a Llama-like decoder in one call: no Python, no allocation and no meeting between operators.

Covered: root-mean-square norms before attention and before a gated SiLU block, rotary positions (or none in some
layers), shared key heads, norms on heads, biases, windows, soft caps on attention. Shapes: T tokens, L layers, D
hidden, H query heads, G key heads, d head dimension, I inner size, X whatever is needed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import typeof, types

from ramify.models.kernels.attention import merge, torn, work, write
from ramify.models.kernels.jit import address, compiled, link, native
from ramify.models.kernels.linear import look_up, product_phase, rows_per_item, width
from ramify.models.kernels.packed import BYTES, KIND, SPEC
from ramify.models.kernels.rowwise import angles, floats, norm, quantise, turn
from ramify.models.kernels.team import claim, finish, fork, wait

Array = np.ndarray[Any, np.dtype[Any]]

# Products and norms of a layer, in the order of Weights.
QKV, OUT, UP, DOWN = range(4)
ATTENTION_IN, MLP_IN, Q_NORM, K_NORM = range(4)
PHASES = 11  # of a layer


class Weights(NamedTuple):
    """What the forward knows of the model.

    table_S: the packed embedding table. specs_L4S: the packed weights, see `linear`. norms_L4, last: addresses of norm
    weights, 0 where there is none.
    kinds_L2: whether a layer rotates queries and keys, and which of a step's plans it attends by. softcap 0 means
    none. frequencies_r: radians per position of each rotated pair.
    """

    table_S: Array
    specs_L4S: Array
    norms_L4: Array
    last: int
    kinds_L2: Array
    frequencies_r: Array
    rope_scale: float
    embed_scale: float
    eps: float
    scale: float
    softcap: float
    heads: int
    kv_heads: int
    head_dim: int


class Room(NamedTuple):
    """Where a forward of T tokens works; hidden_TD is its result.

    codes and scales_T: rows as bytes. turns_T2r: cosines and sines. scratch: what each thread needs by itself.
    """

    hidden_TD: Array
    normed_TD: Array
    qkv_TX: Array
    mixed_TX: Array
    act_TI: Array
    codes: Array
    scales_T: Array
    turns_T2r: Array
    scratch: Array


@compiled
def _codes(spec, codes, rows):
    """The part of the byte workspace that a product reads: one line per row, empty if it reads floats."""
    size = width(spec) if spec[KIND] == BYTES else 0
    return codes[: rows * size].reshape(rows, size)


@compiled
def _embed_phase(board, threads, ids_T, positions_T, model, room):
    """Embeddings, and the rotations of every position."""
    rows = len(ids_T)
    each = rows_per_item(rows, threads)
    count = (rows + each - 1) // each
    item = claim(board, 1)
    while item < count:
        first, end = item * each, min(rows, item * each + each)
        look_up(model.table_S, ids_T[first:end], room.hidden_TD[first:end])
        for row in range(first, end):
            x_D, turns_2r = room.hidden_TD[row], room.turns_T2r[row]
            for at in range(len(x_D)):
                x_D[at] *= np.float32(model.embed_scale)
            angles(positions_T[row], model.frequencies_r, np.float32(model.rope_scale), turns_2r[0], turns_2r[1])
        finish(board, 1)
        item = claim(board, 1)
    wait(board, 1, count)


@compiled
def _norm_phase(board, phase, threads, place, eps, out_TD, spec, room):
    """Norms of all rows, as bytes if the product that follows wants those."""
    x_TD = room.hidden_TD
    rows, weight = len(x_TD), floats(place, x_TD.shape[1])
    each = rows_per_item(rows, threads)
    count = (rows + each - 1) // each
    codes_TB = _codes(spec, room.codes, rows)
    item = claim(board, phase)
    while item < count:
        for row in range(item * each, min(rows, item * each + each)):
            norm(x_TD[row], weight, eps, out_TD[row])
            if spec[KIND] == BYTES:
                room.scales_T[row] = quantise(out_TD[row], codes_TB[row])
        finish(board, phase)
        item = claim(board, phase)
    wait(board, phase, count)


@compiled
def _byte_phase(board, phase, threads, x_TX, spec, room):
    """Inputs of the product that follows as bytes, if it wants those."""
    if spec[KIND] != BYTES:
        return
    rows = len(x_TX)
    each = rows_per_item(rows, threads)
    count = (rows + each - 1) // each
    codes_TB = _codes(spec, room.codes, rows)
    item = claim(board, phase)
    while item < count:
        for row in range(item * each, min(rows, item * each + each)):
            room.scales_T[row] = quantise(x_TX[row], codes_TB[row])
        finish(board, phase)
        item = claim(board, phase)
    wait(board, phase, count)


@compiled
def _heads_phase(board, phase, threads, model, room, layer, kv, block_size, slots_T):
    """Norms and rotations of queries and keys in place; keys and values into the cache."""
    qkv_TX, norms, rotary = room.qkv_TX, model.norms_L4[layer], model.kinds_L2[layer, 0]
    heads, kv_heads, head_dim = model.heads, model.kv_heads, model.head_dim
    rows = len(qkv_TX)
    each = rows_per_item(rows, threads)
    count = (rows + each - 1) // each
    item = claim(board, phase)
    while item < count:
        first, end = item * each, min(rows, item * each + each)
        for row in range(first, end):
            for head in range(heads + kv_heads):
                one = qkv_TX[row, head * head_dim : (head + 1) * head_dim]
                place = norms[Q_NORM] if head < heads else norms[K_NORM]
                if place:
                    norm(one, floats(place, head_dim), model.eps, one)
                if rotary:
                    turn(one, room.turns_T2r[row, 0], room.turns_T2r[row, 1])
        write(kv, layer, block_size, slots_T[first:end], qkv_TX[first:end], heads * head_dim,
              (heads + kv_heads) * head_dim)
        finish(board, phase)
        item = claim(board, phase)
    wait(board, phase, count)


@compiled
def _attention_phases(board, phase, threads, model, room, layer, kv, plan):
    """Attention, part by part of the plan, and then what the parts add up to where they share a key head."""
    scale, softcap = np.float32(model.scale), np.float32(model.softcap)
    count = len(plan.cuts) - 1
    item = claim(board, phase)
    while item < count:
        native(work, (item, room.qkv_TX, kv, layer, plan, scale, softcap, room.mixed_TX))
        finish(board, phase)
        item = claim(board, phase)
    wait(board, phase, count)
    if not torn(plan):
        return
    rows = len(room.qkv_TX)
    each = rows_per_item(rows, threads)
    count = (rows + each - 1) // each
    item = claim(board, phase + 1)
    while item < count:
        native(merge, (plan, scale, softcap, item * each, min(rows, item * each + each), room.mixed_TX))
        finish(board, phase + 1)
        item = claim(board, phase + 1)
    wait(board, phase + 1, count)


@compiled
def _input(spec, x_TX, codes):
    """The address of a product's inputs: numbers or bytes."""
    return address(codes) if spec[KIND] == BYTES else address(x_TX)


@compiled
def _product(board, phase, threads, spec, x_TX, y_TX, keep, halves, room, scratch):
    """y = x W^T + b, y += that if `keep`, or the gated product if `halves`."""
    native(product_phase, (board, phase, threads, spec, len(x_TX), _input(spec, x_TX, room.codes),
                           address(room.scales_T), address(y_TX), keep, scratch, halves))


@compiled
def _share(threads, board, ids_T, positions_T, slots_T, plans, kv, model, room):
    """One thread's share of the forward. The first phase gives the threads their numbers."""
    thread = claim(board, 0)
    scratch, plain, phase = room.scratch[thread], np.zeros(SPEC, np.int64), 2
    _embed_phase(board, threads, ids_T, positions_T, model, room)
    for layer in range(len(model.specs_L4S)):
        specs, norms, plan = model.specs_L4S[layer], model.norms_L4[layer], plans[model.kinds_L2[layer, 1]]
        x, normed, qkv, mixed, act = room.hidden_TD, room.normed_TD, room.qkv_TX, room.mixed_TX, room.act_TI
        _norm_phase(board, phase, threads, norms[ATTENTION_IN], model.eps, normed, specs[QKV], room)
        _product(board, phase + 1, threads, specs[QKV], normed, qkv, 0, False, room, scratch)
        _heads_phase(board, phase + 2, threads, model, room, layer, kv, plan.block_size, slots_T)
        _attention_phases(board, phase + 3, threads, model, room, layer, kv, plan)
        _byte_phase(board, phase + 5, threads, mixed, specs[OUT], room)
        _product(board, phase + 6, threads, specs[OUT], mixed, x, 1, False, room, scratch)
        _norm_phase(board, phase + 7, threads, norms[MLP_IN], model.eps, normed, specs[UP], room)
        _product(board, phase + 8, threads, specs[UP], normed, act, 0, True, room, scratch)
        _byte_phase(board, phase + 9, threads, act, specs[DOWN], room)
        _product(board, phase + 10, threads, specs[DOWN], act, x, 1, False, room, scratch)
        phase += PHASES
    _norm_phase(board, phase, threads, model.last, model.eps, room.hidden_TD, plain, room)


@compiled
def forward(threads, board, ids_T, positions_T, slots_T, plans, kv, model, room):
    """The forward, by so many threads; the result is in the room.

    `board` has PHASES phases per layer and 3 more; `plans` is a pair. Arguments of these types went through `ready`.
    """
    fork(threads, _share, (threads, board, ids_T, positions_T, slots_T, plans, kv, model, room))


def ready(*args):
    """Link what `forward` calls by name. Finding out the types of its arguments takes a millisecond: once is enough."""
    kinds = tuple(typeof(arg) for arg in args)
    plans, kv, room = (kinds[at] for at in (5, 6, 8))
    whole, plan, lines, number = types.int64, plans[0], room[2], types.float32
    link(work, (whole, lines, kv, whole, plan, number, number, lines))
    link(merge, (plan, number, number, whole, whole, lines))
    link(_share, kinds)
