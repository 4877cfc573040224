"""Seconds that steps took, remembered by how many ids they read."""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ramify.engine.runner import Runner

KEPT = 9  # the latest steps of a size; their median shrugs off a busy moment


class StepCosts:
    """Medians of measured steps, per runner and number of ids (powers of two and the halves between)."""

    def __init__(self) -> None:
        self._seen: dict[Runner, dict[int, deque[float]]] = defaultdict(dict)

    def note(self, runner: Runner, ids: int, seconds: float) -> None:
        """A step took so long."""
        self._seen[runner].setdefault(_size(ids), deque(maxlen=KEPT)).append(seconds)

    def seconds(self, runner: Runner, ids: int) -> float | None:
        """What a step of so many ids takes; between sizes that were seen on a straight line, else as the nearest.

        None if nothing was seen. Larger steps than any seen are thought to cost no more: so they are tried.
        """
        seen = self._seen.get(runner)
        if not seen:
            return None
        times = {size: median(each) for size, each in seen.items()}
        below = max((size for size in times if size <= ids), default=min(times))
        above = min((size for size in times if size >= ids), default=max(times))
        if below >= ids or above <= ids:
            return times[below if above <= ids else above]
        return times[below] + (ids - below) / (above - below) * (times[above] - times[below])


def _size(ids: int) -> int:
    """The nearest of 1, 2, 3, 4, 6, 8, 12, 16, ... that is not larger."""
    power = 1 << (ids.bit_length() - 1)
    return power + power // 2 if ids >= power + power // 2 and power > 1 else power
