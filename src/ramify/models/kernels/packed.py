"""Weights as the tiles want them.

A packed weight is described by a row of int64 (a `spec`, columns below), so that one kernel runs any of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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
        """Bytes that the weight takes, besides the bias."""
        return self.panels.nbytes + (0 if self.sums is None else self.sums.nbytes)


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros that begin at a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def panel_rows(outputs: int, parts: int = 1) -> list[slice]:
    """The outputs of every panel. Weights are packed from them, one after another, so that they need not be there
    all at once."""
    size = outputs // parts
    return [slice(part * size + at, part * size + min(size, at + PANEL)) for part in range(parts)
            for at in range(0, size, PANEL)]


def pack_floats(shape: tuple[int, ...], rows: Iterable[Array], bias_O: Array | None = None, parts: int = 1) -> Packed:
    """float32 weights: panels of [inputs, PANEL]."""
    panels = aligned((_count(shape, parts), shape[1], PANEL), np.float32)
    for panel, own in zip(panels, rows, strict=True):
        panel[:, : len(own)] = own.T
    return _packed(FLOATS, shape, panels, None, bias_O, parts)


def pack_bytes(shape: tuple[int, ...], rows: Iterable[tuple[Array, Array]], bias_O: Array | None = None,
               parts: int = 1) -> Packed:
    """int8 weights, codes and a scale for every output: panels of [inputs / 4, PANEL, 4].

    Inputs come as bytes with 128 added, which the sums of every output take back.
    """
    quads = -(-shape[1] // 4)
    panels = aligned((_count(shape, parts), quads, PANEL, 4), np.int8)
    sums = aligned((len(panels), 2, PANEL), np.int32)
    padded = np.zeros((PANEL, 4 * quads), np.int8)
    for panel, (total, scale), (codes, scales) in zip(panels, sums, rows, strict=True):
        padded[:] = 0
        padded[: len(codes), : shape[1]] = codes
        panel[:] = padded.reshape(PANEL, quads, 4).transpose(1, 0, 2)
        total[:] = -128 * padded.sum(1, dtype=np.int32)
        scale[: len(codes)] = scales.view(np.int32)
    return _packed(BYTES, shape, panels, sums, bias_O, parts)


def pack_byte_weights(shape: tuple[int, ...], rows: Iterable[tuple[Array, Array]], bias_O: Array | None = None,
                      parts: int = 1) -> Packed:
    """int8 weights, codes and a scale for every output, for inputs in float32: panels of [inputs, PANEL]."""
    panels = aligned((_count(shape, parts), shape[1], PANEL), np.int8)
    sums = aligned((len(panels), PANEL), np.float32)
    for panel, scale, (codes, scales) in zip(panels, sums, rows, strict=True):
        panel[:, : len(codes)] = codes.T
        scale[: len(codes)] = scales
    return _packed(BYTE_WEIGHTS, shape, panels, sums, bias_O, parts)


def pack_nibbles(shape: tuple[int, ...], rows: Iterable[tuple[Array, Array]], bias_O: Array | None = None,
                 parts: int = 1) -> Packed:
    """Weights of 4 bits, -8 to 7, with one scale per output and GROUP inputs, for inputs in float32.

    Panels of [inputs / 2, PANEL]: of two inputs that follow each other the first has the lower bits, and all 8 more
    than their number.
    """
    pairs, groups = (shape[1] + 1) // 2, -(-shape[1] // GROUP)
    panels = aligned((_count(shape, parts), pairs, PANEL), np.uint8)
    sums = aligned((len(panels), groups, PANEL), np.float32)
    padded = np.zeros((PANEL, 2 * pairs), np.uint8)
    for panel, scale, (codes, scales) in zip(panels, sums, rows, strict=True):
        padded[:] = 8
        padded[: len(codes), : shape[1]] = codes + 8
        panel[:] = (padded[:, ::2] | padded[:, 1::2] << 4).T
        scale[:, : len(codes)] = scales.T
    return _packed(NIBBLES, shape, panels, sums, bias_O, parts)


def _count(shape: tuple[int, ...], parts: int) -> int:
    """How many panels hold the outputs."""
    return parts * -(-shape[0] // parts // PANEL)


def _packed(kind: int, shape: tuple[int, ...], panels: Array, sums: Array | None, bias: Array | None,
            parts: int) -> Packed:
    spec = np.zeros(SPEC, np.int64)
    spec[[KIND, OUTPUTS, INPUTS, PARTS]] = kind, *shape, parts
    spec[[PANELS, STRIDE]] = panels.ctypes.data, panels[0].nbytes
    spec[SUMS] = 0 if sums is None else sums.ctypes.data
    spec[BIAS] = 0 if bias is None else bias.ctypes.data
    return Packed(spec, panels, sums, bias)
