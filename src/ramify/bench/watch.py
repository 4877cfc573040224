"""Looks over an engine's shoulder: what every forward read, and what of a step's time it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ramify.bench.machine import settle
from ramify.theory.step_cost import Step

if TYPE_CHECKING:
    from torch import Tensor

    from ramify.engine import Engine
    from ramify.engine.runner import Runner
    from ramify.models import Model


@dataclass(slots=True)
class Forward:
    """One forward of one model. seconds: of the model, its vocabulary projection included."""

    model: Model
    step: Step
    seconds: float


@dataclass(slots=True)
class Turn:
    """One step of the engine. seconds: all of it, without what watching took."""

    forwards: list[Forward] = field(default_factory=list)
    seconds: float = 0.0


class Watch:
    """Inside `with Watch(engine) as watch:` every engine step becomes a `Turn` in `watch.turns`.

    `watch.held` has the most cached positions of each model, in whole blocks. Watching takes some tens of
    microseconds a step, and on a GPU the host waits for every forward; afterwards the engine is as it was.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.perf_counter) -> None:
        self.engine, self.clock = engine, clock
        self.turns: list[Turn] = []
        self.held: dict[Model, int] = {}
        self._turn = Turn()
        self._own = 0.0
        self._covered: list[tuple[Any, str]] = []

    def __enter__(self) -> Watch:
        loop = self.engine.loop
        find = loop.runner

        def runner(*args: Any) -> Runner:
            found = find(*args)
            self._runner(found)
            return found

        self._cover(loop, "runner", runner)
        self._cover(self.engine, "step", self._step(self.engine.step))
        self._runner(loop.target)
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name in self._covered:
            delattr(owner, name)
        self._covered.clear()

    def _cover(self, owner: Any, name: str, function: Any) -> None:
        """Let the object's own attribute hide the method of its class."""
        setattr(owner, name, function)
        self._covered.append((owner, name))

    def _step(self, step: Callable[[], Any]) -> Callable[[], Any]:
        def watched() -> Any:
            self._turn, self._own = Turn(), 0.0
            began = self.clock()
            ended = step()
            self._turn.seconds = self.clock() - began - self._own
            if self._turn.forwards:
                self.turns.append(self._turn)
            return ended

        return watched

    def _runner(self, runner: Runner) -> None:
        if (runner, "forward") in self._covered:
            return
        forward, model, decoder = runner.forward, runner.model, runner.model.decoder
        logits = decoder.logits

        def watched(work: Any, *args: Any) -> Any:
            began = self.clock()
            found = forward(work, *args)
            settle(model.device)
            done = self.clock()
            size = runner.pool.block_size
            self._turn.forwards.append(Forward(model, read_step(work, size), done - began))
            self.held[model] = max(self.held.get(model, 0), runner.pool.used * size)
            self._own += self.clock() - done
            return found

        def projected(hidden_KD: Tensor) -> Tensor:
            began = self.clock()
            found: Tensor = logits(hidden_KD)
            settle(model.device)
            own = [forward for forward in self._turn.forwards if forward.model is model]
            if own:
                own[-1].seconds += self.clock() - began
            return found

        self._cover(runner, "forward", watched)
        if (decoder, "logits") not in self._covered:  # one model may play two roles
            self._cover(decoder, "logits", projected)


def read_step(work: Any, block_size: int) -> Step:
    """The counts of a forward over (context, ids, tree) that has just been done."""
    lengths = [(context.table.length, len(ids)) for context, ids, _ in work]
    blocks = set().union(*(context.table.blocks for context, _, _ in work))
    return Step(ids=sum(count for _, count in lengths), rows=len(lengths),
                pairs=sum(count * (end - count) + count * (count + 1) // 2 for end, count in lengths),
                cached=len(blocks) * block_size)
