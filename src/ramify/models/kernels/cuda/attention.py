"""Attention over a paged cache in Triton, by the plan of `attention_plan`: shared beginnings are read once.

Every item of the plan and every key head is a program of its own, which leaves what it found (a weighted mean and the
logarithm of the sum of weights) in a place of its own; a second kernel merges what belongs to one query, in float32.

A layer of the store, kv: [blocks, 2, G, block_size * d] of float32, float16 or bfloat16, with any strides between
heads. A block's values are [block_size, d] per head, its keys [block_size / together, d, together]; `together` 1 has
the keys one after another, too. Or of int8, [.., block_size * (d + 4)]: the same, where every `together` keys or values
begin with their float32 scales. Numbers are multiplied in the type of the queries, which holds every byte exactly, and
added up in float32. T tokens, H query heads, G key heads, d head dimension, P places, one per query head of an item.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ramify.models.kernels.cuda.plan import DevicePlan

KEYS = {torch.float32: 32, torch.float16: 64, torch.bfloat16: 64}  # that a program looks at together, or half of them
LINE = 256  # bytes of a query, above which it is half of them: registers and shared memory are full
# Products of float32 keep their operands in registers: fewer threads have none left.
WARPS = {torch.float32: 8, torch.float16: 4, torch.bfloat16: 4, torch.int8: 4}
SCALE = 4  # bytes of a scale
# Bytes are rounded as `cache.store.as_bytes` rounds them.
LARGEST, LEAST, STEP = tl.constexpr(127.0), tl.constexpr(1e-30), tl.constexpr(1 / 127)
HALVES = tl.constexpr(12582912.0)  # 1.5 * 2^23: float32 numbers around it are whole, so adding it rounds, to even
# Triton's interpreter has no products of bfloat16.
INNER = {torch.float32: tl.float32, torch.float16: tl.float16,
         torch.bfloat16: tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16}  # fmt: skip


def write(kv: Tensor, k_TGd: Tensor, v_TGd: Tensor, slots_T: Tensor, block_size: int, together: int) -> None:
    """Put the keys and values of new tokens into their slots of one layer, rounded to the store's type."""
    tokens, kv_heads, width = k_TGd.shape
    _write[tokens, kv_heads](
        kv, k_TGd, v_TGd, slots_T, kv.stride(0), kv.stride(1), kv.stride(2), k_TGd.stride(0), k_TGd.stride(1),
        v_TGd.stride(0), v_TGd.stride(1), BLOCK=block_size, TOGETHER=together, WIDTH=width,
        DEEP=triton.next_power_of_2(width), LEAD=lead(kv), enable_fp_fusion=False)  # fmt: skip


def lead(kv: Tensor) -> int:
    """Bytes of a store that come before the numbers of a key or value: its scale, if those are bytes themselves."""
    return SCALE if kv.dtype == torch.int8 else 0


def attend(q_THd: Tensor, kv: Tensor, plan: DevicePlan, tables_N: Tensor, scale: float, softcap: float,
           block_size: int, together: int) -> Tensor:
    """o_THd: the attention of one layer; softcap 0 means none. Heads of a query are one after another."""
    tokens, heads, width = q_THd.shape
    kv_heads = kv.shape[2]
    group = heads // kv_heads
    places = len(plan.uses_U) * group
    means_GPd = torch.empty(kv_heads, places, width, dtype=torch.float32, device=q_THd.device)
    logs_GP = torch.empty(kv_heads, places, dtype=torch.float32, device=q_THd.device)
    out_THd = torch.empty(q_THd.shape, dtype=q_THd.dtype, device=q_THd.device)
    deep = max(16, triton.next_power_of_2(width))
    _work[len(plan.items_I6), kv_heads](
        q_THd, kv, means_GPd, logs_GP, tables_N, plan.items_I6, plan.tokens_T, plan.sight_T4, plan.seen_S, scale,
        kv.stride(0), kv.stride(1), kv.stride(2), q_THd.stride(0), places, CAP=float(softcap), GROUP=group,
        BLOCK=block_size, TOGETHER=together, WIDTH=width, LEAD=lead(kv), LINES=plan.lines, DEEP=deep,
        WIDE=keys_together(q_THd.dtype, deep), TREES=len(plan.seen_S) > 0, INNER=INNER[q_THd.dtype], num_stages=2,
        num_warps=WARPS[q_THd.dtype])  # fmt: skip
    _merge[tokens, kv_heads](means_GPd, logs_GP, out_THd, plan.tokens_T, plan.uses_U, plan.begins_T, heads, places,
                             GROUP=group, LINES=triton.next_power_of_2(group), WIDTH=width, DEEP=deep,
                             num_warps=1)  # fmt: skip
    return out_THd


def keys_together(dtype: torch.dtype, deep: int) -> int:
    """How many keys of `deep` numbers a program looks at together."""
    return KEYS[dtype] // (2 if deep * dtype.itemsize > LINE else 1)


@triton.jit
def rounded(numbers) -> Any:
    """Numbers as whole ones from -127 to 127, in float32, and what one of these is worth."""
    largest = tl.max(tl.abs(numbers), 0)
    seen = largest > LEAST
    inverse = tl.where(seen, tl.div_rn(1.0, tl.where(seen, largest, 1.0)) * LARGEST, 0.0)
    return (numbers * inverse + HALVES) - HALVES, largest * STEP


@triton.jit
def put(kv, numbers, number, slot, head, side, block_pitch, side_pitch, head_pitch, BLOCK: tl.constexpr,
        TOGETHER: tl.constexpr, WIDTH: tl.constexpr, LEAD: tl.constexpr) -> Any:  # fmt: skip
    """Store what one head of a token has for a key (side 0) or a value (1), if it has a slot; zeros beyond WIDTH."""
    offset, there = slot % BLOCK, (number < WIDTH) & (slot >= 0)
    at, pitch = offset % TOGETHER, TOGETHER * (WIDTH + LEAD)
    group = kv + (slot // BLOCK).to(tl.int64) * block_pitch + side * side_pitch + head * head_pitch
    group += (offset // TOGETHER) * pitch
    if LEAD:
        numbers, scale = rounded(numbers.to(tl.float32))
        tl.store(group.to(tl.pointer_type(tl.float32)) + at, scale, mask=slot >= 0)
    line = tl.where(side == 0, at + TOGETHER * number, at * WIDTH + number)
    tl.store(group + LEAD * TOGETHER + line, numbers.to(kv.dtype.element_ty), mask=there)


@triton.jit
def _write(kv, k, v, slots, block_pitch, side_pitch, head_pitch, k_pitch, k_head, v_pitch, v_head,
           BLOCK: tl.constexpr, TOGETHER: tl.constexpr, WIDTH: tl.constexpr, DEEP: tl.constexpr,
           LEAD: tl.constexpr) -> Any:  # fmt: skip
    """One token and one key head."""
    token, head, number = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, DEEP)
    slot = tl.load(slots + token)
    key = tl.load(k + token * k_pitch + head * k_head + number, mask=number < WIDTH, other=0.0)
    value = tl.load(v + token * v_pitch + head * v_head + number, mask=number < WIDTH, other=0.0)
    put(kv, key, number, slot, head, 0, block_pitch, side_pitch, head_pitch, BLOCK, TOGETHER, WIDTH, LEAD)
    put(kv, value, number, slot, head, 1, block_pitch, side_pitch, head_pitch, BLOCK, TOGETHER, WIDTH, LEAD)


@triton.jit
def _work(q, kv, means, logs, tables, items, tokens, sight, seen, scale, block_pitch, side_pitch, head_pitch, q_pitch,
          places, CAP: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, TOGETHER: tl.constexpr,
          WIDTH: tl.constexpr, LEAD: tl.constexpr, LINES: tl.constexpr, DEEP: tl.constexpr, WIDE: tl.constexpr,
          TREES: tl.constexpr, INNER: tl.constexpr) -> Any:  # fmt: skip
    """One item and one key head."""
    item, head = items + 6 * tl.program_id(0), tl.program_id(1)
    first, end, table, count, place, use = (tl.load(item), tl.load(item + 1), tl.load(item + 2), tl.load(item + 3),
                                            tl.load(item + 4), tl.load(item + 5))
    line, number = tl.arange(0, LINES), tl.arange(0, DEEP)
    query, deep = first + line // GROUP, number < WIDTH
    real = query < end
    row = q + tl.load(tokens + query, mask=real, other=0).to(tl.int64) * q_pitch + (head * GROUP + line % GROUP) * WIDTH
    queries = tl.load(row[:, None] + number[None, :], mask=real[:, None] & deep[None, :], other=0.0).to(INNER)
    low, high = (tl.load(sight + 4 * query, mask=real, other=0), tl.load(sight + 4 * query + 1, mask=real, other=0))
    top = tl.full((LINES,), -1e30, tl.float32)
    total = tl.zeros((LINES,), tl.float32)
    sums = tl.zeros((LINES, DEEP), tl.float32)
    for begin in range(0, count, WIDE):
        key = begin + tl.arange(0, WIDE)
        inside = key < count
        block = tl.load(tables + table + key // BLOCK, mask=inside, other=0).to(tl.int64)
        offset = key % BLOCK
        group = kv + block * block_pitch + head * head_pitch + (offset // TOGETHER) * (TOGETHER * (WIDTH + LEAD))
        where_key = group + LEAD * TOGETHER + offset % TOGETHER
        keys = tl.load(where_key[None, :] + TOGETHER * number[:, None], mask=inside[None, :] & deep[:, None], other=0)
        scores = tl.dot(queries, keys.to(INNER), input_precision="ieee") * scale
        if LEAD:
            where_scale = group.to(tl.pointer_type(tl.float32)) + offset % TOGETHER
            scores *= tl.load(where_scale, mask=inside, other=0.0)[None, :]
        if CAP > 0:
            scores = CAP * (1 - 2 / (tl.exp(2 * scores / CAP) + 1))
        at = place + key
        beyond = at[None, :] - high[:, None]
        sees = (at[None, :] >= low[:, None]) & (beyond < 0)
        if TREES:
            bits, span = (tl.load(sight + 4 * query + 2, mask=real, other=0),
                          tl.load(sight + 4 * query + 3, mask=real, other=0))
            branch = (beyond >= 0) & (beyond < span[:, None])
            sees = sees | (tl.load(seen + bits[:, None] + beyond, mask=branch, other=0) != 0)
        sees = sees & inside[None, :]
        scores = tl.where(sees, scores, -1e30)
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.where(sees, tl.exp(scores - higher[:, None]), 0.0)
        keep = tl.exp(top - higher)
        group += side_pitch
        where_value = group + LEAD * TOGETHER + offset % TOGETHER * WIDTH
        values = tl.load(where_value[:, None] + number[None, :], mask=inside[:, None] & deep[None, :], other=0)
        if LEAD:
            where_scale = group.to(tl.pointer_type(tl.float32)) + offset % TOGETHER
            values = values.to(tl.float32) * tl.load(where_scale, mask=inside, other=0.0)[:, None]
        sums = sums * keep[:, None] + tl.dot(weights.to(INNER), values.to(INNER), input_precision="ieee")
        total = total * keep + tl.sum(weights, 1)
        top = higher
    spot = (head * places + use * GROUP + line).to(tl.int64)
    # Nothing seen: a mean of zeros with a weight of zero.
    tl.store(logs + spot, tl.where(total > 0, top + tl.log(tl.maximum(total, 1e-30)), -1e30), mask=real)
    tl.store(means + spot[:, None] * WIDTH + number[None, :], sums / tl.maximum(total, 1e-30)[:, None],
             mask=real[:, None] & deep[None, :])


@triton.jit
def _merge(means, logs, out, tokens, uses, begins, heads, places, GROUP: tl.constexpr, LINES: tl.constexpr,
           WIDTH: tl.constexpr, DEEP: tl.constexpr) -> Any:  # fmt: skip
    """One query and the query heads of one key head: the means of all items it took part in, by their weights."""
    query, head, line, number = tl.program_id(0), tl.program_id(1), tl.arange(0, LINES), tl.arange(0, DEEP)
    real, deep = line < GROUP, (line < GROUP)[:, None] & (number < WIDTH)[None, :]
    top, total = tl.full((LINES,), -1e30, tl.float32), tl.zeros((LINES,), tl.float32)
    result = tl.zeros((LINES, DEEP), tl.float32)
    for use in range(tl.load(begins + query), tl.load(begins + query + 1)):
        spot = (head * places + tl.load(uses + use) * GROUP + line).to(tl.int64)
        log = tl.load(logs + spot, mask=real, other=-1e30)
        higher = tl.maximum(top, log)
        keep, weight = tl.exp(top - higher), tl.exp(log - higher)
        mean = tl.load(means + spot[:, None] * WIDTH + number[None, :], mask=deep, other=0.0)
        result = result * keep[:, None] + weight[:, None] * mean
        total, top = total * keep + weight, higher
    row = (tl.load(tokens + query).to(tl.int64) * heads + head * GROUP + line) * WIDTH
    # A query that was added to fill up took part in nothing.
    found = result / tl.maximum(total, 1e-30)[:, None]
    tl.store(out + row[:, None] + number[None, :], found.to(out.dtype.element_ty), mask=deep)
