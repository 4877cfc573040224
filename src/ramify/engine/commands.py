"""The whole vocabulary between a search and everything below it. No tensor crosses it.

A search yields a command and receives the reply named here. Rewards yield `Read` and `Peek`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator
    from collections.abc import Sequence as Many
    from typing import Any

    from ramify.engine.sequence import Group, Prompt, Sequence
    from ramify.models import Model
    from ramify.types import Role


class Reward(Protocol):
    """Anything that scores answers, finished or partial."""

    name: str

    def score(self, sequences: Many[Sequence]) -> Generator[Command, Any, list[float]]:
        """Yield `Read` or `Peek` as needed and return one score per sequence."""
        ...


@dataclass(slots=True, frozen=True)
class Fork:
    """`count` new candidates that continue each source. Reply: a `Group`, children of one source together.

    A fork of the prompt starts candidates; the prompt is computed once. A fork copies no full block.
    """

    source: Prompt | Sequence | Group
    count: int


@dataclass(slots=True, frozen=True)
class Extend:
    """Grow each live candidate by up to `tokens` tokens (None: to its end). Reply: None."""

    sequences: Many[Sequence]
    tokens: int | None = None


@dataclass(slots=True, frozen=True)
class Score:
    """Score every candidate as it stands. Reply: a list of floats; also kept on each candidate."""

    sequences: Many[Sequence]
    reward: Reward


@dataclass(slots=True, frozen=True)
class Drop:
    """Stop working on these candidates; their blocks are free before the next step. Reply: None."""

    sequences: Many[Sequence]


@dataclass(slots=True, frozen=True)
class Rewind:
    """Cut each candidate's answer back to `length` tokens and make it live again. Reply: None."""

    sequences: Many[Sequence]
    length: int


@dataclass(slots=True, frozen=True)
class Peek:
    """Log-probabilities of the candidates' own answer tokens under `model` (None: the target), untempered.

    Reply: per candidate a list of floats, one per answer token. The model's cache of each candidate is
    kept and forked along, so a second look costs only the new tokens.
    """

    sequences: Many[Sequence]
    model: Model | None
    role: Role


@dataclass(slots=True, frozen=True)
class Read:
    """The scalar head of `model` at the last token of each candidate. Reply: a list of floats.

    `closed` ends an unfinished answer the way the chat template ends a turn. Only new tokens are fed.
    """

    sequences: Many[Sequence]
    model: Model
    role: Role
    closed: bool


Command = Fork | Extend | Score | Drop | Rewind | Peek | Read
