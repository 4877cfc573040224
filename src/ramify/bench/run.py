"""Runs methods over questions: one row per answer, written as it ends, so that a next run does only what is missing."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ramify.engine import Fork, Prompt, Reward, Score, Sequence
from ramify.errors import DataError, RamifyError
from ramify.trace import Row
from ramify.types import ROLES, Result, SamplingParams

if TYPE_CHECKING:
    from ramify.api import LLM
    from ramify.bench.questions import Question
    from ramify.engine.request import Request

ROWS = 256  # candidates in flight, as in `LLM.stream`
Results = dict[str, dict[int, Row]]  # rows by cell and by question


@dataclass(slots=True, frozen=True, eq=False)
class Cell:
    """One method at one width. The pool is Best-of-N drawn afresh: what the methods are compared with."""

    method: str
    n: int
    options: dict[str, Any] = field(default_factory=dict)
    pool: bool = False

    @property
    def key(self) -> str:
        """Names the cell in a file of results."""
        own = f" {json.dumps(self.options, sort_keys=True)}" if self.options else ""
        return f"{self.method} n={self.n}{own}{' pool' if self.pool else ''}"

    def seed(self, seed: int, index: int) -> int:
        """Every question has a seed of its own, the same for all methods; the pool's draws are independent."""
        return (2 * seed + self.pool) * 1_000_000 + index


def measure(llm: LLM, cells: Iterable[Cell], questions: list[Question], *, seed: int, sampling: dict[str, Any],
            done: Results, write: Callable[[Row], None], ideal: Callable[[], float] | None = None) -> None:
    """Fill `done` with a row for every cell and question; each new row goes to `write` too.

    `ideal` is a clock of idealized runtime (`costs.IdealClock`) that rows are timed by beside the wall's.

    Answers of methods that do not score, or score by another reward, are judged by the model's own reward
    afterwards; that costs the method nothing in its ledger and the row says `judged`.

    Raises:
        OptionError: an option that a method does not take, before the first answer.
        DataError: a row in `done` that answers another question.
        RamifyError: whatever a request raised; the rows so far are written.
    """
    plans = [(cell, *llm.plan(cell.method, {"n": cell.n, **cell.options, **sampling})) for cell in cells]
    for cell, search, params in plans:
        rows = done.setdefault(cell.key, {})
        _check(rows, questions, cell)
        missing = [(index, question) for index, question in enumerate(questions) if index not in rows]
        for row in _answers(llm, cell, search, params, missing, seed, (time.perf_counter, ideal or _unknown)):
            rows[row["question"]] = row
            write(row)
        unjudged = [row for row in rows.values() if row["reward"] is None]
        if llm.reward is not None and unjudged:
            for row in _judge(llm, llm.reward, params, unjudged, questions):
                rows[row["question"]] = row
                write(row)


def _check(rows: dict[int, Row], questions: list[Question], cell: Cell) -> None:
    for index, row in rows.items():
        if index < len(questions) and row["prompt"] != questions[index].prompt:
            raise DataError(f"results of the same problems for {cell.key}", f"another problem {index}",
                            "name another --out file")


def _answers(llm: LLM, cell: Cell, search: Any, params: SamplingParams, missing: list[tuple[int, Question]],
             seed: int, clocks: tuple[Callable[[], float], Callable[[], float | None]]) -> Iterator[Row]:
    """The rows of one cell, as they end; what each took is the time since the one before, by the wall and ideally."""
    counters: dict[int, GeneratedTokens] = {}

    def submit(index: int, question: Question) -> Request:
        counters[index] = GeneratedTokens()
        return llm.engine.submit(question.prompt, search, params, method=cell.method, seed=cell.seed(seed, index),
                                 trace=counters[index].note)

    last = [clock() for clock in clocks]
    for index, question, result in _run(llm, submit, missing, max(1, ROWS // cell.n)):
        now = [clock() for clock in clocks]
        seconds, ideal = (None if after is None or before is None else after - before
                          for before, after in zip(last, now, strict=True))
        last = now
        yield {"cell": cell.key, "question": index, "prompt": question.prompt, **_row(cell, result, question),
               "generated_tokens": counters.pop(index).total, "seconds": seconds, "ideal_seconds": ideal}


def _unknown() -> None:
    """The clock of those who measured no costs."""


def _row(cell: Cell, result: Result, question: Question) -> Row:
    """What one answer is worth and what it cost."""
    chosen = next(candidate for candidate in result.candidates if candidate.id == result.chosen)
    pages = {role: result.usage.role(role) for role in ROLES if result.usage.role(role).calls}
    row = {"text": result.text, "correct": question.is_right(result.text), "judged": False,
           "reward": None if "reward" in cell.options else result.reward,
           "answer_tokens": chosen.tokens, "answer_state": chosen.state, "answer_ids": chosen.token_ids,
           "tokens": {role: page.tokens for role, page in pages.items()},
           "flops": {role: page.flops for role, page in pages.items()}, "peak_kv_tokens": result.usage.peak_kv_tokens}
    if cell.pool:
        row["pool"] = [[candidate.reward, question.is_right(candidate.text), candidate.tokens]
                       for candidate in result.candidates]
    return row


def _judge(llm: LLM, reward: Reward, params: SamplingParams, rows: list[Row], questions: list[Question],
           ) -> Iterator[Row]:
    """The rows again, with the reward of their answers."""
    asked = [(row["question"], row) for row in rows]

    def submit(index: int, row: Row) -> Request:
        return llm.engine.submit(questions[index].prompt, functools.partial(_read_back, row=row, reward=reward), params)

    for _, row, result in _run(llm, submit, asked, ROWS):
        yield {**row, "reward": result.reward, "judged": True}


def _read_back(prompt: Prompt, *, row: Row, reward: Reward) -> Generator[Any, Any, Sequence]:
    """A search that draws nothing: it takes an answer as it was and scores it."""
    [sequence] = yield Fork(prompt, 1)
    sequence.tokens += row["answer_ids"]
    sequence.state, sequence.stop_at = row["answer_state"], len(row["text"])
    yield Score([sequence], reward)
    return sequence


def _run(llm: LLM, submit: Callable[[int, Any], Request], asked: list[tuple[int, Any]], at_once: int,
         ) -> Iterator[tuple[int, Any, Result]]:
    """(index, what was asked, result) as each ends, `at_once` requests in the same steps."""
    waiting = asked[::-1]
    running: dict[Request, tuple[int, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                index, what = waiting.pop()
                running[submit(index, what)] = index, what
            for request in llm.engine.step():
                index, what = running.pop(request)
                if isinstance(request.outcome, RamifyError):
                    raise request.outcome
                yield index, what, request.outcome
    finally:
        for request in running:
            llm.engine.cancel(request)


class GeneratedTokens:
    """Counts the tokens that a request drew, from its trace: shared beginnings once, dropped ones too."""

    def __init__(self) -> None:
        self.total = 0
        self._length = {"": 0}

    def note(self, event: str, *, candidate: str = "", tokens: int = 0, children: Iterable[str] = (),
             **_: Any) -> None:
        """Take in one trace event."""
        if event == "fork":
            self._length |= dict.fromkeys(children, self._length[candidate])
        elif event == "extend":
            self.total += tokens - self._length[candidate]
            self._length[candidate] = tokens
        elif event == "rewind":
            self._length[candidate] = tokens
