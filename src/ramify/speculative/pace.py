"""How long to draft: a fixed length, or the one that measured costs and acceptance make fastest."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from statistics import median
from typing import Protocol

from ramify.speculative.stopping import AcceptanceRates, best_length

LONGEST = 16  # tokens that a measured pace drafts at most
PROBE = 1 / 32, 1 / 512  # share of the time that trying a token may take: at first, and after several that did not pay
HORIZON = 64  # tokens of an answer within which reading what came before must have paid
GAIN = 1.05  # times as many tokens per second that a draft must promise: less is noise
KEPT, FADING = 9, 0.98  # drafted steps, and rows of them, that tell how far promises are kept
REST = 8  # steps for which a decision against drafting stands, unless rows end: asking anew takes time too
PLAIN = 64  # every so many steps nothing is drafted, to measure what a draft must beat


class Costs(Protocol):
    """Measured seconds of one step; None where nothing like it was seen yet."""

    def target(self, ids: int) -> float | None:
        """A target step that reads so many ids."""
        ...

    def verify(self, ids: int) -> float:
        """A target step that reads so many ids, drafts among them; `target` has seen something like it."""
        ...

    def draft(self, ids: int) -> float | None:
        """A draft step that reads so many ids."""
        ...

    def catch_up(self) -> float:
        """Reading what the draft has not read yet of the prompts and answers, beyond one step; 0 if that is unknown."""
        ...


class Pace(Protocol):
    """How long to draft. It learns from what was accepted, and never sees tokens.

    Requests may share one: it is asked once per step for all their candidates.
    """

    def length(self, rows: int, ids: int, costs: Costs) -> int:
        """Tokens to draft for each of `rows` candidates in a step that reads `ids` without drafts; 0 for none."""
        ...

    def observe(self, drafted: int, accepted: int, committed: int) -> None:
        """One verification: the depth of what was drafted, how much of that was accepted, and the tokens it gave."""
        ...

    def took(self, seconds: float) -> None:
        """The step in which the drafts of the last `length` were verified, from before they were drafted."""
        ...


@dataclass(slots=True, frozen=True)
class FixedPace:
    """Always the same length."""

    tokens: int

    def length(self, rows: int, ids: int, costs: Costs) -> int:
        """See `Pace`."""
        return self.tokens

    def observe(self, drafted: int, accepted: int, committed: int) -> None:
        """See `Pace`."""

    def took(self, seconds: float) -> None:
        """See `Pace`."""


class MeasuredPace:
    """The length with the most expected tokens per second, 0 included, by this machine's times and what was accepted.

    All requests with one draft share it, since they wait for the same steps, and a new one starts with what the
    others learnt. Depends on time, so that only the coupled verifier gives the same text every time.
    """

    def __init__(self) -> None:
        self._rates = AcceptanceRates(LONGEST, decay=0.95)  # texts change: it remembers some 20 drafts
        self._largest, self._asking = 1, 1  # tokens drafted in a step, over all rows, and the rows of the last one
        self._steps = 0
        self._idle, self._share = 0.0, PROBE[0]
        self._resting, self._rows = 0, 0
        self._promise, self._gave = (0.0, 1.0), list[int]()  # seconds of a drafted step and tokens per row
        self._slower = deque([1.0], maxlen=KEPT)  # seconds that drafted steps took, over those promised
        self._promised, self._given = 1.0, 1.0  # tokens, fading: single rows vary a lot

    def length(self, rows: int, ids: int, costs: Costs) -> int:
        """See `Pace`. Never more than twice the tokens drafted in a step so far: what more cost is not known yet."""
        self._steps, self._asking = self._steps + 1, rows
        if self._resting and rows >= self._rows:
            self._resting -= 1
            return 0
        plain, step = costs.target(ids), costs.draft(rows)
        if plain is None or self._steps % PLAIN == 0:
            return 0
        most = min(LONGEST, max(1, 2 * self._largest // rows))
        if step is None:  # the first look of a draft reads its prompt; the second one shows what a step costs
            return most
        rates, late = self._rates.by_position()[:most], costs.catch_up()

        def verify(length: int) -> float:
            return costs.verify(ids + rows * length) if length else plain / GAIN / self._excess()

        length = best_length(rates, step, verify, late / HORIZON)
        if length:
            self._idle, self._share = 0.0, PROBE[0]
            late = 0.0  # what has to be read ever again is among what promises leave out
        else:
            # Where drafting does not pay nothing is learnt: a token is tried when that costs little of the time since.
            self._idle += REST * plain
            self._resting, self._rows = REST - 1, rows
            if self._idle * self._share < late + step + verify(1) - plain:
                return 0
            self._idle, self._share, length = 0.0, max(self._share / 2, PROBE[1]), 1
        self._promise = late + length * step + verify(length), 1 + sum(accumulate(rates[:length], mul))
        return length

    def observe(self, drafted: int, accepted: int, committed: int) -> None:
        """See `Pace`."""
        self._largest = max(self._largest, drafted * self._asking)
        self._rates.observe(drafted, accepted)
        self._gave.append(committed)

    def took(self, seconds: float) -> None:
        """See `Pace`."""
        expected, tokens = self._promise
        if expected and self._gave:
            self._slower.append(seconds / expected)
            kept = FADING ** len(self._gave)
            self._promised = kept * self._promised + tokens * len(self._gave)
            self._given = kept * self._given + sum(self._gave)
        self._promise, self._gave = (0.0, 1.0), []

    def _excess(self) -> float:
        """The seconds per token of drafted steps, over what they promised: texts end, and prompts come to be read."""
        return median(self._slower) * self._promised / self._given
