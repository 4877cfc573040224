"""TreeBoN: Best-of-N over a tree that branches from the prefixes with the best partial scores."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

from ramify.engine import Drop, Extend, Fork, Prompt, Reward, Score, Sequence
from ramify.search.needs import needs
from ramify.types import check


@needs("forks", "partial_scores")
def treebon(prompt: Prompt, *, reward: Reward, guide: Reward | None = None, n: int = 16, layers: int = 4,
            children: int = 4, segment: int | None = None) -> Generator[Any, Any, Sequence]:
    """Grow n candidates layer by layer; after each layer branch the best n / children into `children` each.

    A layer is `segment` tokens (default: max_tokens / layers), the last one runs to the end. Between layers
    `guide` scores the partial answers (default: the reward itself; TreeBoN uses an implicit reward with
    weights 1/(k+1)); survivors are chosen over the whole layer. A finished candidate leaves the tree, takes
    no place in it and competes again at the end, where `reward` picks the best, ties uniformly.

    Law: no closed form; layers = 1 is Best-of-n draw for draw, children = 1 is Best-of-n in law. Cost: at
    most n * segment generated tokens per layer, as Best-of-n; the guide reads each token once.
    Use it for long answers whose beginning tells. (arXiv 2410.16033)
    """
    check(layers >= 1, "at least 1 layer", layers, "1 is Best-of-n")
    check(1 <= children <= n, "children between 1 and n", children, "1 is Best-of-n in law")
    check(segment is None or segment >= 1, "a segment of at least 1 token", segment, "raise it")
    segment = segment or math.ceil(prompt.params.max_tokens / layers)
    alive = yield Fork(prompt, n)
    ended = alive.of([])
    for _ in range(layers - 1):
        yield Extend(alive, tokens=segment)
        ended += alive.finished
        growing = alive.unfinished
        scores = yield Score(growing, guide or reward)
        best, lost = growing.split_top(scores, min(len(growing), max(1, n // children)))
        yield Drop(lost)
        alive = yield Fork(best, children)
        yield Drop(best)  # their children carry on
    yield Extend(alive)
    ended += alive
    yield Score(ended, reward)
    return ended.best()
