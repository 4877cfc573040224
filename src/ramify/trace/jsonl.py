"""JSON Lines files that never hold half a line."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ramify.errors import DataError, StorageError

Row = dict[str, Any]
SHOWN = 60  # characters of a bad line quoted in the error


def read_rows(path: str | Path, *, torn: bool = False) -> Iterator[tuple[int, Row]]:
    """Every object of the file with its line number, counted from 1; blank lines are skipped.

    Args:
        path: the file.
        torn: pass over a damaged last line that lacks its line end: a crash left it.

    Raises:
        DataError: a file that cannot be read, or a line that is not one JSON object, named by its number.
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                row = _parse(line)
                if row is not None:
                    yield number, row
                elif line.strip() and not (torn and not line.endswith(b"\n")):
                    shown = line.decode(errors="replace").strip()
                    shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + "…"
                    raise DataError(f"one JSON object at {path} line {number}", repr(shown),
                                    "mend or remove that line")
    except OSError as error:
        raise DataError("a readable file of JSON lines", f"{path}: {error.strerror}", "check the path") from error


def _parse(line: bytes) -> Row | None:
    """The JSON object on a line, None if it holds anything else."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


class RowWriter:
    """Appends JSON objects to a file, one a line, whole lines or nothing.

    Args:
        path: the file; made if missing.
        append: keep what it holds. A damaged last line without its end, left by a crash, is cut off.

    Raises:
        StorageError: the file cannot be written. What was written before stays, ending with a whole line.
    """

    def __init__(self, path: str | Path, *, append: bool = False) -> None:
        self.path = Path(path)
        again = append and self.path.is_file()
        try:
            self._file = open(path, "r+b" if again else "wb", buffering=0)  # noqa: SIM115
            self._end = 0
            if again:
                self._resume(self._file.read())
            self._cut()
        except OSError as error:
            raise self._failure(error) from error

    def write(self, rows: Iterable[Row]) -> None:
        """Append the rows and hand them to the operating system."""
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
            self._end += len(data)
        except OSError as error:
            raise self._failure(error) from error
        finally:
            self._cut()  # an interrupt in the middle leaves no half line either

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._file.close()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _resume(self, data: bytes) -> None:
        """Go to the end of the last whole line; one that lacks just its line end is given it."""
        self._end = data.rfind(b"\n") + 1
        if _parse(data[self._end :]) is not None:
            self._end = len(data) + self._file.write(b"\n")

    def _cut(self) -> None:
        """Drop what follows the last whole line."""
        if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):  # a pipe or a device cannot be cut
            self._file.truncate(self._end)
            self._file.seek(self._end)

    def _failure(self, error: OSError) -> StorageError:
        return StorageError(f"room and permission to write {self.path}", error.strerror or str(error),
                            "free some space or name another file; what was written before is kept")

