"""What is done to every row between two products, in Triton: norm, rotation and cache write, activation.

T tokens, D hidden, H query heads, G key heads, d head_dim, c rotated channels, I inner.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ramify.models.kernels.cuda.attention import lead, put
from ramify.models.kernels.cuda.plan import DevicePages


def add_norm(x_TD: Tensor, more_TD: Tensor | None, weight_D: Tensor, eps: float) -> Tensor:
    """x += more, in place; returns the root-mean-square norm of that, times the weight."""
    normed_TD = torch.empty_like(x_TD)
    _norm[len(x_TD),](x_TD, more_TD, weight_D, normed_TD, eps, ADD=more_TD is not None, WIDTH=x_TD.shape[1],
                      DEEP=triton.next_power_of_2(x_TD.shape[1]), num_warps=8)  # fmt: skip
    return normed_TD


def turn(qkv_TX: Tensor, turns: tuple[Tensor, Tensor] | None, norms: tuple[Tensor, Tensor] | None, eps: float,
         heads: int, layer: int, pages: DevicePages) -> Tensor:
    """q_THd, turned by the angles of its position; keys, turned too, and values go to the cache.

    turns: cosines and signed sines in float32, [T, 1, c] each. norms: weights for each query and key head before.
    """
    kv, kv_heads = pages.kv[:, layer], pages.kv.shape[3]
    tokens, width = len(qkv_TX), qkv_TX.shape[1] // (heads + 2 * kv_heads)
    q_THd = torch.empty(tokens, heads, width, dtype=qkv_TX.dtype, device=qkv_TX.device)
    cosines, sines = turns or (None, None)
    q_weight, k_weight = norms or (None, None)
    _turn[tokens, heads + 2 * kv_heads](
        qkv_TX, q_THd, kv, pages.step.slots_T, cosines, sines, q_weight, k_weight, eps, kv.stride(0), kv.stride(1),
        kv.stride(2), heads, kv_heads, NORM=norms is not None, TURNED=0 if cosines is None else cosines.shape[-1],
        BLOCK=pages.block_size, TOGETHER=pages.together, WIDTH=width, DEEP=triton.next_power_of_2(width),
        LEAD=lead(kv), num_warps=1, enable_fp_fusion=False)  # fmt: skip
    return q_THd


def gated(both_TX: Tensor) -> Tensor:
    """SiLU(gate) * up, for gate and up side by side: T rows of I numbers."""
    tokens, width = both_TX.shape[0], both_TX.shape[1] // 2
    out_TI = torch.empty(tokens, width, dtype=both_TX.dtype, device=both_TX.device)
    _gate[tokens, triton.cdiv(width, 1024)](both_TX, out_TI, WIDTH=width, DEEP=1024)
    return out_TI


@triton.jit
def _norm(x, more, weight, out, eps, ADD: tl.constexpr, WIDTH: tl.constexpr, DEEP: tl.constexpr) -> Any:
    number = tl.arange(0, DEEP)
    there, row = number < WIDTH, tl.program_id(0).to(tl.int64) * WIDTH + number
    numbers = tl.load(x + row, mask=there, other=0.0)
    if ADD:
        numbers = (numbers.to(tl.float32) + tl.load(more + row, mask=there, other=0.0).to(tl.float32)).to(
            x.dtype.element_ty)
        tl.store(x + row, numbers, mask=there)
    wide = numbers.to(tl.float32)
    normed = wide / tl.sqrt(tl.sum(wide * wide, 0) / WIDTH + eps)
    normed *= tl.load(weight + number, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row, normed.to(out.dtype.element_ty), mask=there)


@triton.jit
def _turn(qkv, q, kv, slots, cosines, sines, q_weight, k_weight, eps, block_pitch, side_pitch, head_pitch, heads,
          kv_heads, NORM: tl.constexpr, TURNED: tl.constexpr, BLOCK: tl.constexpr, TOGETHER: tl.constexpr,
          WIDTH: tl.constexpr, DEEP: tl.constexpr, LEAD: tl.constexpr) -> Any:  # fmt: skip
    """One token and one head of queries, keys or values, in this order."""
    token, head, number = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, DEEP)
    there, row = number < WIDTH, qkv + (token * (heads + 2 * kv_heads) + head) * WIDTH
    numbers = tl.load(row + number, mask=there, other=0.0).to(tl.float32)
    if head < heads + kv_heads:
        if NORM:
            inverse = 1 / tl.sqrt(tl.sum(numbers * numbers, 0) / WIDTH + eps)
            weight = k_weight if head >= heads else q_weight
            numbers *= inverse * tl.load(weight + number, mask=there, other=0.0).to(tl.float32)
        if TURNED > 0:
            # Channel i turns with channel i + TURNED / 2; the sines know the signs.
            turned = number < TURNED
            mate = (number + TURNED // 2) % TURNED
            others = tl.load(row + mate, mask=turned, other=0.0).to(tl.float32)
            if NORM:
                others *= inverse * tl.load(weight + mate, mask=turned, other=0.0).to(tl.float32)
            cosine = tl.load(cosines + token * TURNED + number, mask=turned, other=1.0)
            sine = tl.load(sines + token * TURNED + number, mask=turned, other=0.0)
            numbers = numbers * cosine + others * sine
    if head < heads:
        tl.store(q + (token * heads + head) * WIDTH + number, numbers.to(q.dtype.element_ty), mask=there)
    else:
        side = (head - heads) // kv_heads
        put(kv, numbers, number, tl.load(slots + token), head - heads - side * kv_heads, side, block_pitch, side_pitch,
            head_pitch, BLOCK, TOGETHER, WIDTH, LEAD)


@triton.jit
def _gate(both, out, WIDTH: tl.constexpr, DEEP: tl.constexpr) -> Any:
    row, number = tl.program_id(0).to(tl.int64), tl.program_id(1) * DEEP + tl.arange(0, DEEP)
    there = number < WIDTH
    gate = tl.load(both + row * 2 * WIDTH + number, mask=there, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * WIDTH + WIDTH + number, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + number, (gate / (1 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=there)
