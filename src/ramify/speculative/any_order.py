"""Any-subset speculative decoding: one model drafts all blanks of a text at once and verifies itself. Lossless.

p is what the model says of a blank given what is filled in already, q what it says given the blanks before it, too. N
positions, V vocabulary. A causal model has no p: this is for models that were trained to fill any blank from any
others, and for joint laws given as a table. Pure functions. (ASSD, arXiv 2504.20456)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ramify.sampling.draws import DRAFT, Draws, Key
from ramify.speculative.proposal import Proposal, chain, normalised, require
from ramify.speculative.verify import Verdict, verify_token

Verify = Callable[[Proposal, Tensor, Draws, Key], Verdict]


class AnySubset(Protocol):
    """A joint law of N tokens, by its conditionals. One call is one forward of a model."""

    def __call__(self, tokens: Sequence[int], order: Sequence[int], seen: Sequence[int]) -> Tensor:
        """[len(seen), V], row i: the law of position order[seen[0] + i] given the tokens at order[: seen[i]].

        Tokens at other positions are not looked at. What a position is given decides its row: a model that says one
        thing when it is asked of many and another when it is asked of few has no law to be true to.
        """
        ...


@dataclass(slots=True, frozen=True)
class Filled:
    """tokens: of all N positions. calls: forwards that it took."""

    tokens: list[int]
    calls: int


def fill(model: AnySubset, tokens: Sequence[int], order: Sequence[int], known: int, draws: Draws, key: Key, *,
         length: int = 5, verify: Verify = verify_token) -> Filled:
    """Draw the blanks order[known:] from the joint law given the tokens at order[:known].

    A round drafts up to `length` blanks from p, each as if it were alone, in one call; a second call has their q, and
    that of the blank behind them. The first one's q is its p, so it always stands, and what follows the accepted ones
    is q's: two calls give two tokens or more. The last blank takes one. Law: that of q, blank after blank, which is
    the joint law for every length, and for every order if the model's conditionals belong to one. Cost: never more
    calls than blanks.

    Args:
        model: the joint law.
        tokens: [N]; what stands at a blank is not read.
        order: the positions in the order in which they are decided.
        known: how many of them are given.
        draws, key: the random source, and the name of this text in it.
        length: blanks drafted at once; the token that follows them comes on top.
        verify: any lossless rule for chains.

    Raises:
        ValueError: an order that is not one of all positions, a length below 1, or more known than there are.
    """
    size = len(tokens)
    require(sorted(order) == list(range(size)), f"an order of {size} positions", f"{list(order)}", "name each one once")
    require(length >= 1 and 0 <= known <= size, f"a length of 1 or more and 0 to {size} known", f"{length}, {known}",
            "change them")
    found, calls = list(tokens), 0
    while known < size:
        at = key._replace(position=key.position + known)
        ahead = min(length, size - known - 1)
        p_NV = model(found, order, [known] * max(1, ahead))
        keys = [at._replace(purpose=DRAFT).part(turn) for turn in range(len(p_NV))]
        decided = _put(found, order[known:], draws.categorical(p_NV, keys))
        calls += 1
        if ahead:
            q_NV = torch.cat([p_NV[:1], model(found, order, range(known + 1, known + ahead + 1))])
            draft = chain(decided, p_NV)
            decided = _put(found, order[known:], verify(draft, q_NV, draws, at).text(draft))
            calls += 1
        known += len(decided)
    return Filled(found, calls)


def _put(found: list[int], places: Sequence[int], tokens: list[int]) -> list[int]:
    """Write the tokens at the first of the places, and hand them back."""
    for place, token in zip(places, tokens, strict=False):
        found[place] = token
    return tokens


def fill_in_turn(model: AnySubset, tokens: Sequence[int], order: Sequence[int], known: int, draws: Draws,
                 key: Key) -> Filled:
    """The same law, one call per blank: what `fill` has to beat."""
    found = list(tokens)
    for at in range(known, len(order)):
        [found[order[at]]] = draws.categorical(model(found, order, [at]), [key._replace(position=key.position + at)])
    return Filled(found, len(order) - known)


class Joint:
    """A joint law given as a table: mass_V...V, one axis per position. Conditionals by summation; O(V^N) a row."""

    def __init__(self, mass: Tensor) -> None:
        self.mass = mass / mass.sum()

    def __call__(self, tokens: Sequence[int], order: Sequence[int], seen: Sequence[int]) -> Tensor:
        """See `AnySubset`."""
        first, size = seen[0], self.mass.dim()
        rows = []
        for row, given in enumerate(seen):
            place = order[first + row]
            at = [tokens[axis] if axis in order[:given] else slice(None) for axis in range(size)]
            left = self.mass[tuple(at)]
            free = [axis for axis in range(size) if axis not in order[:given]]
            others = [axis for axis, position in enumerate(free) if position != place]
            rows.append(normalised(left.sum(others) if others else left))
        return torch.stack(rows)
