"""Products with weights of one byte in Triton: y = x W^T + b.

Weights are rounded as `models.linear.quantise` says, to one scale per output. `ByteWeights` makes them floats again
before they multiply; `Bytes` rounds the inputs too, row by row as they come, and multiplies bytes. T rows, I inputs,
O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ramify.models.kernels.cuda.attention import INNER, WARPS, rounded
from ramify.models.linear import Rows, quantise

FEW = 64  # rows up to which reading the weights is what takes time


class ByteWeights:
    """Products of floats with int8 weights."""

    def __init__(self, weight: Rows, bias: Tensor | None, stacked: int) -> None:
        codes_OI, scales_O1 = quantise(weight[:].float())
        self.codes_OI, self.scales_O, self.bias, self.dtype = codes_OI, scales_O1[:, 0].contiguous(), bias, weight.dtype

    def __call__(self, x: Tensor) -> Tensor:
        with torch.cuda.device_of(x):  # where Triton launches
            return self._product(*self._inputs(x.reshape(-1, x.shape[-1])), x.dtype).view(*x.shape[:-1], -1)

    def rows(self, ids: Tensor) -> Tensor:
        """Weights of some outputs."""
        return (self.codes_OI[ids] * self.scales_O[ids][..., None]).to(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight."""
        return self.codes_OI.nbytes + self.scales_O.nbytes

    def _inputs(self, x_TI: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is multiplied, and what it is worth where that is rounded."""
        return x_TI, None

    def _product(self, x_TI: Tensor, scales_T: Tensor | None, dtype: torch.dtype) -> Tensor:
        (tokens, inputs), outputs = x_TI.shape, len(self.codes_OI)
        y_TO = torch.empty(tokens, outputs, dtype=dtype, device=x_TI.device)
        bytes_too = scales_T is not None
        # Few outputs per program while there are few rows: many programs have to ask for memory at once.
        tall, wide = (max(16, triton.next_power_of_2(tokens)), 16) if tokens <= FEW else (64, 64)
        _product[triton.cdiv(outputs, wide), triton.cdiv(tokens, tall)](
            x_TI, self.codes_OI, scales_T, self.scales_O, self.bias, y_TO, tokens, outputs, x_TI.stride(0),
            INPUTS=inputs, BIAS=self.bias is not None, BYTES=bytes_too, TALL=tall, WIDE=wide,
            DEEP=128 if x_TI.itemsize < 4 else 32, INNER=tl.int8 if bytes_too else INNER[x_TI.dtype],
            SUMS=tl.int32 if bytes_too else tl.float32, num_stages=4 if x_TI.itemsize < 4 else 3,
            num_warps=WARPS[x_TI.dtype])  # fmt: skip
        return y_TO


class Bytes(ByteWeights):
    """Products of inputs rounded to bytes with int8 weights."""

    def _inputs(self, x_TI: Tensor) -> tuple[Tensor, Tensor | None]:
        codes_TI = torch.empty(x_TI.shape, dtype=torch.int8, device=x_TI.device)
        scales_T = torch.empty(len(x_TI), dtype=torch.float32, device=x_TI.device)
        _round[len(x_TI),](x_TI, codes_TI, scales_T, x_TI.stride(0), WIDTH=x_TI.shape[1],
                           DEEP=triton.next_power_of_2(x_TI.shape[1]), num_warps=8, enable_fp_fusion=False)  # fmt: skip
        return codes_TI, scales_T


@triton.jit
def _round(x, codes, scales, pitch, WIDTH: tl.constexpr, DEEP: tl.constexpr) -> Any:
    """One row as bytes: its largest number becomes 127 or -127."""
    row, number = tl.program_id(0).to(tl.int64), tl.arange(0, DEEP)
    there = number < WIDTH
    numbers, scale = rounded(tl.load(x + row * pitch + number, mask=there, other=0.0).to(tl.float32))
    tl.store(codes + row * WIDTH + number, numbers.to(tl.int8), mask=there)
    tl.store(scales + row, scale)


@triton.jit
def _product(x, weight, x_scales, scales, bias, y, tokens, outputs, pitch, INPUTS: tl.constexpr, BIAS: tl.constexpr,
             BYTES: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
             INNER: tl.constexpr, SUMS: tl.constexpr) -> Any:  # fmt: skip
    """Some rows and some outputs."""
    output = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    token, number = tl.program_id(1).to(tl.int64) * TALL + tl.arange(0, TALL), tl.arange(0, DEEP)
    line, column = x + token[:, None] * pitch, weight + output[None, :].to(tl.int64) * INPUTS
    sums = tl.zeros((TALL, WIDE), SUMS)
    for begin in range(0, INPUTS, DEEP):
        at = begin + number
        some = tl.load(line + at[None, :], mask=(token < tokens)[:, None] & (at < INPUTS)[None, :], other=0)
        codes = tl.load(column + at[:, None], mask=(output < outputs)[None, :] & (at < INPUTS)[:, None], other=0)
        sums = tl.dot(some.to(INNER), codes.to(INNER), sums, input_precision="ieee", out_dtype=SUMS)
    found = sums.to(tl.float32) * tl.load(scales + output, mask=output < outputs, other=0.0)[None, :]
    if BYTES:
        found = found * tl.load(x_scales + token, mask=token < tokens, other=0.0)[:, None]
    if BIAS:
        found += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    tl.store(y + token[:, None] * outputs + output[None, :], found.to(y.dtype.element_ty),
             mask=(token < tokens)[:, None] & (output < outputs)[None, :])
