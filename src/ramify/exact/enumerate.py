"""The complete output law of a program that draws through `Draws`: replay it along every branch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch

from ramify.engine import Engine
from ramify.models import Model
from ramify.sampling.draws import Key
from ramify.types import SamplingParams

Outcome = TypeVar("Outcome", bound=Hashable)


class Branches:
    """A random source that walks a tree of outcomes: one path per run, every path once.

    `mass` is the probability of the current path. A key that is used twice in one run is an `AssertionError`:
    keyed random numbers would be equal there, where the law takes them for independent.
    """

    def __init__(self) -> None:
        self._path: list[tuple[list[tuple[int, float]], int]] = []
        self._begin()

    def _begin(self) -> None:
        self._depth, self.mass = 0, 1.0
        self._keys: set[Key] = set()

    def advance(self) -> bool:
        """Move on to the next path. False when all have been walked."""
        while self._path:
            outcomes, at = self._path.pop()
            if at + 1 < len(outcomes):
                self._path.append((outcomes, at + 1))
                self._begin()
                return True
        return False

    def _branch(self, weights: Sequence[float], key: Key) -> int:
        assert key not in self._keys, f"the key {key} is drawn from twice"
        self._keys.add(key)
        if self._depth == len(self._path):
            total = sum(weights)
            self._path.append(([(index, weight / total) for index, weight in enumerate(weights) if weight > 0], 0))
        outcomes, at = self._path[self._depth]
        self._depth += 1
        index, probability = outcomes[at]
        self.mass *= probability
        return index

    def categorical(self, probs_RV: torch.Tensor, keys: Sequence[Key]) -> list[int]:
        """See `ramify.sampling.draws.Draws`."""
        return [self._branch(row, key) for row, key in zip(probs_RV.double().tolist(), keys, strict=True)]

    def bernoulli(self, probability: float, key: Key) -> bool:
        """See `ramify.sampling.draws.Draws`."""
        return bool(self._branch([1 - probability, probability], key))

    def uniform_index(self, count: int, key: Key) -> int:
        """See `ramify.sampling.draws.Draws`."""
        return self._branch([1.0] * count, key)

    def without_replacement(self, probs_V: torch.Tensor, count: int, key: Key) -> list[int]:
        """See `ramify.sampling.draws.Draws`."""
        left, picks = probs_V.double().tolist(), []
        for turn in range(count):
            picks.append(self._branch(left, key._replace(purpose=key.purpose + 1000 * (turn + 1))))
            left[picks[-1]] = 0.0
        return picks


def enumerate_law(run: Callable[[Branches], Outcome]) -> dict[Outcome, float]:
    """The distribution of `run(source)`, which draws only from `source`.

    Costs one run per path: for n candidates over m possible answers, m ** n runs.
    """
    law: dict[Outcome, float] = {}
    source = Branches()
    while True:
        outcome = run(source)
        law[outcome] = law.get(outcome, 0.0) + source.mass
        if not source.advance():
            return law


def output_law(model: Model, prompt: str, search: Callable[[Any], Any], **sampling: Any) -> dict[tuple[int, ...], float]:
    """The law of the answer (token ids) that `search` returns on the real engine.

    Args:
        model: a tabular model.
        search: maps a prompt to a started search, such as `lambda prompt: best_of_n(prompt, ...)`.
        sampling: fields of `SamplingParams`.
    """
    params = SamplingParams(**sampling)
    engine = Engine(model, capacity=4096, block_size=2, step_tokens=64)

    def run(source: Branches) -> tuple[int, ...]:
        engine.loop.draws = source
        result = engine.result(prompt, search, params)
        return tuple(next(row.token_ids for row in result.candidates if row.id == result.chosen))

    return enumerate_law(run)
