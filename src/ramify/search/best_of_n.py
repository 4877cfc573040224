"""Best-of-N."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ramify.engine import Extend, Fork, Prompt, Reward, Score, Sequence
from ramify.search.needs import needs


@needs()
def best_of_n(prompt: Prompt, *, reward: Reward, n: int = 16) -> Generator[Any, Any, Sequence]:
    """Draw n independent answers and return the one with the highest reward, ties uniformly at random.

    Law: p(y) * (F(r)^n - F-(r)^n) / (F(r) - F-(r)) at r = reward(y), where F and F- are the probabilities
    under p of a reward at most and below r. Cost: the prompt once per model, n answers, n rewards.
    Use it as the yardstick; the cheaper searches aim at its reward. (arXiv 2009.01325, 2401.01879)
    """
    alive = yield Fork(prompt, n)
    yield Extend(alive)
    yield Score(alive, reward)
    return alive.best()
