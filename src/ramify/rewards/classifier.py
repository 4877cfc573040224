"""A sequence classifier with one label: the raw logit at the last token is the reward."""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Sequence as Many
from typing import Any

from ramify.engine.commands import Command, Read
from ramify.engine.sequence import Sequence
from ramify.models import Model


class SequenceReward:
    """Scores answers with a scalar-head model, finished or partial.

    The reward is the raw logit: no sigmoid, no padding, so it does not depend on the batch. The model
    keeps its own cache per candidate; a later score of the same candidate reads only what is new.

    Args:
        model: loaded with `load_model(..., head=True)`.
        closed: end an unfinished answer as the chat template ends a turn, which is what a reward model that
            only ever saw whole answers expects. Models trained on open prefixes want False.
    """

    def __init__(self, model: Model, closed: bool = True) -> None:
        self.model, self.closed, self.name = model, closed, model.name

    def score(self, sequences: Many[Sequence]) -> Generator[Command, Any, list[float]]:
        """One logit per candidate. Costs the tokens that the model has not read yet."""
        values: list[float] = yield Read(sequences, self.model, "reward", self.closed)
        return values
