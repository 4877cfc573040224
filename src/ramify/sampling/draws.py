"""Every random choice in Ramify goes through `Draws`.

A draw is keyed by (stream, position, purpose). A stream is a 64-bit number made from the request's seed
and the candidate's path of forks, so a result does not depend on batch neighbours, width or arrival
order. `KeyedDraws` hashes keys to uniform numbers; `ramify.exact` replaces it by a source that visits
every outcome with its probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np
import torch

TOKEN, TIE, ACCEPT, RESIDUAL, CHOICE, DRAFT, GUESS = range(7)  # purposes

FEW = 16  # keys that are hashed sooner one by one

_MASK = (1 << 64) - 1


class Key(NamedTuple):
    """Names one draw: who (stream), where (position), what for (purpose)."""

    stream: int
    position: int
    purpose: int = TOKEN

    def part(self, turn: int) -> Key:
        """The key of one of several draws that a decision is made of."""
        # Not a stream of its own: that could be the stream of a child.
        return self._replace(purpose=self.purpose + 1000 * (turn + 1))


class Draws(Protocol):
    """The random source. Probabilities need not be normalised; a zero is never drawn."""

    def categorical(self, probs_RV: torch.Tensor, keys: Sequence[Key]) -> list[int]:
        """One index per row, with probability proportional to the row."""
        ...

    def guess(self, probs_RV: torch.Tensor, keys: Sequence[Key]) -> list[int]:
        """What `categorical` is likely to give under these keys, if its probabilities are near these.

        A prediction, never an outcome: the keys stay unused.
        """
        ...

    def bernoulli(self, probability: float, key: Key) -> bool:
        """True with the given probability."""
        ...

    def uniform_index(self, count: int, key: Key) -> int:
        """One of 0..count-1."""
        ...

    def without_replacement(self, probs_V: torch.Tensor, count: int, key: Key) -> list[int]:
        """`count` distinct indices, each drawn in proportion to what is left."""
        ...


def mix(*words: int) -> int:
    """A 64-bit hash of integers (splitmix64 finaliser, chained)."""
    state = 0
    for word in words:
        state = (state + (word & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def uniform(key: Key) -> float:
    """The number in [0, 1) that belongs to a key; 53 random bits."""
    return (mix(*key) >> 11) * 2.0**-53


def uniforms(keys: Sequence[Key]) -> np.ndarray:
    """`uniform` of every key, in a few passes over all of them."""
    if len(keys) < FEW:
        return np.array([uniform(key) for key in keys])
    state_R = np.zeros(len(keys), np.uint64)
    for word_R in np.fromiter(chain.from_iterable(keys), np.uint64, 3 * len(keys)).reshape(-1, 3).T:
        state_R += word_R + np.uint64(0x9E3779B97F4A7C15)
        state_R = (state_R ^ (state_R >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state_R = (state_R ^ (state_R >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state_R ^= state_R >> np.uint64(31)
    return (state_R >> np.uint64(11)) * 2.0**-53


def invert_cdf(probs_RV: torch.Tensor, uniforms_R: np.ndarray) -> torch.Tensor:
    """The index at which each row's cumulative sum passes uniform * total.

    A fixed token order and one uniform per row mean that rounding of the logits rarely changes a draw.
    """
    cdf_RV = probs_RV.cumsum(-1)
    total_R1 = cdf_RV[:, -1:]
    aim_R1 = torch.from_numpy(uniforms_R).to(cdf_RV)[:, None] * total_R1
    # A product that rounds up to the total would fall off the end.
    below_R1 = torch.nextafter(total_R1, torch.zeros_like(total_R1))
    return torch.searchsorted(cdf_RV, torch.minimum(aim_R1, below_R1), right=True)[:, 0]


class KeyedDraws:
    """Counter-based random numbers: a draw is a pure function of its key and its distribution."""

    def categorical(self, probs_RV: torch.Tensor, keys: Sequence[Key]) -> list[int]:
        """See `Draws`. One pass over the probabilities for all rows."""
        picks: list[int] = invert_cdf(probs_RV, uniforms(keys)).tolist()
        return picks

    def guess(self, probs_RV: torch.Tensor, keys: Sequence[Key]) -> list[int]:
        """See `Draws`. The same uniform numbers find nearby places in similar distributions."""
        return self.categorical(probs_RV, keys)

    def bernoulli(self, probability: float, key: Key) -> bool:
        """See `Draws`."""
        return uniform(key) < probability

    def uniform_index(self, count: int, key: Key) -> int:
        """See `Draws`. The bias of scaling 53 bits is below count * 2**-53."""
        return int(uniform(key) * count)

    def without_replacement(self, probs_V: torch.Tensor, count: int, key: Key) -> list[int]:
        """See `Draws`. Sequential draws, each under its own sub-key."""
        left_V, picks = probs_V.clone(), []
        for turn in range(count):
            [pick] = self.categorical(left_V[None], [key.part(turn)])
            picks.append(pick)
            left_V[pick] = 0
        return picks
