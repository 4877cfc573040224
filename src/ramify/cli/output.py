"""What every command shares: JSON on standard output, everything else on standard error."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from ramify.errors import RamifyError, StorageError

WIDE = 160


def say(text: str) -> None:
    """Write a line to standard output.

    Raises:
        StorageError: standard output cannot take it; a closed pipe is left to the caller.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        # What is stuck in the buffer would fail again, and loudly, when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno == errno.EPIPE:
            raise
        raise StorageError("room to write standard output", error.strerror or str(error),
                           "free some space or name an --out file") from error


def say_json(data: Any) -> None:
    """Write one JSON document as a line."""
    say(json.dumps(data, ensure_ascii=False))


def screen() -> Console:
    """The terminal behind standard output; a file or a pipe has room for wide tables."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, width=WIDE if wide else None)


def notes() -> Console:
    """Standard error: progress, notes and warnings."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def keep_picture(path: Path, png: bytes) -> None:
    """Write a picture as path.png and say so. Raises `StorageError`."""
    from ramify.bench.plot import write

    path = path.with_suffix(".png")
    write(path, png)
    notes().print(f"wrote {path}")


def complain(error: RamifyError, about: str = "") -> None:
    """One line on standard error."""
    notes().print(f"error: {about}{error}", style="red", markup=False)
