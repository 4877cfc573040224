"""The complete output law of a program that draws through `Draws`: run it along every branch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, TypeVar

import torch

from ramify.engine import Engine, Fork, Prompt, Rewind
from ramify.engine.request import Request, Search
from ramify.models import Model
from ramify.sampling.draws import GUESS, Key
from ramify.speculative import Speculation
from ramify.types import Result, SamplingParams, check

Outcome = TypeVar("Outcome", bound=Hashable)
Path = tuple[int, ...]

WIDTH = 128  # paths that run together, in one engine


class Branches:
    """A random source that walks one path through the tree of all outcomes.

    path: what every draw gives; behind its end each gives the first outcome that is possible.
    mass: the probability of the path. left: the paths that branch off behind its end.
    A key that is used twice is an `AssertionError`: keyed random numbers would be equal there, where the law
    takes them for independent. So is a path that does not repeat itself.
    """

    def __init__(self, path: Path = ()) -> None:
        self.mass, self.left = 1.0, list[Path]()
        self._path, self._depth = list(path), 0
        self._keys: set[Key] = set()
        self._guesses = 0

    def take(self, weights: Sequence[float], key: Key) -> int:
        """The next index of the path, drawn in proportion to the weights."""
        if key in self._keys:
            raise AssertionError(f"{key} is drawn from twice")
        self._keys.add(key)
        if self._depth == len(self._path):
            first, *others = [index for index, weight in enumerate(weights) if weight > 0]
            self.left += [(*self._path, index) for index in others]
            self._path.append(first)
        index = self._path[self._depth]
        if index >= len(weights) or weights[index] <= 0:
            raise AssertionError(f"the draw under {key} came out differently on the same path")
        self._depth += 1
        self.mass *= weights[index] / sum(weights)
        return index

    def categorical(self, probs_RV: torch.Tensor, keys: Sequence[Key]) -> list[int]:
        """See `ramify.sampling.draws.Draws`."""
        return [self.take(row, key) for row, key in zip(probs_RV.double().tolist(), keys, strict=True)]

    def guess(self, probs_RV: torch.Tensor, keys: Sequence[Key]) -> list[int]:
        """See `ramify.sampling.draws.Draws`. Every guess is possible, whatever was drawn or guessed before."""
        self._guesses += 1
        return self.categorical(probs_RV, [key._replace(purpose=GUESS).part(self._guesses) for key in keys])

    def bernoulli(self, probability: float, key: Key) -> bool:
        """See `ramify.sampling.draws.Draws`."""
        return bool(self.take([1 - probability, probability], key))

    def uniform_index(self, count: int, key: Key) -> int:
        """See `ramify.sampling.draws.Draws`."""
        return self.take([1.0] * count, key)

    def without_replacement(self, probs_V: torch.Tensor, count: int, key: Key) -> list[int]:
        """See `ramify.sampling.draws.Draws`."""
        left, picks = probs_V.double().tolist(), list[int]()
        for turn in range(count):
            picks.append(self.take(left, key.part(turn)))
            left[picks[-1]] = 0.0
        return picks


def enumerate_law(run: Callable[[Branches], Outcome]) -> dict[Outcome, float]:
    """The distribution of `run(source)`, which draws only from `source`. Costs one run per path."""
    law: dict[Outcome, float] = {}
    paths: list[Path] = [()]
    while paths:
        source = Branches(paths.pop())
        outcome = run(source)
        law[outcome] = law.get(outcome, 0.0) + source.mass
        paths += source.left
    return law


def chosen_tokens(result: Result) -> tuple[int, ...]:
    """The token ids of the answer."""
    return tuple(next(row.token_ids for row in result.candidates if row.id == result.chosen))


def output_law(model: Model, prompt: str, search: Callable[[Prompt], Search], *, engine: Engine | None = None,
               outcome: Callable[[Result], Outcome] = chosen_tokens,  # type: ignore[assignment]
               speculation: Callable[[], Speculation | None] = lambda: None, width: int = WIDTH,
               most: int = 1_000_000, **sampling: Any) -> dict[Outcome, float]:
    """The law of the answer (its token ids) that `search` returns on the real engine.

    Costs one request per path: for n candidates over m possible answers, at least m ** n.

    Raises:
        OptionError: more than `most` paths.

    Args:
        model: a tabular model.
        search: maps a prompt to a started search, such as `lambda prompt: best_of_n(prompt, ...)`.
        engine: the engine to run on; its random source is replaced. Default: one with blocks of two tokens.
        outcome: what to tell of each result.
        speculation: makes one for each request.
        width: paths that run together.
        most: paths to walk before giving up.
        sampling: fields of `SamplingParams`.
    """
    engine = engine or Engine(model, capacity=8192, block_size=2)
    fan = engine.loop.draws = _Fan()
    params, law = SamplingParams(**sampling), dict[Outcome, float]()
    paths: list[Path] = [()]
    running, started = dict[Request, Branches](), 0
    while paths or running:
        check(started <= most, f"a law of at most {most:,} paths", "more", "lower n, the length or the vocabulary")
        while paths and len(running) < width:
            source = Branches(paths.pop())
            # A seed of its own keeps the streams of requests that run together apart.
            request = engine.submit(prompt, fan.watch(search, source), params, seed=started,
                                    speculation=speculation())
            fan.sources[request.root.stream] = running[request] = source
            started += 1
        for request in engine.step():
            if request.error is not None:
                raise request.error
            assert request.result is not None
            source, told = running.pop(request), outcome(request.result)
            law[told] = law.get(told, 0.0) + source.mass
            paths += source.left
            for sequence in request.sequences:
                fan.sources.pop(sequence.stream, None)
    return law


class _Fan:
    """The random source of an engine whose requests have one each, found by the stream that draws."""

    def __init__(self) -> None:
        self.sources: dict[int, Branches] = {}

    def watch(self, search: Callable[[Prompt], Search], source: Branches) -> Callable[[Prompt], Search]:
        """The same search; the streams of its candidates draw from `source`."""

        def watched(prompt: Prompt) -> Generator[Any, Any, Any]:
            inner, reply = search(prompt), None
            while True:
                try:
                    command = inner.send(reply)
                except StopIteration as stop:
                    return stop.value
                reply = yield command
                if isinstance(command, (Fork, Rewind)):  # these give streams to candidates
                    named = reply if isinstance(command, Fork) else command.sequences
                    self.sources.update((sequence.stream, source) for sequence in named)

        return watched

    def categorical(self, probs_RV: torch.Tensor, keys: Sequence[Key]) -> list[int]:
        """See `ramify.sampling.draws.Draws`."""
        rows = zip(probs_RV.double().tolist(), keys, strict=True)
        return [self.sources[key.stream].take(row, key) for row, key in rows]

    def guess(self, probs_RV: torch.Tensor, keys: Sequence[Key]) -> list[int]:
        """See `ramify.sampling.draws.Draws`."""
        rows = zip(probs_RV, keys, strict=True)
        return [self.sources[key.stream].guess(row_V[None], [key])[0] for row_V, key in rows]

    def bernoulli(self, probability: float, key: Key) -> bool:
        """See `ramify.sampling.draws.Draws`."""
        return self.sources[key.stream].bernoulli(probability, key)

    def uniform_index(self, count: int, key: Key) -> int:
        """See `ramify.sampling.draws.Draws`."""
        return self.sources[key.stream].uniform_index(count, key)

    def without_replacement(self, probs_V: torch.Tensor, count: int, key: Key) -> list[int]:
        """See `ramify.sampling.draws.Draws`."""
        return self.sources[key.stream].without_replacement(probs_V, count, key)
