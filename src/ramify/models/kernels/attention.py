"""Attention over a paged cache: rows of every kind, at their own lengths, with shared beginnings read once.

    write(kv, layer, block_size, slots_T, x_TX, key, value)
    attend(q_TX, kv, layer, plan, scale, softcap, out_TX)

are for one layer; `attention_plan.plan` is made once per step. `attend` is `work` for every part of the plan, in any
order or at once, and then, if the plan is `torn`, `merge` for every query. These and `write` may be called from
compiled code.

kv, the store: float32, or bfloat16 held as uint16, [blocks, layers, 2, G, block_size * d]. A block's values are
[block_size, d] per head, its keys [block_size / 16, d, 16], so that a vector register holds one number of 16 keys. Or
int8, [.., block_size * (d + 4)]: the same, where every 16 keys or values begin with their 16 float32 scales. A slot is
block * block_size + offset. x_TX, q_TX, out_TX: float32, contiguous, one line per token and as wide as it
happens to be: queries and results are the first H * d numbers of their lines, keys and values the G * d numbers from
columns `key` and `value` on, so one fused projection [T, (H + 2 G) d] serves as q_TX and x_TX alike. scale is positive,
softcap 0 means none. Heads h with the same h // (H / G) share a key head. block_size and d are multiples of 16.
"""

from __future__ import annotations

import numpy as np
from numba import typeof

from ramify.models.kernels.attention_plan import BLOCK, END, FIRST, HEADS_PER_ITEM, HIGH, KEYS, LOW, PLACE, SEEN, SPAN
from ramify.models.kernels.attention_tiles import (
    GROUP,
    PITCH,
    ROWS,
    VECTORS,
    cap,
    held,
    highest,
    power,
    scores,
    soften,
    weigh,
)
from ramify.models.kernels.jit import address, compiled, link, native
from ramify.models.kernels.patience import patience
from ramify.models.kernels.rowwise import LARGEST, floats
from ramify.models.kernels.team import SPACING, claim, finish, fork, wait

NEVER = np.float32(-1e30)  # a score that weighs nothing, and yet is no infinity
SCALE = 4  # bytes of a scale
STEP, LEAST = np.float32(1 / 127), np.float32(1e-30)  # of bytes: one step where the largest is one; what becomes zero
LOG2E = np.float32(1.4426950408889634)
_linked: set[np.dtype] = set()  # kinds of stores that `attend` is ready for


@compiled
def write(kv, layer, block_size, slots_T, x_TX, key, value):
    """Put the keys and values of new tokens into their slots."""
    width = kv.shape[4] // block_size
    lead = GROUP * SCALE if kv.itemsize == 1 else 0  # scales of a group
    head_dim = width - lead // GROUP
    for token in range(len(slots_T)):
        block, offset = slots_T[token] // block_size, slots_T[token] % block_size
        begin, place = offset // GROUP * GROUP * width, offset % GROUP
        for head in range(kv.shape[3]):
            for side in range(2):
                piece = kv[block, layer, side, head, begin : begin + GROUP * width]
                first = (value if side else key) + head * head_dim
                x = x_TX[token, first : first + head_dim]
                factor = _note(x, address(piece) + SCALE * place) if lead else np.float32(1)
                first, step = (lead + place * head_dim, 1) if side else (lead + place, GROUP)
                for at in range(head_dim):
                    piece[first + at * step] = held(kv, x[at] * factor)


@compiled
def _note(x, place):
    """Write down the scale of a head's numbers as bytes. Returns what they are to be multiplied with before."""
    largest = np.float32(0)
    for at in range(len(x)):
        largest = max(largest, abs(x[at]))
    floats(place, 1)[0] = largest * STEP
    return LARGEST / largest if largest > LEAST else np.float32(0)


def attend(q_TX, kv, layer, plan, scale, softcap, out_TX):
    """The attention of one layer, for all tokens of a step."""
    args = (np.zeros(4 * SPACING, np.int64), q_TX, kv, layer, plan, np.float32(scale), np.float32(softcap), out_TX)
    if kv.dtype not in _linked:  # the other types never change
        with patience():
            _link(*(typeof(arg) for arg in args))
        _linked.add(kv.dtype)
    _attend(*args)


def _link(board, q_TX, kv, layer, plan, scale, softcap, out_TX):
    link(work, (layer, q_TX, kv, layer, plan, scale, softcap, out_TX))
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
        native(work, (part, q_TX, kv, layer, plan, scale, softcap, out_TX))
        finish(board, 0)
        part = claim(board, 0)
    wait(board, 0, parts)
    part = claim(board, 1)
    while torn(plan) and part < parts:
        native(merge, (plan, scale, softcap, queries * part // parts, queries * (part + 1) // parts, out_TX))
        part = claim(board, 1)


@compiled
def work(part, q_TX, kv, layer, plan, scale, softcap, out_TX):
    """One part of the plan: what its items add to the sums of their queries, and the results of whole key heads."""
    items_I5, tokens_T, tables_N, sight_T4, seen_S = (plan.items_I5, plan.tokens_T, plan.tables_N, plan.sight_T4,
                                                      plan.seen_S)
    sums_PXd, tops_PX2, size = plan.sums_PXd, plan.tops_PX2, plan.block_size
    items, head_dim = len(items_I5), sums_PXd.shape[2]
    group = sums_PXd.shape[1] // len(tokens_T)
    rows, keeps = np.empty((ROWS, PITCH // 4), np.float32), np.empty(ROWS, np.float32)
    lines, spots = np.empty(max(HEADS_PER_ITEM, group), np.int64), np.empty(rows.shape[1] // GROUP + VECTORS, np.int64)
    begin, end = plan.cuts[part], plan.cuts[part + 1]
    for each in range(begin, end):
        head, item = each // items, each % items
        place = part + head  # parts and heads both only grow, so their sum is a place of its own
        if item == 0 or each == begin:
            sums_PXd[place] = 0
            tops_PX2[place, :, 0] = NEVER
            tops_PX2[place, :, 1] = 0
        line = 0
        for query in range(items_I5[item, FIRST], items_I5[item, END]):
            first = address(q_TX) + q_TX.strides[0] * tokens_T[query] + 4 * head_dim * group * head
            for at in range(group):
                lines[line + at] = first + 4 * head_dim * at
            line += group
        start, pitch = address(kv) + kv.strides[1] * layer, kv.strides[3] // size
        at = _point(spots, 0, items_I5[item, KEYS], items_I5[item, BLOCK], start + kv.strides[3] * head, kv.strides[0],
                    tables_N, size, pitch)
        while at % VECTORS:  # where the last tile of keys is not full, something has to stand in
            spots[at] = spots[at - 1]
            at += 1
        # What comes next is asked for in advance.
        later = (each + 1) % items
        _point(spots, at, min(GROUP * VECTORS, items_I5[later, KEYS]), items_I5[later, BLOCK],
               start + kv.strides[3] * ((each + 1) // items % kv.shape[3]), kv.strides[0], tables_N, size, pitch)
        _item(kv, items_I5[item, FIRST] * group, items_I5[item, END] * group, items_I5[item, PLACE],
              items_I5[item, KEYS], group, head_dim, address(lines), address(spots), sight_T4, seen_S,
              address(sums_PXd) + sums_PXd.strides[0] * place, tops_PX2, place, scale, softcap, rows, keeps)
        if item == items - 1 and begin <= head * items:
            for line in range(len(tokens_T) * group):
                column = head * group + line % group
                out = _line(out_TX, tokens_T[line // group], column, head_dim)
                _add(out, np.float32(1) / tops_PX2[place, line, 1], sums_PXd[place, line], False)


@compiled
def _line(out_TX, token, head, head_dim):
    """Where the result of a query head goes."""
    return floats(address(out_TX) + out_TX.strides[0] * token + 4 * head_dim * head, head_dim)


@compiled
def _add(out, weight, numbers, more):
    """out = weight * numbers, or out += that if `more`."""
    for at in range(len(out)):
        out[at] = weight * numbers[at] + (out[at] if more else np.float32(0))


@compiled
def _point(spots, at, keys, block, start, block_pitch, tables_N, size, pitch):
    """Write where every GROUP of so many keys lie into spots[at:]. Returns where they end."""
    for key in range(0, keys, GROUP):
        spots[at] = start + block_pitch * tables_N[block + key // size] + pitch * (key % size)
        at += 1
    return at


@compiled
def _item(kv, begin_line, end_line, place, keys, group, head_dim, lines, spots, sight_T4, seen_S, sums, tops_PX2,
          pair, scale, softcap, rows, keeps):
    """All tiles of an item: ROWS query heads at a time, against those of its keys that any of them sees."""
    factor, last = LOG2E if softcap > 0 else scale * LOG2E, place + keys
    for line in range(begin_line, end_line, ROWS):
        count = min(ROWS, end_line - line)
        # The keys that some of these queries see, and those that all see.
        low, high, all_low, all_high = last, place, place, last
        for query in range(line // group, (line + count - 1) // group + 1):
            low, all_low = min(low, sight_T4[query, LOW]), max(all_low, sight_T4[query, LOW])
            high = max(high, sight_T4[query, HIGH] + sight_T4[query, SPAN])
            all_high = min(all_high, sight_T4[query, HIGH])
        begin = max(0, low - place) // GROUP
        end = (min(last, high) - place + GROUP - 1) // GROUP
        if end <= begin:
            continue
        wide, deep = (end - begin) * GROUP, (min(last, high) - place - begin * GROUP + 3) // 4 * 4
        for at in range(begin, end, VECTORS):
            scores(kv, count, lines + 8 * (line - begin_line), spots + 8 * at, kv.strides[2], head_dim,
                   address(rows) + 4 * GROUP * (at - begin))
        hidden = all_low > place + begin * GROUP or all_high < place + end * GROUP
        for at in range(count):
            row, before = address(rows) + PITCH * at, tops_PX2[pair, line + at, 0]
            if softcap > 0:
                cap(row, wide, scale / softcap, softcap)
            if hidden:
                _hide(rows, at, wide, place + begin * GROUP, sight_T4, (line + at) // group, seen_S)
            top = highest(row, wide, before)
            keeps[at] = power((before - top) * factor)
            tops_PX2[pair, line + at, 0] = top
            tops_PX2[pair, line + at, 1] = tops_PX2[pair, line + at, 1] * keeps[at] + soften(
                kv, row, wide, factor, top, spots + 8 * begin, kv.strides[2])
        weigh(kv, count, address(rows), address(keeps), spots + 8 * begin, deep, kv.strides[2], head_dim,
              sums + 4 * head_dim * line)


@compiled
def _hide(rows, row, count, place, sight_T4, query, seen_S):
    """Scores of keys that a query does not see, from position `place` on, become NEVER."""
    low = min(count, sight_T4[query, LOW] - place)
    high = sight_T4[query, HIGH]
    for at in range(low):
        rows[row, at] = NEVER
    for at in range(max(0, high - place), count):
        other = place + at - high
        if other >= sight_T4[query, SPAN] or not seen_S[sight_T4[query, SEEN] + other]:
            rows[row, at] = NEVER


@compiled
def torn(plan):
    """Whether several parts work on one key head, so that there is something to merge."""
    rest = 0
    for cut in plan.cuts[1:-1]:
        rest += cut % len(plan.items_I5)
    return rest > 0


@compiled
def merge(plan, scale, softcap, first, end, out_TX):
    """Results of queries first..end-1, in key heads of several parts: what all of them found, each relative to its own
    highest score."""
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
        if stop == begin + 1:
            continue
        for line in range(first * group, end * group):
            top, total, more = NEVER, np.float32(0), False
            for part in range(begin, stop):
                if plan.cuts[part] < plan.cuts[part + 1]:
                    top = max(top, plan.tops_PX2[part + head, line, 0])
            for part in range(begin, stop):
                weights[part] = 0
                if plan.cuts[part] < plan.cuts[part + 1]:
                    found = plan.tops_PX2[part + head, line]
                    weights[part] = power((found[0] - top) * factor)
                    total += weights[part] * found[1]
            out = _line(out_TX, plan.tokens_T[line // group], head * group + line % group, head_dim)
            for part in range(begin, stop):
                if weights[part] > 0:
                    _add(out, weights[part] / total, plan.sums_PXd[part + head, line], more)
                    more = True
