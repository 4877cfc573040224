"""Any Python function as a reward."""

from __future__ import annotations

from collections.abc import Callable, Generator
from collections.abc import Sequence as Many
from typing import Any

from ramify.engine.commands import Command
from ramify.engine.sequence import Sequence
from ramify.errors import RewardError


class FunctionReward:
    """`function(prompt, answer) -> number`, both plain text; partial answers are passed as they stand.

    Raises `RewardError` when the function fails or returns no number: a text that cannot be scored is an
    error, never a zero.
    """

    def __init__(self, function: Callable[[str, str], float], name: str | None = None) -> None:
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))

    def score(self, sequences: Many[Sequence]) -> Generator[Command, Any, list[float]]:
        """One call per candidate."""
        return [self._call(sequence.prompt.text, sequence.text) for sequence in sequences]
        yield

    def _call(self, prompt: str, answer: str) -> float:
        try:
            return float(self.function(prompt, answer))
        except Exception as error:
            raise RewardError("a number for every candidate", f"{type(error).__name__}: {error} from {self.name!r}",
                              "mend the reward function") from error
