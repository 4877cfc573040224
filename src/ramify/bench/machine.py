"""What the machine can do, measured in a second or two, and what a process holds of its memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READ_BYTES = 256 * 2**20  # beyond every cache
SIDE = 2048  # of the square matrices that are multiplied
REPEATS = 9
LARGER = 8, 4  # times as many bytes and as long sides on a GPU: beyond its caches, and long enough to count


@dataclass(slots=True, frozen=True)
class Limits:
    """Rates that no program on this machine passes by much: the fastest of short loops over all threads of torch, as
    others who use the machine can only slow them down.

    read: bytes per second from memory. multiply: operations per second of a matrix product, in the type that was asked
    for. multiply_int8: the same for 8-bit integers.
    """

    read: float
    multiply: float
    multiply_int8: float


def measure_limits(read_bytes: int = READ_BYTES, side: int = SIDE, repeats: int = REPEATS, *, device: str = "cpu",
                   dtype: str = "float32") -> Limits:
    """Read a large array, summed or as the matrix of a product with a vector, and multiply square matrices.

    Takes a second or two.
    """
    import torch

    if device != "cpu":
        read_bytes, side = read_bytes * LARGER[0], side * LARGER[1]
    here: dict[str, Any] = {"device": device, "dtype": getattr(torch, dtype)}

    def seconds(work: Callable[[], object]) -> float:
        work()
        took = []
        for _ in range(repeats):
            settle(device)
            began = time.perf_counter()
            work()
            settle(device)
            took.append(time.perf_counter() - began)
        return min(took)

    numbers, vector = torch.ones(read_bytes // (here["dtype"].itemsize * side), side, **here), torch.ones(side, **here)
    read = min(seconds(numbers.sum), seconds(lambda: numbers @ vector))
    a = torch.ones(side, side, **here)
    multiply = seconds(lambda: a @ a)
    small = torch.ones(side, side, dtype=torch.int8, device=device)
    multiply_int8 = seconds(lambda: torch._int_mm(small, small))
    return Limits(read_bytes / read, 2 * side**3 / multiply, 2 * side**3 / multiply_int8)


def settle(device: str) -> None:
    """Wait until a GPU has done what it was given; a processor has."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)


def peak_bytes(device: str = "cpu") -> int:
    """The most memory that this process has held so far; on a GPU, that its tensors have."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what a parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
