"""A word to who waits for kernels to be compiled. Imports nothing that takes long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 2.0  # seconds
LINE = "Compiling kernels for this processor; the result is kept for the next time.\n"
STEP = "  compiling {}\n"

_waiting = _told = False


@contextmanager
def patience() -> Iterator[None]:
    """Say what is going on if it takes long, once however deep this is nested: only compiling does."""
    global _waiting, _told
    if _waiting:
        yield
        return
    timer = threading.Timer(PATIENCE, _tell)
    timer.daemon = True
    timer.start()
    _waiting = True
    try:
        yield
    finally:
        timer.cancel()
        _waiting = _told = False


def _tell() -> None:
    global _told
    _told = True
    sys.stderr.write(LINE)


def step(name: str) -> None:
    """A step of compiling begins: who was told to wait is told that it goes on. Each takes seconds."""
    if _told:
        sys.stderr.write(STEP.format(name))
