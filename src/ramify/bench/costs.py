"""What steps of this model cost on this machine: a few seconds of small searches, and a fit to their steps.

`engine/costs.py` measures the steps of whatever runs, by their ids, and decides with them how long to draft. Here
steps are run for the sake of measuring, and told apart by what they read as well, so that the cost of a search can
be told before it runs, or without the others that shared the machine while it did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from ramify.bench.engine import Workload, random_texts
from ramify.bench.watch import Turn, Watch
from ramify.engine import Engine, Extend, Fork, Prompt, Score, Sequence
from ramify.theory.step_cost import Step, StepCost, fastest, fit_step_cost, relative_errors
from ramify.types import SamplingParams

if TYPE_CHECKING:
    from ramify.api import LLM
    from ramify.engine import Reward
    from ramify.models import Model

BUDGET = 4.0  # seconds after which no further repeat begins
ROUNDS = 3
TOKENS = 5  # of every candidate: each is a step
SHORTEST = 8  # tokens of a prompt, beyond the chat template's
CLOSING = 32  # more tokens than a chat template ends a turn with, for rewards


@dataclass(slots=True, frozen=True)
class Probe:
    """A search to measure: `rows` candidates of a prompt of `length` tokens, `given` tokens of each already there."""

    length: int
    rows: int
    given: int = 0


# Rows and positions, few and many; what all share, and what each has for itself.
GRID = (Probe(24, 1), Probe(24, 64), Probe(256, 4), Probe(256, 32), Probe(24, 16, given=96))


@dataclass(slots=True, frozen=True, eq=False)
class Costs:
    """Step costs by model, and how well they tell the steps they come from: |predicted / measured - 1|."""

    by_model: dict[Model, StepCost]
    median_error: float
    worst_error: float

    def seconds(self, turns: Iterable[Turn]) -> float:
        """The idealized runtime of engine steps: what they take with the machine to themselves.

        A model that was not measured counts as it ran.
        """
        return sum(self.by_model[forward.model].seconds(forward.step) if forward.model in self.by_model
                   else forward.seconds for turn in turns for forward in turn.forwards)


class IdealClock:
    """Goes on with every watched step by its price with the machine to itself: a clock for idealized runtime.

    It takes the watch's turns as it goes.
    """

    def __init__(self, costs: Costs, watch: Watch) -> None:
        self.costs, self.watch = costs, watch
        self._seconds = 0.0

    def __call__(self) -> float:
        """Seconds since the first step."""
        self._seconds += self.costs.seconds(self.watch.turns)
        self.watch.turns.clear()
        return self._seconds


def measure_costs(llm: LLM, reward: Reward | None = None, *, budget: float = BUDGET,
                  clock: Callable[[], float] = time.perf_counter) -> Costs:
    """Costs of the target's steps, and of those of the models that `reward` reads with (default: none).

    An engine of its own runs every search of a small grid, made shorter where the context is, until `budget` seconds
    are over, but at least once. A step's cost is that of the whole engine step, drawing tokens and Python included, of
    the fastest repeat.
    """
    grid = [_fitting(probe, llm.model) for probe in GRID]
    room = max(probe.rows * (probe.length + probe.given + TOKENS + CLOSING) for probe in grid)
    engine = Engine(llm.model, capacity=room, prefix_cache=False, dedupe=False)
    for probe in grid[:2]:  # first calls are slower: kernels load, memory is touched
        _run(engine, probe, reward)
    seen: list[tuple[Model, Step, float]] = []
    began = clock()
    for _ in range(ROUNDS):
        for probe in grid:
            with Watch(engine, clock) as watch:
                _run(engine, probe, reward)
            seen += [(turn.forwards[0].model, turn.forwards[0].step, turn.seconds) for turn in watch.turns
                     if len(turn.forwards) == 1]
        if clock() - began > budget:
            break
    return fit(seen)


def fit(seen: list[tuple[Model, Step, float]]) -> Costs:
    """A cost for every model among measured steps."""
    by_model, errors = {}, []
    for model in dict.fromkeys(model for model, _, _ in seen):
        took = fastest((step, seconds) for other, step, seconds in seen if other is model)
        by_model[model] = fit_step_cost(list(took), list(took.values()))
        errors += [abs(error) for error in relative_errors(by_model[model], list(took), list(took.values()))]
    return Costs(by_model, median(errors), max(errors))


def _fitting(probe: Probe, model: Model) -> Probe:
    """With a prompt that holds the chat template, and answers that the context holds."""
    least = len(model.tokenizer.encode_prompt("a")) + SHORTEST
    positions = model.decoder.config.max_positions
    given = min(probe.given, positions // 4)
    return replace(probe, given=given, length=min(max(probe.length, least), positions - given - TOKENS - CLOSING))


def _run(engine: Engine, probe: Probe, reward: Reward | None) -> None:
    tokenizer = engine.target.tokenizer
    [text] = random_texts(Workload("probe", 1, probe.length, probe.rows, TOKENS), tokenizer, 0)

    def search(prompt: Prompt) -> Generator[Any, Any, Sequence]:
        alive = yield Fork(prompt, probe.rows)
        for sequence in alive:
            sequence.tokens += tokenizer.encode("a")[-1:] * probe.given
        yield Extend(alive)
        if reward is not None:
            yield Score(alive, reward)
        return alive[0]

    engine.result(text, search, SamplingParams(max_tokens=probe.given + TOKENS, ignore_eos=True))
