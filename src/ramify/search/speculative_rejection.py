"""Speculative Rejection: Best-of-N that drops weak candidates while they are still short."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

from ramify.engine import Drop, Extend, Fork, Group, Prompt, Reward, Score, Sequence
from ramify.search.needs import needs
from ramify.types import check


@needs("forks", "partial_scores")
def speculative_rejection(prompt: Prompt, *, reward: Reward, n: int = 16, alpha: float = 0.5, first: int | None = None,
                          chunk: int | None = None) -> Generator[Any, Any, Sequence]:
    """Grow n candidates, and each time their tokens fill the memory drop the fraction alpha with the lowest scores.

    The memory is n * `first` answer tokens, so the first cut comes at length `first` (default: a quarter of
    max_tokens, or less where the cache is smaller) and cuts follow at lengths that grow by 1 / (1 - alpha).
    `chunk` cuts every so many tokens instead. Of m candidates, finished ones included, ceil((1 - alpha) m)
    stay, ties at the cut drawn uniformly; a finished candidate that stayed once is remembered.

    Law: no closed form; alpha = 0 is Best-of-n, draw for draw, and so is any alpha in reward when partial
    scores rank as final rewards do. Cost: about (1 + alpha K) n * `first` tokens for K cuts, where
    Best-of-n pays n times the answer length. Use it when partial scores predict the reward.
    (arXiv 2410.20290)
    """
    check(0 <= alpha < 1, "alpha in [0, 1)", alpha, "0 drops nothing, 0.5 half")
    check(first is None or first >= 1, "first of at least 1 token", first, "raise it")
    check(chunk is None or chunk >= 1, "chunk of at least 1 token", chunk, "raise it")
    check(first is None or chunk is None, "either first or chunk", "both", "leave one out")
    alive = everyone = yield Fork(prompt, n)
    memory = min(n * (first or math.ceil(prompt.params.max_tokens / 4)), prompt.capacity - len(prompt.ids))
    ended = alive.of([])
    while alive.unfinished:
        stay = keep(len(alive), alpha)
        # Where nobody would be dropped, there is nothing to stop for.
        yield Extend(alive.unfinished, tokens=None if stay == len(alive) else chunk or room(alive, memory))
        scores = yield Score(alive, reward)
        alive, lost = alive.split_top(scores, stay)
        ended += [sequence for sequence in alive.finished if sequence not in ended]
        yield Drop([sequence for sequence in lost if sequence not in ended])
    return ended.of(sequence for sequence in everyone if sequence in ended).best()


def keep(count: int, alpha: float) -> int:
    """ceil((1 - alpha) count), where 0.7 of 10 is 7 whatever the floating point says."""
    return max(1, count - math.floor(alpha * count + 1e-9))


def room(alive: Group, memory: int) -> int:
    """Tokens that every unfinished candidate may grow until all together fill the memory; at least 1."""
    held = sum(len(sequence.tokens) for sequence in alive)
    return max(1, (memory - held) // len(alive.unfinished))
