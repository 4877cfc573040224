"""What a method asks of the backend that runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

Need = Literal["forks", "logprobs", "full_distribution", "partial_scores"]
F = TypeVar("F", bound=Callable[..., object])


def needs(*what: Need) -> Callable[[F], F]:
    """Mark a search with its needs; a backend that lacks one refuses it before the first token."""

    def mark(search: F) -> F:
        search.needs = frozenset(what)  # type: ignore[attr-defined]
        return search

    return mark
