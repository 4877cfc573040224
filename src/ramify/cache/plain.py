"""The reference twin of the paged cache: every sequence keeps its own list. For tests."""

from __future__ import annotations


class PlainCache:
    """What a cache means, without sharing: per sequence, the list of what was written at each position."""

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = {}

    def append(self, row: int, values: list[int]) -> None:
        """Write at the end of a sequence, which starts empty."""
        self.rows.setdefault(row, []).extend(values)

    def fork(self, row: int, child: int) -> None:
        """A full copy under a new name."""
        self.rows[child] = list(self.rows[row])

    def rewind(self, row: int, length: int) -> None:
        """Keep the first `length` positions."""
        del self.rows[row][length:]

    def free(self, row: int) -> None:
        """Forget the sequence."""
        del self.rows[row]
