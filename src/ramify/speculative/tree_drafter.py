"""Draft trees from a model, all candidates together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ramify.errors import OptionError
from ramify.sampling.draws import Draws, Key
from ramify.speculative.drafter import Ask, Look
from ramify.speculative.proposal import Proposal
from ramify.speculative.trees import (
    Growth,
    grow_beam,
    grow_independent,
    grow_likely,
    grow_without_replacement,
    gumbel,
)

if TYPE_CHECKING:
    from ramify.models import Model

Grow = Callable[[int, Draws, Key], Growth]  # a tree of the depth that is asked for
Shape = tuple[Grow, int, int]  # how to grow it, its depth and its most nodes

MOST = 256  # nodes of a tree


class TreeDrafter:
    """Trees of one shape, cut to the depth worth drafting. One draft forward per level for all.

    Equal if model and shape are, so that requests are drafted together.

    Args:
        model: the draft model.
        shape: as in `SpeculationParams.tree`.

    Raises:
        OptionError: a shape that cannot be read, or of more than 256 nodes.
    """

    def __init__(self, model: Model, shape: str) -> None:
        self.model: Model | None = model
        self.shape = shape
        self._grow, self.depth, self._nodes = parse_shape(shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TreeDrafter) and (self.model, self.shape) == (other.model, other.shape)

    def __hash__(self) -> int:
        return hash((id(self.model), self.shape))

    def nodes(self, most: int) -> int:
        """See `Drafter`."""
        return self._nodes

    def propose(self, asks: Sequence[Ask], look: Look, draws: Draws) -> list[Proposal]:
        """See `Drafter`."""
        growths = [self._grow(min(ask.most, self.depth), draws, ask.key) for ask in asks]
        wanted = {at: next(growth) for at, growth in enumerate(growths)}
        done: dict[int, Proposal] = {}
        while wanted:
            seen = look([(asks[at], paths) for at, paths in wanted.items()])
            for at, rows in zip(list(wanted), seen, strict=True):
                try:
                    wanted[at] = growths[at].send(rows.p_RV)
                except StopIteration as stop:
                    done[at] = stop.value
                    del wanted[at]
        return [done[at] for at in range(len(asks))]


def parse_shape(text: str) -> Shape:
    """See `SpeculationParams.tree`. Raises `OptionError`."""
    kind, _, sizes = text.rpartition(":")
    if kind in ("", "iid", "beam", "likely") and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
        numbers = [int(size) for size in sizes.split("x")]
        if kind in ("", "iid"):
            return _checked(text, _branching(numbers, kind == "iid"), len(numbers), _count(numbers))
        if len(numbers) == 2:
            width, depth = numbers
            grow = _beam(width) if kind == "beam" else _likely(width)
            return _checked(text, grow, depth, width + (depth - 1) * width * (1 if kind == "beam" else width))
    raise OptionError('a tree such as "3x2x1", "iid:3x2x1", "beam:4x5" or "likely:4x5"', repr(text), "write it so")


def _checked(text: str, grow: Grow, depth: int, nodes: int) -> Shape:
    if nodes > MOST:
        raise OptionError(f"a tree of at most {MOST} nodes", f"{nodes} in {text!r}", "make it narrower")
    return grow, depth, nodes


def _count(branching: Sequence[int]) -> int:
    nodes = level = 1
    for width in branching:
        level *= width
        nodes += level
    return nodes - 1


def _branching(numbers: list[int], independent: bool) -> Grow:
    tree = grow_independent if independent else grow_without_replacement
    return lambda depth, draws, key: tree(numbers[:depth], draws, key)


def _beam(width: int) -> Grow:
    return lambda depth, draws, key: grow_beam(width, depth, gumbel(key))


def _likely(width: int) -> Grow:
    return lambda depth, draws, key: grow_likely(width, depth, width * depth)
