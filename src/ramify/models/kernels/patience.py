"""A word to who waits for kernels to be compiled. Imports nothing that takes long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 2.0  # seconds
LINE = "Compiling kernels for this processor; the result is kept for the next time.\n"


_waiting = False


@contextmanager
def patience() -> Iterator[None]:
    """Say what is going on if it takes long, once however deep this is nested: only compiling does."""
    global _waiting
    if _waiting:
        yield
        return
    timer = threading.Timer(PATIENCE, sys.stderr.write, [LINE])
    timer.daemon = True
    timer.start()
    _waiting = True
    try:
        yield
    finally:
        timer.cancel()
        _waiting = False
