"""Attention over a paged cache: rows of every kind, at their own lengths, with shared beginnings read once.

    write(kv, layer, block_size, slots_T, x_TX, key, value)
    attend(q_TX, kv, layer, plan, scale, softcap, out_TX)

are for one layer and may be called from compiled code; `attention_plan.plan` is made once per step.

kv, the store: float32 [blocks, layers, 2, G, block_size * d]. Of a block's keys the numbers come first, [d,
block_size], so that a vector register holds one number of 16 keys; its values are [block_size, d]. A slot is
block * block_size + offset. x_TX, q_TX, out_TX: float32, contiguous, one line per token and as wide as it happens to
be: queries and results are the first H * d numbers of their lines, keys and values the G * d numbers from columns
`key` and `value` on, so one fused projection [T, (H + 2 G) d] serves as q_TX and x_TX alike. softcap 0 means none.
Heads h with the same h // (H / G) share a key head. block_size and d are multiples of 16.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from ramify.models.kernels.attention_plan import BLOCK, END, FIRST, HIGH, KEYS, LOW, PLACE, SEEN, SPAN
from ramify.models.kernels.jit import compiled

NEVER = np.float32(-1e30)  # a score that weighs nothing, and yet is no infinity


@compiled
def write(kv, layer, block_size, slots_T, x_TX, key, value):  # type: ignore[no-untyped-def]
    """Put the keys and values of new tokens into their slots."""
    head_dim = kv.shape[4] // block_size
    for token in range(len(slots_T)):
        block, offset = slots_T[token] // block_size, slots_T[token] % block_size
        for head in range(kv.shape[3]):
            keys, values = kv[block, layer, 0, head], kv[block, layer, 1, head]
            for at in range(head_dim):
                keys[at * block_size + offset] = x_TX[token, key + head * head_dim + at]
                values[offset * head_dim + at] = x_TX[token, value + head * head_dim + at]


@compiled(parallel=True)
def attend(q_TX, kv, layer, plan, scale, softcap, out_TX):  # type: ignore[no-untyped-def]
    """The attention of one layer, for all tokens of a step."""
    parts = len(plan.cuts) - 1
    if parts == 1:
        _work(0, q_TX, kv, layer, plan, scale, softcap)
    else:
        for part in prange(parts):
            _work(part, q_TX, kv, layer, plan, scale, softcap)
    _merge(plan, kv.shape[3], out_TX)


@compiled
def _work(part, q_TX, kv, layer, plan, scale, softcap):  # type: ignore[no-untyped-def]
    """One thread's part: what its items add to the sums of their queries."""
    items, known = len(plan.items_I5), -1
    for work in range(plan.cuts[part], plan.cuts[part + 1]):
        head = work // items
        if head != known:  # parts and heads both only grow, so their sum is a place of its own
            known = head
            plan.sums_PXd[part + head] = 0
            plan.tops_PX2[part + head, :, 0] = NEVER
            plan.tops_PX2[part + head, :, 1] = 0
        _item(plan.items_I5[work % items], head, part + head, q_TX, kv, layer, plan, scale, softcap)


@compiled
def _item(item, head, place, q_TX, kv, layer, plan, scale, softcap):  # type: ignore[no-untyped-def]
    head_dim, size = plan.sums_PXd.shape[2], plan.block_size
    group = plan.sums_PXd.shape[1] // len(plan.tokens_T)
    for line in range(item[FIRST] * group, item[END] * group):
        sight = plan.sight_T4[line // group]
        q = q_TX[plan.tokens_T[line // group], (head * group + line % group) * head_dim:]
        sums, tops = plan.sums_PXd[place, line], plan.tops_PX2[place, line]
        for key in range(item[KEYS]):
            at = item[PLACE] + key
            sees = at >= sight[LOW] and at < sight[HIGH]
            if not sees and at >= sight[HIGH] and at < sight[HIGH] + sight[SPAN]:
                sees = plan.seen_S[sight[SEEN] + at - sight[HIGH]] != 0
            if sees:
                block = kv[plan.tables_N[item[BLOCK] + key // size], layer]
                score = np.float32(0)
                for c in range(head_dim):
                    score += q[c] * block[0, head, c * size + key % size]
                score *= scale
                if softcap > 0:
                    score = np.tanh(score / softcap) * softcap
                top = max(tops[0], score)
                keep, weight = np.exp(tops[0] - top), np.exp(score - top)
                tops[0], tops[1] = top, tops[1] * keep + weight
                for c in range(head_dim):
                    sums[c] = sums[c] * keep + weight * block[1, head, key % size * head_dim + c]


@compiled
def _merge(plan, kv_heads, out_TX):  # type: ignore[no-untyped-def]
    """Results from the sums of all parts: weights are relative to the highest score of each."""
    items, head_dim, lines = len(plan.items_I5), plan.sums_PXd.shape[2], plan.sums_PXd.shape[1]
    group = lines // len(plan.tokens_T)
    begin = 0
    for head in range(kv_heads):
        while plan.cuts[begin + 1] <= head * items:
            begin += 1
        end = begin + 1
        while end < len(plan.cuts) - 1 and plan.cuts[end] < (head + 1) * items:
            end += 1
        for line in range(lines):
            first = (head * group + line % group) * head_dim
            out = out_TX[plan.tokens_T[line // group], first : first + head_dim]
            top, total = NEVER, np.float32(0)
            for part in range(begin, end):
                if plan.cuts[part] < plan.cuts[part + 1]:
                    top = max(top, plan.tops_PX2[part + head, line, 0])
            for part in range(begin, end):
                if plan.cuts[part] < plan.cuts[part + 1]:
                    total += plan.tops_PX2[part + head, line, 1] * np.exp(plan.tops_PX2[part + head, line, 0] - top)
            out[:] = 0
            for part in range(begin, end):
                if plan.cuts[part] == plan.cuts[part + 1]:
                    continue
                weight = np.exp(plan.tops_PX2[part + head, line, 0] - top) / total
                for c in range(head_dim):
                    out[c] += weight * plan.sums_PXd[part + head, line, c]
