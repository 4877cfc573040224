"""Attention over a paged cache: rows of every kind, at their own lengths, with shared beginnings read once.

    write(kv, layer, block_size, slots_T, x_TX, key, value)
    attend(q_TX, kv, layer, plan, scale, softcap, out_TX)

are for one layer; `attention_plan.plan` is made once per step. `attend` is `work` for every part of the plan, in any
order or at once, and then `merge` for every query. These and `write` may be called from compiled code.

kv, the store: float32 [blocks, layers, 2, G, block_size * d]. A block's values are [block_size, d] per head, its keys
[block_size / 16, d, 16], so that a vector register holds one number of 16 keys. A slot is block * block_size +
offset. x_TX, q_TX, out_TX: float32, contiguous, one line per token and as wide as it happens to be: queries and results
are the first H * d numbers of their lines, keys and values the G * d numbers from columns `key` and `value` on, so one
fused projection [T, (H + 2 G) d] serves as q_TX and x_TX alike. scale is positive, softcap 0 means none. Heads h with
the same h // (H / G) share a key head. block_size and d are multiples of 16.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import typeof

from ramify.models.kernels.attention_plan import BLOCK, END, FIRST, HIGH, KEYS, KEYS_PER_ITEM, LOW, PLACE, SEEN, SPAN
from ramify.models.kernels.attention_tiles import GROUP, ROWS, VECTORS, cap, highest, scores, soften, weigh
from ramify.models.kernels.jit import address, compiled, link, native
from ramify.models.kernels.team import SPACING, claim, finish, fork, wait

NEVER = np.float32(-1e30)  # a score that weighs nothing, and yet is no infinity
LOG2E = np.float32(1.4426950408889634)
# A row of scores in the workspace has room for a last tile of keys that is not full.
PITCH = KEYS_PER_ITEM + GROUP * VECTORS


@compiled
def write(kv, layer, block_size, slots_T, x_TX, key, value):
    """Put the keys and values of new tokens into their slots."""
    head_dim = kv.shape[4] // block_size
    for token in range(len(slots_T)):
        block, offset = slots_T[token] // block_size, slots_T[token] % block_size
        for head in range(kv.shape[3]):
            keys, values = kv[block, layer, 0, head], kv[block, layer, 1, head]
            for at in range(head_dim):
                column = head * head_dim + at
                keys[(offset // GROUP * head_dim + at) * GROUP + offset % GROUP] = x_TX[token, key + column]
                values[offset * head_dim + at] = x_TX[token, value + column]


def attend(q_TX, kv, layer, plan, scale, softcap, out_TX):
    """The attention of one layer, for all tokens of a step."""
    args = (np.zeros(4 * SPACING, np.int64), q_TX, kv, layer, plan, np.float32(scale), np.float32(softcap), out_TX)
    _link(*(typeof(arg) for arg in args))
    _attend(*args)


@functools.cache
def _link(board, q_TX, kv, layer, plan, scale, softcap, out_TX):
    link(work, (layer, q_TX, kv, layer, plan, scale, softcap))
    link(merge, (plan, scale, softcap, layer, layer, out_TX))
    link(_member, (board, q_TX, kv, layer, plan, scale, softcap, out_TX))


@compiled
def _attend(board, q_TX, kv, layer, plan, scale, softcap, out_TX):
    fork(len(plan.cuts) - 1, _member, (board, q_TX, kv, layer, plan, scale, softcap, out_TX))


@compiled
def _member(board, q_TX, kv, layer, plan, scale, softcap, out_TX):
    """What every thread of `attend` runs."""
    parts, queries = len(plan.cuts) - 1, len(plan.tokens_T)
    part = claim(board, 0)
    while part < parts:
        native(work, (part, q_TX, kv, layer, plan, scale, softcap))
        finish(board, 0)
        part = claim(board, 0)
    wait(board, 0, parts)
    part = claim(board, 1)
    while part < parts:
        native(merge, (plan, scale, softcap, queries * part // parts, queries * (part + 1) // parts, out_TX))
        part = claim(board, 1)


@compiled
def work(part, q_TX, kv, layer, plan, scale, softcap):
    """One part of the plan: what its items add to the sums of their queries."""
    items, known = len(plan.items_I5), -1
    rows = np.empty(ROWS * PITCH, np.float32)
    keeps = np.empty(ROWS, np.float32)
    lines, spots = np.empty(ROWS, np.int64), np.empty(PITCH // GROUP, np.int64)
    for each in range(plan.cuts[part], plan.cuts[part + 1]):
        head = each // items
        if head != known:  # parts and heads both only grow, so their sum is a place of its own
            known = head
            plan.sums_PXd[part + head] = 0
            plan.tops_PX2[part + head, :, 0] = NEVER
            plan.tops_PX2[part + head, :, 1] = 0
        _item(plan.items_I5[each % items], head, part + head, q_TX, kv, layer, plan, scale, softcap,
              rows, keeps, lines, spots)


@compiled
def _item(item, head, place, q_TX, kv, layer, plan, scale, softcap, rows, keeps, lines, spots):
    """All tiles of an item: query heads in batches of ROWS, against all of its keys."""
    head_dim, size = plan.sums_PXd.shape[2], plan.block_size
    group = plan.sums_PXd.shape[1] // len(plan.tokens_T)
    keys = (item[KEYS] + GROUP - 1) // GROUP
    first_block = address(kv) + (kv.strides[1] * layer + kv.strides[3] * head)
    for at in range(keys):
        block = plan.tables_N[item[BLOCK] + at * GROUP // size]
        spots[at] = first_block + kv.strides[0] * block + 4 * head_dim * (at * GROUP % size)
    for at in range(keys, keys + VECTORS - 1):
        spots[at] = spots[0]  # scored with the rest of a tile, and never looked at
    sums, tops = plan.sums_PXd[place], plan.tops_PX2[place]
    for line in range(item[FIRST] * group, item[END] * group, ROWS):
        count = min(ROWS, item[END] * group - line)
        low, high, all_low, all_high = item[PLACE] + item[KEYS], 0, 0, item[PLACE] + item[KEYS]
        for at in range(count):
            query = (line + at) // group
            column = (head * group + (line + at) % group) * head_dim
            lines[at] = address(q_TX) + q_TX.strides[0] * plan.tokens_T[query] + 4 * column
            sight = plan.sight_T4[query]
            low, all_low = min(low, sight[LOW]), max(all_low, sight[LOW])
            high, all_high = max(high, sight[HIGH] + sight[SPAN]), min(all_high, sight[HIGH])
        # The groups of keys that any of these queries sees.
        begin = max(0, low - item[PLACE]) // GROUP
        end = min(keys, (high - item[PLACE] + GROUP - 1) // GROUP)
        if end <= begin:
            continue
        wide = (end - begin) * GROUP
        for at in range(begin, end, VECTORS):
            scores(count, address(lines), address(spots) + 8 * at, head_dim,
                   address(rows) + 4 * GROUP * (at - begin), 4 * PITCH)
        hidden = all_low > item[PLACE] + begin * GROUP or all_high < item[PLACE] + end * GROUP
        for at in range(count):
            row = rows[at * PITCH : at * PITCH + wide]
            start = address(row)
            factor = scale * LOG2E
            if softcap > 0:
                cap(start, wide, np.float32(scale / softcap), np.float32(softcap))
                factor = LOG2E
            if hidden:
                _hide(row, plan.sight_T4[(line + at) // group], item[PLACE] + begin * GROUP, plan.seen_S)
            before = tops[line + at, 0]
            top = highest(start, wide, before)
            keeps[at] = np.exp2(np.float32((before - top) * factor))
            total = soften(start, wide, np.float32(factor), top)
            tops[line + at, 0], tops[line + at, 1] = top, tops[line + at, 1] * keeps[at] + total
        weigh(count, address(rows), 4 * PITCH, address(keeps), address(spots) + 8 * begin, wide,
              kv.strides[2], 4 * head_dim, head_dim, address(sums[line]), 4 * head_dim)


@compiled
def _hide(row, sight, place, seen_S):
    """Scores of keys that a query does not see, from position `place` on, become NEVER."""
    count = len(row)
    low, high = min(count, sight[LOW] - place), max(0, min(count, sight[HIGH] - place))
    for at in range(low):
        row[at] = NEVER
    for at in range(high, count):
        other = place + at - sight[HIGH]
        if other >= sight[SPAN] or not seen_S[sight[SEEN] + other]:
            row[at] = NEVER


@compiled
def merge(plan, scale, softcap, first, end, out_TX):
    """Results of queries first..end-1: what all parts found, each relative to its own highest score."""
    items, head_dim = len(plan.items_I5), plan.sums_PXd.shape[2]
    group = plan.sums_PXd.shape[1] // len(plan.tokens_T)
    factor = LOG2E if softcap > 0 else scale * LOG2E
    begin, weights = 0, np.empty(len(plan.cuts), np.float32)
    for head in range(plan.sums_PXd.shape[0] - len(plan.cuts) + 2):
        while plan.cuts[begin + 1] <= head * items:
            begin += 1
        stop = begin + 1
        while stop < len(plan.cuts) - 1 and plan.cuts[stop] < (head + 1) * items:
            stop += 1
        for line in range(first * group, end * group):
            column = (head * group + line % group) * head_dim
            out = out_TX[plan.tokens_T[line // group], column : column + head_dim]
            top = NEVER
            for part in range(begin, stop):
                if plan.cuts[part] < plan.cuts[part + 1]:
                    top = max(top, plan.tops_PX2[part + head, line, 0])
            total = np.float32(0)
            for part in range(begin, stop):
                weights[part] = 0
                if plan.cuts[part] < plan.cuts[part + 1]:
                    found = plan.tops_PX2[part + head, line]
                    weights[part] = np.exp2(np.float32((found[0] - top) * factor))
                    total += weights[part] * found[1]
            out[:] = 0
            for part in range(begin, stop):
                if weights[part] > 0:  # a part without work has no sums either
                    weight, sums = weights[part] / total, plan.sums_PXd[part + head, line]
                    for at in range(head_dim):
                        out[at] += weight * sums[at]
