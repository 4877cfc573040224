"""Self-consistency: a vote over final answers, plain or weighted by reward."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Generator
from typing import Any

from ramify.engine import Extend, Fork, Prompt, Reward, Score, Sequence
from ramify.search.needs import needs
from ramify.types import check

_MARKED = re.compile(r"####\s*([^\n]+)|\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def final_answer(text: str) -> str | None:
    """What follows the last `####` or stands in the last `\\boxed{}`, else the last number, else None."""
    if marked := _MARKED.findall(text):
        return (marked[-1][0] or marked[-1][1]).strip().replace(",", "")
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else None


@needs()
def self_consistency(prompt: Prompt, *, n: int = 16, reward: Reward | None = None, beta: float | None = None,
                     answer: Callable[[str], str | None] = final_answer) -> Generator[Any, Any, Sequence]:
    """Draw n independent answers and return the first that gives the winning final answer.

    Law: the final answer with the most votes among n draws of p, ties uniformly at random. With `beta`,
    each vote counts exp(reward / beta) (arXiv 2504.03790): for n to infinity that is the mode of the answer
    marginal of the tilt p(y) exp(reward(y) / beta). Texts without a final answer do not vote; if none
    votes, the first is returned. Cost: the prompt once, n answers, and n rewards if weighted.
    Use it where answers can be compared and no good reward is at hand. (arXiv 2203.11171)
    """
    check(beta is None or beta > 0, "beta above 0", beta, "leave it out for a plain vote")
    check(beta is None or reward is not None, "a reward for weighted votes", "none", "name one, or leave beta out")
    alive = yield Fork(prompt, n)
    yield Extend(alive)
    weights = [1.0] * n
    if beta is not None and reward is not None:
        scores = yield Score(alive, reward)
        weights = [math.exp((score - max(scores)) / beta) for score in scores]
    votes: dict[str, float] = defaultdict(float)
    first: dict[str, Sequence] = {}
    for sequence, weight in zip(alive, weights, strict=True):
        if (key := answer(sequence.text)) is not None:
            votes[key] += weight
            first.setdefault(key, sequence)
    if not votes:
        return alive[0]
    keys = list(votes)
    top = max(votes.values())
    # Weighted votes that are equal on paper may differ in the last bits.
    winners = [key for key in keys if math.isclose(votes[key], top, rel_tol=1e-12)]
    return first[winners[prompt.choose(len(winners)) if len(winners) > 1 else 0]]
