"""The attention of `attention`, by the same plan, as Triton kernels: for CUDA, and for Triton's interpreter.

Every item of the plan and every key head is a program of its own, which leaves what it found (a weighted mean and the
logarithm of the sum of weights) in a place of its own; a second kernel merges what belongs to one query. Shapes as in
`attention_plan`; P places, one per query head of an item; U uses of queries by items.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from ramify.models.kernels.attention_plan import END, FIRST, Plan

KEYS = 32  # that a program looks at together


class DevicePlan(NamedTuple):
    """A plan where the kernels run.

    items_I6: the plan's items, and the first place of each. uses_U, begins_T: for every query the places of its first
    head, those of query t from begins_T[t] to begins_T[t + 1]. lines: the most query heads of an item. The rest is the
    plan's.
    """

    tables_N: Tensor
    items_I6: Tensor
    tokens_T: Tensor
    sight_T4: Tensor
    seen_S: Tensor
    uses_U: Tensor
    begins_T: Tensor
    block_size: int
    group: int
    places: int
    lines: int


def device_plan(plan: Plan, device: str) -> DevicePlan:
    """Bring a step's plan to a device. Costs a few copies of a few kilobytes."""
    group = plan.sums_PXd.shape[1] // len(plan.tokens_T)
    counts_I = plan.items_I5[:, END] - plan.items_I5[:, FIRST]
    begins_I = np.cumsum(counts_I) - counts_I
    items_I6 = np.concatenate([plan.items_I5, begins_I[:, None] * group], 1)
    # Every item uses its queries in order; sorted by query, in a stable order, uses of one query are neighbours.
    at_U = np.arange(counts_I.sum()) - np.repeat(begins_I, counts_I)
    queries_U = np.repeat(plan.items_I5[:, FIRST], counts_I) + at_U
    order_U = np.argsort(queries_U, kind="stable")
    begins_T = np.searchsorted(queries_U[order_U], np.arange(len(plan.tokens_T) + 1))
    tables, items, tokens, sight, seen, uses, begins = (
        torch.from_numpy(array).to(device)
        for array in (plan.tables_N, items_I6, plan.tokens_T, plan.sight_T4, np.append(plan.seen_S, np.uint8(0)),
                      order_U * group, begins_T))
    return DevicePlan(tables, items, tokens, sight, seen, uses, begins, plan.block_size, group,
                      int(counts_I.sum()) * group, int(counts_I.max()) * group)


def attend(q_THd: Tensor, kv: Tensor, layer: int, plan: DevicePlan, scale: float, softcap: float) -> Tensor:
    """o_THd: the attention of one layer over the store `kv`; softcap 0 means none."""
    tokens, heads, width = q_THd.shape
    kv_heads, q_THd = kv.shape[3], q_THd.contiguous()
    means_GPd = torch.empty(kv_heads, plan.places, width, device=q_THd.device)
    logs_GP = torch.empty(kv_heads, plan.places, device=q_THd.device)
    lines, deep = (max(16, triton.next_power_of_2(size)) for size in (plan.lines, width))
    _work[len(plan.items_I6), kv_heads](
        q_THd, kv, means_GPd, logs_GP, plan.tables_N, plan.items_I6, plan.tokens_T, plan.sight_T4, plan.seen_S,
        scale, softcap, layer, kv.stride(0), kv.stride(1), kv.stride(2), kv.stride(3), heads, width, plan.places,
        GROUP=plan.group, BLOCK=plan.block_size, LINES=lines, DEEP=deep, WIDE=KEYS)  # fmt: skip
    out_THd = torch.empty_like(q_THd)
    _merge[tokens, heads](means_GPd, logs_GP, out_THd, plan.tokens_T, plan.uses_U, plan.begins_T, heads, width,
                          plan.places, GROUP=plan.group, DEEP=deep)
    return out_THd


@triton.jit
def _work(q, kv, means, logs, tables, items, tokens, sight, seen, scale, softcap, layer, block_pitch, layer_pitch,
          side_pitch, head_pitch, heads, width, places, GROUP: tl.constexpr, BLOCK: tl.constexpr,
          LINES: tl.constexpr, DEEP: tl.constexpr, WIDE: tl.constexpr) -> Any:  # fmt: skip
    """One item and one key head."""
    item, head = items + 6 * tl.program_id(0), tl.program_id(1)
    first, end, table, count, place, start = (tl.load(item), tl.load(item + 1), tl.load(item + 2), tl.load(item + 3),
                                              tl.load(item + 4), tl.load(item + 5))
    line = tl.arange(0, LINES)
    query = first + line // GROUP
    real = query < end
    number = tl.arange(0, DEEP)
    token = tl.load(tokens + query, mask=real, other=0)
    row = (token * heads + head * GROUP + line % GROUP) * width
    queries = tl.load(q + row[:, None] + number[None, :], mask=real[:, None] & (number < width)[None, :], other=0.0)
    low, high = (tl.load(sight + 4 * query, mask=real, other=0), tl.load(sight + 4 * query + 1, mask=real, other=0))
    bits, span = (tl.load(sight + 4 * query + 2, mask=real, other=0),
                  tl.load(sight + 4 * query + 3, mask=real, other=0))
    top = tl.full((LINES,), -1e30, tl.float32)
    total = tl.zeros((LINES,), tl.float32)
    sums = tl.zeros((LINES, DEEP), tl.float32)
    for begin in range(0, count, WIDE):
        key = begin + tl.arange(0, WIDE)
        inside = key < count
        block = tl.load(tables + table + key // BLOCK, mask=inside, other=0)
        offset = key % BLOCK
        base = kv + block * block_pitch + layer * layer_pitch + head * head_pitch
        # Keys lie number by number in groups of 16, values one after another.
        where_key = base + (offset // 16) * 16 * width + offset % 16
        keys = tl.load(where_key[None, :] + 16 * number[:, None], mask=inside[None, :] & (number < width)[:, None],
                       other=0.0)
        scores = tl.dot(queries, keys, input_precision="ieee") * scale
        if softcap > 0:
            scores = softcap * (1 - 2 / (tl.exp(2 * scores / softcap) + 1))
        at = place + key
        beyond = at[None, :] - high[:, None]
        branch = (beyond >= 0) & (beyond < span[:, None])
        marked = tl.load(seen + bits[:, None] + beyond, mask=branch, other=0) != 0
        sees = ((at[None, :] >= low[:, None]) & (beyond < 0)) | marked
        sees = sees & inside[None, :]
        scores = tl.where(sees, scores, -1e30)
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.where(sees, tl.exp(scores - higher[:, None]), 0.0)
        keep = tl.exp(top - higher)
        where_value = base + side_pitch + offset * width
        values = tl.load(where_value[:, None] + number[None, :], mask=inside[:, None] & (number < width)[None, :],
                         other=0.0)
        sums = sums * keep[:, None] + tl.dot(weights, values, input_precision="ieee")
        total = total * keep + tl.sum(weights, 1)
        top = higher
    spot = head * places + start + line
    # Nothing seen: a mean of zeros with a weight of zero.
    tl.store(logs + spot, tl.where(total > 0, top + tl.log(tl.maximum(total, 1e-30)), -1e30), mask=real)
    tl.store(means + spot[:, None] * width + number[None, :], sums / tl.maximum(total, 1e-30)[:, None],
             mask=real[:, None] & (number < width)[None, :])


@triton.jit
def _merge(means, logs, out, tokens, uses, begins, heads, width, places, GROUP: tl.constexpr,
           DEEP: tl.constexpr) -> Any:
    """One query and one query head: the means of all items it took part in, by their weights."""
    query, head = tl.program_id(0), tl.program_id(1)
    number = tl.arange(0, DEEP)
    top, total, result = -1e30, 0.0, tl.zeros((DEEP,), tl.float32)
    for use in range(tl.load(begins + query), tl.load(begins + query + 1)):
        spot = (head // GROUP) * places + tl.load(uses + use) + head % GROUP
        log = tl.load(logs + spot)
        higher = tl.maximum(top, log)
        keep, weight = tl.exp(top - higher), tl.exp(log - higher)
        result = result * keep + weight * tl.load(means + spot * width + number, mask=number < width, other=0.0)
        total, top = total * keep + weight, higher
    row = (tl.load(tokens + query) * heads + head) * width
    tl.store(out + row + number, result / total, mask=number < width)
