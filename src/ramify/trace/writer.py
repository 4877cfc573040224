"""The trace of a run: one flat JSON object per event, in a JSON Lines file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ramify.trace.jsonl import Row, RowWriter

BUFFER = 256  # events held back; a result is written at once


class Trace:
    """Writes events: `llm.generate(prompt, trace=trace.write)`.

    Every event has `t` (seconds since the trace began), `event` and `request`; the others are

    - request: prompt, method, n, options
    - fork: candidate (the parent, "" for the prompt), children
    - extend: candidate, tokens (now), text (so far), state
    - score: candidate, tokens, score, reward; drop, rewind: candidate, tokens
    - result: the fields of `Result.to_dict()`

    Args:
        path: the file to write.
        append: continue a file, as a resumed run does.

    Raises:
        StorageError: the file cannot be written; the events before stay.
    """

    def __init__(self, path: str | Path, *, append: bool = False) -> None:
        self._writer = RowWriter(path, append=append)
        self._pending: list[Row] = []
        self._start = time.perf_counter()

    def write(self, event: str, **fields: Any) -> None:
        """Note one event."""
        self._pending.append({"t": round(time.perf_counter() - self._start, 6), "event": event, **fields})
        if event == "result" or len(self._pending) >= BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write what is held back. After an error it is given up, so that closing does not fail again."""
        rows, self._pending = self._pending, []
        self._writer.write(rows)

    def close(self) -> None:
        """Write what is held back and close the file."""
        try:
            self.flush()
        finally:
            self._writer.close()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
