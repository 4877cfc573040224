"""Seconds that steps took, remembered by how many ids they read."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ramify.engine.runner import Runner

Kind = tuple["Runner", bool]  # whose steps, and whether they read drafts
KEPT = 9  # the latest steps of a size; their median shrugs off a busy moment


class StepCosts:
    """Medians of measured steps, per runner and number of ids (powers of two and the halves between).

    Steps that read drafts have tables of their own: what follows every id is looked at, not only the last of a row.
    """

    def __init__(self) -> None:
        self._seen: dict[Kind, dict[int, deque[float]]] = defaultdict(dict)
        self._tables: dict[Kind, dict[int, float]] = {}  # a pace asks for many lengths between two steps

    def note(self, runner: Runner, ids: int, seconds: float, drafts: bool = False) -> None:
        """A step took so long."""
        self._seen[runner, drafts].setdefault(_size(ids), deque(maxlen=KEPT)).append(seconds)
        self._tables.pop((runner, drafts), None)

    def table(self, runner: Runner, drafts: bool = False) -> dict[int, float]:
        """{ids: median seconds} of the sizes that were seen, ascending; none above that of a larger size.

        A step is not faster for reading more: where it was, the smaller size was measured at a bad moment.
        """
        kind = runner, drafts
        if kind in self._tables:
            return self._tables[kind]
        table: dict[int, float] = {}
        least = float("inf")
        for size, seconds in sorted(self._seen[kind].items(), reverse=True):
            least = min(least, median(seconds))
            table[size] = least
        self._tables[kind] = dict(sorted(table.items()))
        return self._tables[kind]

    def seconds(self, runner: Runner, ids: int, drafts: bool = False) -> float | None:
        """What a step of so many ids takes: between sizes that were seen on a straight line; beyond the largest on
        the line from the smallest to it, or no more than it where only one was seen.

        None if only steps of more than twice as many ids were seen, or none at all.
        """
        table = self.table(runner, drafts)
        sizes = list(table)
        if not sizes or sizes[0] > 2 * ids:
            return None
        at = bisect_left(sizes, ids)
        if 0 < at < len(sizes):
            low, high = sizes[at - 1], sizes[at]
            return table[low] + (ids - low) / (high - low) * (table[high] - table[low])
        low, high = sizes[0], sizes[-1]  # outside of all that were seen
        beyond = max(0, ids - high) / (high - low) if high > low else 0.0
        return table[high if at else low] + beyond * (table[high] - table[low])


def _size(ids: int) -> int:
    """The nearest of 1, 2, 3, 4, 6, 8, 12, 16, ... that is not larger."""
    power = 1 << (ids.bit_length() - 1)
    return power + power // 2 if ids >= power + power // 2 and power > 1 else power
