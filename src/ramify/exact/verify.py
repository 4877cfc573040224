"""Checks of any search on random tables: its complete law, and that nothing but its seed decides a result."""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ramify.engine import Engine, Prompt
from ramify.engine.request import Search
from ramify.exact.enumerate import chosen_tokens, output_law
from ramify.exact.laws import Answer, Law, best_of_n_law, distance, policy_law, vote_law
from ramify.exact.tabular import tabular_model, tabular_reward
from ramify.rewards import SequenceReward
from ramify.sampling.draws import mix
from ramify.search import best_of_n, sample, self_consistency, speculative_rejection, treebon
from ramify.types import Result, SamplingParams

PROMPT = "ab"
CLOSE = 1e-9  # the error that a law may have
SEEDS = 16  # runs of each check that compares results draw for draw
MOST = 200_000  # paths of one law
Started = Callable[[Prompt], Search]


@dataclass(slots=True, frozen=True)
class Row:
    """One check: its largest error over all tables, and the largest that passes.

    The error of a law is its largest difference at any answer; elsewhere it counts results that differ.
    """

    check: str
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether it passes."""
        return self.error <= self.limit


@dataclass(slots=True, frozen=True)
class Report:
    """What `verify` found. paths: branches of all random choices that were walked."""

    method: str
    options: dict[str, Any]
    vocabulary: int
    length: int
    seed: int
    tables: int
    paths: int
    rows: list[Row]

    @property
    def ok(self) -> bool:
        """Whether every check passes."""
        return all(row.ok for row in self.rows)

    @property
    def verdict(self) -> str:
        """One sentence."""
        scope = f"on {self.tables} random tables ({self.paths:,} paths)"
        failed = [row.check for row in self.rows if not row.ok]
        if failed:
            return f"{self.method} FAILS {len(failed)} of {len(self.rows)} checks {scope}: {'; '.join(failed)}."
        return f"{self.method} passes all {len(self.rows)} checks {scope}."

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        rows = [{**asdict(row), "ok": row.ok} for row in self.rows]
        return {**asdict(self), "rows": rows, "ok": self.ok, "verdict": self.verdict}


def verify(search: Callable[..., Search], options: dict[str, Any] | None = None, *, vocabulary: int = 3,
           length: int = 3, seed: int = 0, tables: int = 5) -> Report:
    """Run a search on random tables and check everything that can be checked exactly.

    Its law sums to 1 and is the stated one where a closed form is known, also in the limits where it must be
    Best-of-n; no key is drawn from twice; results are the same, draw for draw, alone and in a batch, with the
    prefix cache on and off, in blocks of 1 and 16 tokens, and in a cache so small that candidates are given
    up and read again.

    Args:
        search: the generator function; a `reward` it takes is a random one with three levels, an `answer`
            function the last letter.
        options: its other options, and fields of `SamplingParams`.
        vocabulary: tokens of the tables, the end of sequence included.
        length: `max_tokens` of an answer.
        seed: of the first table.
        tables: how many.

    Raises:
        OptionError: an option out of range, or more than 200,000 paths in one law.
    """
    given = dict(options or {})
    sampling = {name: given.pop(name) for name in SamplingParams.names() if name in given}
    worst: dict[tuple[str, float], float] = defaultdict(float)
    paths = 0
    for number in range(tables):
        table = Table(seed + number, vocabulary, {"max_tokens": length, **sampling})
        for check, error, limit in _checks(table, search, given):
            worst[check, limit] = max(worst[check, limit], error)
        paths += table.paths
    rows = [Row(check, error, limit) for (check, limit), error in worst.items()]
    return Report(search.__name__, {**given, **sampling}, vocabulary, length, seed, tables, paths, rows)


class Table:
    """A random tabular model with a random reward."""

    def __init__(self, seed: int, vocabulary: int, sampling: dict[str, Any]) -> None:
        self.model, self.sampling, self.paths = tabular_model(vocabulary, seed, zeros=0.2), sampling, 0
        self.level: Callable[[Answer], float] = lambda prefix: float(mix(seed, *prefix) % 3)
        self.reward = SequenceReward(tabular_reward(vocabulary, self.level))
        self.policy = policy_law(self.model, PROMPT, **sampling)

    def bind(self, search: Callable[..., Search], options: dict[str, Any]) -> Started:
        """The search with its options, this reward, and votes by last letter."""
        ours = {"reward": self.reward, "answer": _last_letter}
        taken = inspect.signature(search).parameters
        return functools.partial(search, **{name: value for name, value in ours.items() if name in taken}, **options)

    def law(self, search: Started) -> Law:
        """The complete law on the real engine."""

        def outcome(result: Result) -> Answer:
            self.paths += 1
            return chosen_tokens(result)

        return output_law(self.model, PROMPT, search, outcome=outcome, most=MOST, **self.sampling)

    def score(self, answer: Answer) -> float:
        """The reward of a whole answer, which the reward model reads up to a stop string and closed."""
        tokenizer, ids, text = self.model.tokenizer, self.model.tokenizer.encode_prompt(PROMPT), self.text(answer)
        if answer[-1] in tokenizer.eos_ids:
            return self.level((*ids, *answer))
        read = tokenizer.encode(text) if text != tokenizer.decode(answer) else answer
        return self.level((*ids, *read, *tokenizer.closing_ids))

    def text(self, answer: Answer) -> str:
        """The answer's text, cut before a stop string."""
        text = self.model.tokenizer.decode(answer)
        return text[: min((at for word in self.sampling.get("stop", ()) if (at := text.find(word)) >= 0), default=None)]

    def results(self, search: Started, *, together: bool = False, **engine: Any) -> list[Any]:
        """What a user sees of runs with different seeds, alone or all at once."""
        shared, params = Engine(self.model, **{"capacity": 4096, **engine}), SamplingParams(**self.sampling)
        if not together:
            return [_seen(shared.result(PROMPT, search, params, seed=seed)) for seed in range(SEEDS)]
        requests = [shared.submit(PROMPT, search, params, seed=seed) for seed in range(SEEDS)]
        while not all(request.finished for request in requests):
            shared.step()
        return [_seen(request.result) for request in requests]


def _checks(table: Table, search: Callable[..., Search],
            options: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    """(check, error, limit) of one table."""
    bound = table.bind(search, options)
    try:
        law = table.law(bound)
    except AssertionError:
        yield "no random number is used twice", 1, 0
        return
    yield "no random number is used twice", 0, 0
    yield "the law sums to 1", abs(sum(law.values()) - 1), CLOSE
    for check, error in _known(table, search, options, law):
        yield check, error, CLOSE if "law" in check else 0
    plain = table.results(bound)
    closest = len(PROMPT) + table.sampling["max_tokens"] + 1
    for check, others in {
        f"a batch of {SEEDS} equals {SEEDS} singles": table.results(bound, together=True),
        "the prefix cache changes nothing": table.results(bound, prefix_cache=False),
        "blocks of 1 and of 16 tokens give the same": table.results(bound, block_size=1),
        "a cache for one candidate gives the same": table.results(_roomy(bound), capacity=closest, block_size=1),
    }.items():
        yield check, sum(ours != theirs for ours, theirs in zip(plain, others, strict=True)), 0


def _known(table: Table, search: Callable[..., Search], options: dict[str, Any],
           law: Law) -> Iterator[tuple[str, float]]:
    """(check, error) of what has a closed form, with these options or in a limit of them."""
    if search not in (sample, best_of_n, self_consistency, speculative_rejection, treebon):
        return
    n = options.get("n", inspect.signature(search).parameters["n"].default)

    def against(stated: Law, **limit: Any) -> float:
        return distance(table.law(table.bind(search, {**options, **limit})) if limit else law, stated)

    def differing(**limit: Any) -> int:
        ours = table.results(table.bind(search, {**options, **limit}))
        return sum(a != b for a, b in zip(ours, table.results(table.bind(best_of_n, {"n": n})), strict=True))

    best = best_of_n_law(table.policy, table.score, n)
    if search is sample:
        yield "the law is the policy's", against(table.policy)
    if search is best_of_n:
        yield "the law is the stated one", against(best)
    if search is self_consistency:
        huge = {} if options.get("beta") is None else {"beta": 1e15}
        votes: dict[str | None, float] = defaultdict(float)
        for answer, mass in (table.law(table.bind(search, {**options, **huge})) if huge else law).items():
            votes[_last_letter(table.text(answer))] += mass
        stated = vote_law(table.policy, lambda answer: _last_letter(table.text(answer)), n)
        yield f"the {'law for a huge beta' if huge else 'law'} is the plain vote's", distance(votes, stated)
    if search is speculative_rejection:
        yield "alpha = 0: the law is Best-of-n's", against(best, alpha=0.0)
        yield "alpha = 0: Best-of-n draw for draw", differing(alpha=0.0)
    if search is treebon:
        yield "layers = 1: the law is Best-of-n's", against(best, layers=1)
        yield "layers = 1: Best-of-n draw for draw", differing(layers=1)
        yield "children = 1: the law is Best-of-n's", against(best, children=1)


def _roomy(search: Started) -> Started:
    """The same search, told of a large cache: some plan their rounds by its size."""

    def started(prompt: Prompt) -> Search:
        prompt.capacity = 4096
        return search(prompt)

    return started


def _last_letter(text: str) -> str | None:
    return text[-1:] or None


def _seen(result: Result | None) -> Any:
    """What must not depend on the company."""
    assert result is not None
    candidates = [(c.id, c.token_ids, c.state, c.scores) for c in result.candidates]
    return result.chosen, result.text, result.reward, candidates
