"""Runs of one workload, plain and with drafts, in alternation: what was counted and how long it took."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from ramify.engine.costs import StepCosts
from ramify.errors import RamifyError
from ramify.types import Result, check

if TYPE_CHECKING:
    from ramify.api import LLM
    from ramify.engine.request import Request
    from ramify.engine.runner import Runner

Clock = Callable[[], float]
MEASURED = "measured"  # the length that the engine picks from measured times
TRUSTED = 3  # steps of one size that make its median worth showing


@dataclass(slots=True, frozen=True)
class Cell:
    """One way to draft. No verifier: plain decoding. length None: measured, or the depth of the tree."""

    verifier: str = ""
    length: int | None = None
    tree: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """Of `LLM.generate`."""
        return {"draft_length": self.length, "verifier": self.verifier, "tree": self.tree} if self.verifier else {}

    @property
    def name(self) -> str:
        """For people."""
        if not self.verifier:
            return "plain"
        return f"{self.verifier}, {f'tree {self.tree}' if self.tree else self.length or MEASURED}"


PLAIN = Cell()


@dataclass(slots=True, frozen=True, eq=False)
class Run:
    """Every prompt answered once, in order. verified: (drafted, accepted) of every row read with a draft."""

    seconds: float
    results: list[Result]
    verified: list[tuple[int, int]]

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return sum(result.candidates[0].tokens for result in self.results)

    @property
    def calls(self) -> int:
        """Target calls that each answer took part in, its prompt's included, over all answers."""
        return sum(result.usage.target.calls for result in self.results)


class Stopwatch(StepCosts):
    """Step costs that keep every measurement by the exact number of ids."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def note(self, runner: Runner, ids: int, seconds: float, drafts: bool = False) -> None:
        """A step took so long."""
        super().note(runner, ids, seconds, drafts)
        self.seen[runner.role][ids].append(seconds)

    def medians(self, role: str) -> dict[int, float]:
        """{ids: median seconds} of the sizes measured at least three times, ascending."""
        return {ids: median(seconds) for ids, seconds in sorted(self.seen[role].items()) if len(seconds) >= TRUSTED}


@dataclass(slots=True, frozen=True, eq=False)
class Workload:
    """What is asked, by how many at once (rows), and how answers are drawn."""

    prompts: list[Any]
    rows: int
    sampling: dict[str, Any]
    seed: int = 0
    clock: Clock = field(default=time.perf_counter)

    def __post_init__(self) -> None:
        check(self.rows >= 1, "at least 1 row", self.rows, "raise --rows")
        check(bool(self.prompts), "at least 1 prompt", "none", "give one")

    def run(self, llm: LLM, cell: Cell, repeat: int) -> Run:
        """Answer every prompt, always `rows` of them in the same steps as long as there are so many.

        Every repeat has seeds of its own, the same for all cells. Raises what a request raised.
        """
        make = llm.speculation({**cell.options, **self.sampling})[1] if cell.verifier else lambda: None
        search, params = llm.plan("sample", {"n": 1, **self.sampling})
        waiting = list(enumerate(self.prompts))[::-1]
        running: dict[Request, int] = {}
        results: dict[int, Result] = {}
        verified: list[tuple[int, int]] = []

        def note(event: str, **fields: Any) -> None:
            if event == "verify":
                verified.append((fields["drafted"], fields["accepted"]))

        began = self.clock()
        try:
            while waiting or running:
                while waiting and len(running) < self.rows:
                    index, prompt = waiting.pop()
                    request = llm.engine.submit(prompt, search, params, seed=self._seed(repeat, index), trace=note,
                                                speculation=make())
                    running[request] = index
                for request in llm.engine.step():
                    index, outcome = running.pop(request), request.outcome
                    if isinstance(outcome, RamifyError):
                        raise outcome
                    results[index] = outcome
        finally:
            for request in running:
                llm.engine.cancel(request)
        return Run(self.clock() - began, [results[index] for index in sorted(results)], verified)

    def _seed(self, repeat: int, index: int) -> int:
        return (self.seed * 1000 + repeat) * 1_000_000 + index


def alternate(llm: LLM, workload: Workload, cells: list[Cell], repeats: int,
              done: Callable[[Cell], None] = lambda cell: None) -> tuple[dict[Cell, list[Run]], Stopwatch]:
    """Every cell `repeats` times, by turns, and the seconds of every step in them.

    A first round of plain and drafted decoding warms up and leaves the prompts remembered by both models, so that
    the clock compares decoding.
    """
    for cell in (PLAIN, *(cell for cell in cells if cell is not PLAIN)):
        workload.run(llm, cell, -1)
        done(cell)
        if cell.verifier:
            break
    watch = llm.engine.loop.costs = Stopwatch()
    runs: dict[Cell, list[Run]] = {cell: [] for cell in cells}
    for repeat in range(repeats):
        for cell in cells:
            runs[cell].append(workload.run(llm, cell, repeat))
            done(cell)
    return runs, watch
