"""How likely another policy finds the answer: the reward where a stronger model is at hand but no reward model."""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Sequence as Many
from typing import Any

from ramify.engine.commands import Command, Peek
from ramify.engine.sequence import Sequence
from ramify.models import Model


class LikelihoodReward:
    """Scores an answer, whole or partial, by its log-probability under `model`, in nats, untempered.

    Longer answers lose more; Speculative Rejection's perplexity experiments (arXiv 2410.20290) use the mean per
    token instead, which forgives one wrong number in a long text. Costs every token once.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.name = model, f"likelihood:{model.name}"

    def score(self, sequences: Many[Sequence]) -> Generator[Command, Any, list[float]]:
        """One sum of log-probabilities per candidate."""
        logprobs = yield Peek(sequences, self.model, "reward")
        return [sum(row) for row in logprobs]
