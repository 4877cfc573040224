"""What memory there is to take, and giving back what was freed."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

ROOT = Path("/")
# The files of a control group, by its version: the limit, and what is used of it.
FILES = {2: ("memory.max", "memory.current"), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes")}


def free_bytes(device: str = "cpu", root: Path = ROOT) -> int:
    """Bytes that a process can still take on a device. On a CPU: what the system can free for it, and no more than
    the limits of its control groups leave."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info(device)[0])
    told = root / "proc/meminfo"
    if not told.is_file():  # not Linux: half of what is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    available = next(line for line in told.read_text().splitlines() if line.startswith("MemAvailable"))
    return max(0, min([int(available.split()[1]) * 1024, *_left(root)]))


def _left(root: Path) -> Iterator[int]:
    """What each limit on this process leaves; pages of files that were not used lately do not count as taken."""
    for version, group in _groups(root):
        limit, used = (group / name for name in FILES[version])
        if limit.is_file() and used.is_file() and (most := limit.read_text().strip()).isdecimal():
            kept = [int(line.split()[1]) for line in (group / "memory.stat").read_text().splitlines()
                    if line.startswith("inactive_file")] if (group / "memory.stat").is_file() else []
            yield int(most) - int(used.read_text()) + sum(kept)


def _groups(root: Path) -> Iterator[tuple[int, Path]]:
    """This process's control groups that may limit memory, with their version; in a container, as seen inside."""
    own = root / "proc/self/cgroup"
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") or not controllers:
            version = 1 if controllers else 2
            top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            yield from ((version, group) for group in {top / path.strip("/"), top})


def give_back() -> None:
    """Return freed memory to the system where the C library keeps it otherwise and can be asked not to: glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
