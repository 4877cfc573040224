"""Plain sampling: the baseline that every search is measured against."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ramify.engine import Extend, Fork, Prompt, Sequence
from ramify.search.needs import needs


@needs()
def sample(prompt: Prompt, *, n: int = 1) -> Generator[Any, Any, Sequence]:
    """Draw n independent answers and return the first.

    Law: the policy p itself. Cost: the prompt once, and the answers.
    """
    alive = yield Fork(prompt, n)
    yield Extend(alive)
    return alive[0]
