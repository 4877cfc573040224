"""Search methods: generators that yield commands and read like their paper's pseudocode.

`METHODS` maps a name to its generator function. Write your own as a function of (prompt, *, options) and
pass it as `method=`; nothing needs registering.
"""

from collections.abc import Callable
from typing import Any

from ramify.search.best_of_n import best_of_n
from ramify.search.sample import sample
from ramify.search.self_consistency import self_consistency
from ramify.search.speculative_rejection import speculative_rejection
from ramify.search.treebon import treebon

METHODS: dict[str, Callable[..., Any]] = {
    search.__name__: search for search in (best_of_n, sample, self_consistency, speculative_rejection, treebon)
}

__all__ = ["METHODS", "best_of_n", "sample", "self_consistency", "speculative_rejection", "treebon"]
