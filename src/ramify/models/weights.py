"""Tensors of safetensors files, read some rows at a time.

They are read into memory of their own, not mapped: pages of a mapped file count as this process's memory until it
ends, and a model would be there twice while it is packed.
"""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ramify.errors import ModelError

AGAIN = "download the model again"
MISFIT = "check that config.json belongs to the weights"
PIECE = 1 << 20  # numbers that are converted at a time: the rest of a weight is not there twice
# Numbers that are read at once at least: asking for the rows of one panel costs more than they do. More would leave
# larger holes between packed weights.
AHEAD = 1 << 16
# What safetensors calls them; a model can be of these.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(slots=True, frozen=True, eq=False)
class Stored:
    """A tensor in an open file. kind: the format's name of its type. start: its first byte."""

    name: str
    file: BufferedReader
    start: int
    kind: str
    shape: tuple[int, ...]

    def __getitem__(self, rows: slice) -> Tensor:
        """Some rows, in the type of the file.

        Raises `ModelError`: the file became shorter.
        """
        first, end, _ = rows.indices(self.shape[0])
        found = torch.empty((end - first, *self.shape[1:]), dtype=FLOATS[self.kind])
        self.read(first, found)
        return found

    def read(self, first: int, target: Tensor) -> None:
        """Fill a target on the CPU, of the type of the file, with rows from `first` on.

        Raises `ModelError`: the file became shorter.
        """
        self.file.seek(self.start + first * math.prod(self.shape[1:]) * target.itemsize)
        if self.file.readinto(target.flatten().view(torch.uint8).numpy().data) != target.nbytes:
            raise ModelError(f"an intact {self.file.name}", f"an end within {self.name}", AGAIN)


def open_weights(path: Path, opened: ExitStack) -> dict[str, Stored]:
    """Every tensor of a file by its name; the file stays open as long as `opened`.

    Raises:
        ModelError: not a file, or one whose header or size is wrong.
    """
    try:
        with safe_open(path, framework="pt"):  # checks all that
            pass
        file = opened.enter_context(path.open("rb"))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"an intact {path}", str(error), AGAIN) from None
    size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(size))
    return {name: Stored(name, file, 8 + size + told["data_offsets"][0], told["dtype"], tuple(told["shape"]))
            for name, told in header.items() if name != "__metadata__"}


class Parameter:
    """One of a decoder's parameters as files hold it: tensors stacked along their rows, or one that is turned.

    Read like a tensor, by rows, and then of the type and on the device that it is wanted. Rows that are asked for in
    order are read ahead: what is returned is a view of them.
    """

    def __init__(self, parts: list[Stored], rows: list[int], shape: torch.Size, dtype: torch.dtype, device: str,
                 turned: bool = False) -> None:
        """`rows` are those of each part.

        Raises `ModelError` naming the part that has another shape, or other numbers than floating-point ones.
        """
        self.parts, self.rows, self.shape = parts, rows, tuple(shape)
        self.whole: Tensor | None = None
        self.dtype, self.device, self.turned = dtype, torch.device(device), turned
        self.begin, self.ahead = 0, torch.empty(0)  # rows that were read, and the first of them
        for part, count in zip(parts, rows, strict=True):
            needed, got = (count, *shape[1:]), part.shape[::-1] if turned else part.shape
            if got != needed or part.kind not in FLOATS:
                raise ModelError(f"{part.name} as {needed} floating-point numbers", f"{got} of {part.kind}", MISFIT)

    def __getitem__(self, rows: slice) -> Tensor:
        start, end, _ = rows.indices(self.shape[0])
        if start < self.begin or end > self.begin + len(self.ahead):
            enough = start + AHEAD // math.prod(self.shape[1:])
            self.begin, self.ahead = start, self._read(start, min(max(end, enough), self.shape[0]))
        return self.ahead[start - self.begin : end - self.begin]

    def _read(self, start: int, end: int) -> Tensor:
        """Rows of all parts."""
        found = torch.empty((end - start, *self.shape[1:]), dtype=self.dtype, device=self.device)
        at = 0
        for part, count in zip(self.parts, self.rows, strict=True):
            first, last = max(start, at), min(end, at + count)
            if first < last:
                self._copy(part, first - at, found[first - start : last - start])
            at += count
        return found

    def _copy(self, part: Stored, first: int, target: Tensor) -> None:
        """Rows of a part from `first` on, as many as the target has."""
        if self.turned:  # its rows lie nowhere together
            self.whole = part[:].T if self.whole is None else self.whole
            target.copy_(self.whole[first : first + len(target)])
            return
        if target.device.type == "cpu" and target.dtype == FLOATS[part.kind]:
            part.read(first, target)
            return
        step = max(1, PIECE // math.prod(self.shape[1:]))
        for at in range(0, len(target), step):
            some = target[at : at + step]
            some.copy_(part[first + at : first + at + len(some)])
