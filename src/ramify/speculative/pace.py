"""How long to draft: a fixed length, or the one that measured costs and acceptance make fastest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ramify.speculative.stopping import AcceptanceRates, best_length

LONGEST = 16  # tokens that a measured pace drafts at most


class Costs(Protocol):
    """Measured seconds of one step; None where nothing like it was seen yet."""

    def target(self, ids: int) -> float | None:
        """A target step that reads so many ids."""
        ...

    def draft(self, ids: int) -> float | None:
        """A draft step that reads so many ids."""
        ...


class Pace(Protocol):
    """How long to draft. It learns from what was accepted, and never sees tokens."""

    def length(self, rows: int, costs: Costs) -> int:
        """Tokens to draft for each of `rows` candidates that grow together; 0 for none."""
        ...

    def observe(self, drafted: int, accepted: int) -> None:
        """One verification: the depth of what was drafted, and how much of that was accepted."""
        ...


@dataclass(slots=True, frozen=True)
class FixedPace:
    """Always the same length."""

    tokens: int

    def length(self, rows: int, costs: Costs) -> int:
        """See `Pace`."""
        return self.tokens

    def observe(self, drafted: int, accepted: int) -> None:
        """See `Pace`."""


class MeasuredPace:
    """The length with the most expected tokens per second, 0 included, by this machine's times and what was accepted.

    Depends on time, so that only the coupled verifier gives the same text every time.
    """

    def __init__(self) -> None:
        self._rates = AcceptanceRates(LONGEST)

    def length(self, rows: int, costs: Costs) -> int:
        """See `Pace`. The first steps are plain: they measure what a draft must beat."""
        plain = costs.target(rows)
        if plain is None:
            return 0
        best = best_length(self._rates.by_position(), costs.draft(rows) or 0.0,
                           lambda length: costs.target(rows * (1 + length)) or plain)
        return self._rates.explored(best)

    def observe(self, drafted: int, accepted: int) -> None:
        """See `Pace`."""
        self._rates.observe(drafted, accepted)
