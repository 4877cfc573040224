"""Checks of any search on random tables: its complete law, and that nothing but its seed decides a result."""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ramify.engine import Engine, Prompt
from ramify.engine.request import Search
from ramify.exact.enumerate import chosen_tokens, output_law
from ramify.exact.laws import Answer, Law, best_of_n_law, distance, policy_law, vote_law
from ramify.exact.tabular import tabular_model, tabular_reward
from ramify.exact.verify_speculation import AT_LEAST, PLAIN, Ahead, accepted, ahead, lossy_policy
from ramify.rewards import SequenceReward
from ramify.sampling.draws import mix
from ramify.search import best_of_n, sample, self_consistency, speculative_rejection, treebon
from ramify.speculative import Speculation
from ramify.types import Result, SamplingParams, SpeculationParams

PROMPT = "ab"
CLOSE = 1e-9  # the error that a law may have
SEEDS = 16  # runs of each check that compares results draw for draw
MOST = 200_000  # paths of one law
Started = Callable[[Prompt], Search]


@dataclass(slots=True, frozen=True)
class Row:
    """One check: its largest error over all tables, and the largest that passes.

    The error of a law is its largest difference at any answer; elsewhere it counts results that differ. Without a
    limit it is not an error but what a lossy rule costs. `found` is an enumerated number, on the table where it was
    furthest off, and `predicted` what its formula says, or the least that it may be.
    """

    check: str
    error: float
    limit: float | None
    predicted: float | None = None
    found: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it passes."""
        return self.limit is None or self.error <= self.limit


@dataclass(slots=True, frozen=True)
class Report:
    """What `verify` found. paths: branches of all random choices that were walked."""

    method: str
    draft: str
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
        name = self.method if self.draft == "none" else f"{self.method} with drafts from a {self.draft}"
        judged = [row for row in self.rows if row.limit is not None]
        lossy = ", and is lossy" if len(judged) < len(self.rows) else ""
        if failed := [row.check for row in judged if not row.ok]:
            return f"{name} FAILS {len(failed)} of {len(judged)} checks {scope}: {'; '.join(failed)}."
        return f"{name} passes all {len(judged)} checks {scope}{lossy}."

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        rows = [{**asdict(row), "ok": row.ok} for row in self.rows]
        return {**asdict(self), "rows": rows, "ok": self.ok, "verdict": self.verdict}


def verify(search: Callable[..., Search], options: dict[str, Any] | None = None, *, draft: str = "none",
           vocabulary: int = 3, length: int = 3, seed: int = 0, tables: int = 5) -> Report:
    """Run a search on random tables and check everything that can be checked exactly.

    Its law sums to 1 and is the stated one where a closed form is known, also in the limits where it must be
    Best-of-n; no key is drawn from twice; results are the same, draw for draw, alone and in a batch, with the
    prefix cache on and off, in blocks of 1 and 16 tokens, whether candidates that have said the same are read once
    or one by one, and in a cache so small that they are given up and read again.

    With a draft all of this holds while it drafts, and the law is the one without; the expected accepted length is
    its closed form, or for traversal of trees at least that of top-down rejection; at temperature 0, and with coupled
    draws at any, the text is that of plain decoding. A lossy verifier is told by how much it changes the law.

    Args:
        search: the generator function; a `reward` it takes is a random one with three levels, an `answer`
            function the last letter.
        options: its other options, and fields of `SamplingParams` and of `SpeculationParams`.
        draft: "none"; "table" for another random table; "ngram" or "suffix" for look-ups.
        vocabulary: tokens of the tables, the end of sequence included.
        length: `max_tokens` of an answer.
        seed: of the first table.
        tables: how many.

    Raises:
        OptionError: an option out of range, or more than 200,000 paths in one law.
    """
    given = dict(options or {})
    params = SamplingParams(**{"max_tokens": length, **_taken(given, SamplingParams)})
    speculation = SpeculationParams(**_taken(given, SpeculationParams))
    worst: dict[str, Row] = {}
    paths = 0
    for at in range(seed, seed + tables):
        table = Table(at, vocabulary, params, ahead(draft, speculation, params, vocabulary, at))
        for row in _checks(table, search, given):
            worst[row.check] = max(worst.get(row.check, row), row, key=lambda row: row.error)
        paths += table.paths
    return Report(search.__name__, draft, dict(options or {}), vocabulary, length, seed, tables, paths,
                  list(worst.values()))


def _taken(options: dict[str, Any], kind: type[SamplingParams] | type[SpeculationParams]) -> dict[str, Any]:
    """The fields of `kind`, taken out of the options."""
    return {name: options.pop(name) for name in kind.names() if name in options}


class Table:
    """A random tabular model with a random reward, and perhaps a draft."""

    prompt = PROMPT

    def __init__(self, seed: int, vocabulary: int, params: SamplingParams, speculation: Ahead = PLAIN) -> None:
        self.model, self.params, self.paths = tabular_model(vocabulary, seed, zeros=0.2), params, 0
        self.level: Callable[[Answer], float] = lambda prefix: float(mix(seed, *prefix) % 3)
        self.reward = SequenceReward(tabular_reward(vocabulary, self.level))
        self.ahead = speculation
        self.policy = policy_law(self.model, PROMPT, **asdict(params))

    def bind(self, search: Callable[..., Search], options: dict[str, Any]) -> Started:
        """The search with its options, this reward, and votes by last letter."""
        ours = {"reward": self.reward, "answer": _last_letter}
        taken = inspect.signature(search).parameters
        return functools.partial(search, **{name: value for name, value in ours.items() if name in taken}, **options)

    def law(self, search: Started, speculation: Ahead | None = None) -> Law:
        """The complete law of the answer on the real engine."""
        return self.measured(search, speculation or self.ahead, self.params, chosen_tokens)

    def measured(self, search: Started, speculation: Callable[[], Speculation | None], params: SamplingParams,
                 told: Callable[[Result], Any] = lambda result: result.speculative["num_accepted_draft_tokens"],
                 ) -> dict[Any, float]:
        """The complete law of what is told of a result."""

        def outcome(result: Result) -> Any:
            self.paths += 1
            return told(result)

        return output_law(self.model, PROMPT, search, outcome=outcome, most=MOST, speculation=speculation,
                          **asdict(params))

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
        return text[: min((at for word in self.params.stop if (at := text.find(word)) >= 0), default=None)]

    def results(self, search: Started, speculation: Ahead | None = None, *, together: bool = False,
                temperature: float | None = None, **engine: Any) -> list[Any]:
        """What a user sees of runs with different seeds, alone or all at once."""
        shared, make = Engine(self.model, **{"capacity": 4096, **engine}), speculation or self.ahead
        params = self.params if temperature is None else replace(self.params, temperature=temperature)
        if not together:
            return [_seen(shared.result(PROMPT, search, params, seed=seed, speculation=make()))
                    for seed in range(SEEDS)]
        requests = [shared.submit(PROMPT, search, params, seed=seed, speculation=make()) for seed in range(SEEDS)]
        while not all(request.finished for request in requests):
            shared.step()
        return [_seen(request.result) for request in requests]


def _checks(table: Table, search: Callable[..., Search], options: dict[str, Any]) -> Iterator[Row]:
    """What is checked on one table."""
    bound = table.bind(search, options)
    try:
        law = table.law(bound)
    except AssertionError:
        yield Row("no random number is used twice", 1, 0)
        return
    yield Row("no random number is used twice", 0, 0)
    yield Row("the law sums to 1", abs(sum(law.values()) - 1), CLOSE)
    if table.ahead.lossy:
        yield from _lossy(table, search, options, law)
    else:
        for check, error in _known(table, search, options, law):
            yield Row(check, error, CLOSE if "law" in check else 0)
    ours = table.results(bound)
    for check, theirs in {
        f"a batch of {SEEDS} equals {SEEDS} singles": table.results(bound, together=True),
        "the prefix cache changes nothing": table.results(bound, prefix_cache=False),
        "blocks of 1 and of 16 tokens give the same": table.results(bound, block_size=1),
    }.items():
        yield Row(check, _differing(ours, theirs), 0)
    # Where a draft does not fit the tokens come one by one: the same text only if they are the coupled draws.
    steady = table.ahead.coupled if table.ahead.draft else PLAIN
    plain = table.results(bound, PLAIN) if table.ahead.draft else ours
    starved = table.results(_roomy(bound), steady, capacity=len(PROMPT) + table.params.max_tokens + 1, block_size=1)
    yield Row("a cache for one candidate gives the same", _differing(plain, starved), 0)
    apart = table.results(bound, steady, dedupe=False)
    yield Row("reading equal texts once changes nothing", _differing(plain, apart), 0)
    if table.ahead.draft is None:
        return
    yield Row("coupled draws give the text of plain decoding", _differing(plain, table.results(bound, steady)), 0)
    if table.ahead.verifier != "trusted":  # there the draft's own most likely tokens stand
        greedy = [table.results(bound, each, temperature=0.0) for each in (PLAIN, table.ahead)]
        yield Row("temperature 0 gives the text of plain decoding", _differing(*greedy), 0)
    if not table.ahead.lossy:
        yield Row("the law is the one without a draft", distance(law, table.law(bound, PLAIN)), CLOSE)
    for check, found, closed in accepted(table):
        error = max(0.0, closed - found) if check == AT_LEAST else abs(found - closed)
        yield Row(check, error, CLOSE, closed, found)


def _lossy(table: Table, search: Callable[..., Search], options: dict[str, Any], law: Law) -> Iterator[Row]:
    """What a lossy verifier does to the law, and whether that is what it says."""
    plain, policy = table.law(table.bind(search, options), PLAIN), lossy_policy(table)
    stated = None
    if policy is not None and search is sample:
        stated = policy
    if policy is not None and search is best_of_n:
        stated = best_of_n_law(policy, table.score, _width(search, options))
    if stated is not None:
        yield Row("the law is the one that the lossy rule states", distance(law, stated), CLOSE)
    yield Row("lossy: distance from the law without a draft", distance(law, plain), None,
              None if stated is None else distance(stated, plain))


def _width(search: Callable[..., Search], options: dict[str, Any]) -> int:
    """n, given or not."""
    width: int = options.get("n", inspect.signature(search).parameters["n"].default)
    return width


def _differing(ours: list[Any], theirs: list[Any]) -> int:
    return sum(one != other for one, other in zip(ours, theirs, strict=True))


def _known(table: Table, search: Callable[..., Search], options: dict[str, Any],
           law: Law) -> Iterator[tuple[str, float]]:
    """(check, error) of what has a closed form, with these options or in a limit of them."""
    if search not in (sample, best_of_n, self_consistency, speculative_rejection, treebon):
        return
    n = _width(search, options)

    def against(stated: Law, **limit: Any) -> float:
        return distance(table.law(table.bind(search, {**options, **limit})) if limit else law, stated)

    def differing(**limit: Any) -> int:
        ours = table.results(table.bind(search, {**options, **limit}))
        return _differing(ours, table.results(table.bind(best_of_n, {"n": n})))

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
