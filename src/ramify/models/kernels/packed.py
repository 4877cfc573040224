"""Weights as the tiles want them.

A packed weight is described by a row of int64 (a `spec`, columns below), so that one kernel runs any of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ramify.models.kernels.tiles import PANEL

Array = np.ndarray[Any, np.dtype[Any]]

# Columns of a spec. Addresses of the first panel and of its column sums, bytes from one panel to the next; the
# address of the bias, or 0; in how many equal parts the outputs are padded to whole panels.
KIND, INPUTS, OUTPUTS, PANELS, STRIDE, SUMS, BIAS, PARTS = range(8)
SPEC = 8
# Kinds. BYTES has inputs of bytes, too; the last two are floats again before they multiply.
FLOATS, BYTES, BYTE_WEIGHTS, NIBBLES = range(4)
GROUP = 64  # inputs that share a scale in NIBBLES


@dataclass(slots=True, eq=False)
class Packed:
    """A weight: its spec, and the arrays that the spec's addresses point into.

    sums: of BYTES, what each output's products are added to, and its scale; of the kinds that become floats, scales.
    bias: one number per output, or None.
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


def pack_byte_weights(codes_OI: Array, scales_O: Array, bias_O: Array | None = None, parts: int = 1) -> Packed:
    """int8 weights with one scale per output, for inputs in float32: panels of [inputs, PANEL]."""
    outputs, inputs = codes_OI.shape
    panels = aligned((_count(outputs, parts), inputs, PANEL), np.int8)
    sums = aligned((len(panels), PANEL), np.float32)
    for panel, scale, rows, some in zip(panels, sums, _rows(codes_OI, parts), _rows(scales_O, parts), strict=True):
        panel[:, : len(rows)] = rows.T
        scale[: len(rows)] = some
    return _packed(BYTE_WEIGHTS, codes_OI, panels, sums, bias_O, parts)


def pack_nibbles(codes_OI: Array, scales_OJ: Array, bias_O: Array | None = None, parts: int = 1) -> Packed:
    """Weights of 4 bits, -8 to 7, with one scale per output and GROUP inputs, for inputs in float32.

    Panels of [inputs / 2, PANEL]: of two inputs that follow each other the first has the lower bits, and all 8 more
    than their number.
    """
    outputs, inputs = codes_OI.shape
    panels = aligned((_count(outputs, parts), (inputs + 1) // 2, PANEL), np.uint8)
    sums = aligned((len(panels), scales_OJ.shape[1], PANEL), np.float32)
    padded = np.zeros((PANEL, (inputs + 1) // 2 * 2), np.uint8)
    for panel, scale, rows, some in zip(panels, sums, _rows(codes_OI, parts), _rows(scales_OJ, parts), strict=True):
        padded[:] = 8
        padded[: len(rows), :inputs] = rows + 8
        panel[:] = (padded[:, ::2] | padded[:, 1::2] << 4).T
        scale[:, : len(rows)] = some.T
    return _packed(NIBBLES, codes_OI, panels, sums, bias_O, parts)


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
