"""What speculation must keep on a random table, and what it accepts, against closed forms.

p is the draft's distribution, q the target's.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ramify.errors import OptionError
from ramify.exact.laws import Answer, Law, Rows, endings, token_laws
from ramify.exact.tabular import tabular_model
from ramify.sampling.draws import KeyedDraws
from ramify.search import sample
from ramify.speculative import Draft, Speculation, speculate
from ramify.speculative.drafter import Ask
from ramify.speculative.pace import Costs
from ramify.theory import speculative as theory
from ramify.theory import speculative_drafts as drafts
from ramify.theory.law import Floats
from ramify.types import SamplingParams, SpeculationParams, check

if TYPE_CHECKING:
    from ramify.exact.verify import Table
    from ramify.models import Model

DRAFTS = ("none", "table", "ngram", "suffix")
DRAFT_LENGTH = 2  # where none is given: a measured one depends on time
AT_LEAST = "the accepted length is at least that of top-down rejection"
Kernel = Callable[[Sequence[float], Sequence[float]], tuple[Floats, Floats]]


@dataclass(slots=True, frozen=True)
class Ahead:
    """How every request of a check speculates; without a draft, not at all. Calling it makes one speculation."""

    draft: Draft | None = None
    params: SpeculationParams = SpeculationParams()  # noqa: RUF009

    def __call__(self) -> Speculation | None:
        """A fresh one."""
        return speculate(self.params, self.draft) if self.draft else None

    @property
    def coupled(self) -> Ahead:
        """The same drafts, verified so that the text is that of plain decoding."""
        stop = "" if self.verifier == "trusted" else self.params.draft_stop
        return replace(self, params=replace(self.params, verifier="coupled", lenience=1.0, draft_stop=stop))

    @property
    def verifier(self) -> str:
        """Its name, "auto" resolved; one that goes by another's rule goes by that name."""
        name, tree = self.params.verifier, self.params.tree
        if name == "auto":
            return "traversal" if tree else "block"
        if tree:
            return name
        return {"recursive": "token", "k_sequential": "token", "traversal": "block"}.get(name, name)

    @property
    def lossy(self) -> bool:
        """Whether it changes the law."""
        return self.draft is not None and (self.verifier in ("typical", "trusted") or self.params.lenience < 1)


PLAIN = Ahead()


def ahead(draft: str, params: SpeculationParams, sampling: SamplingParams, vocabulary: int, seed: int) -> Ahead:
    """The speculation of one table. Every second drafting table is a token wider than the target, without zeros.

    Raises:
        OptionError: options that do not go together, or a draft whose law cannot be enumerated.
    """
    check(draft in DRAFTS, f"a draft among {', '.join(DRAFTS)}", repr(draft), "pick one of them")
    if draft == "none":
        changed = [name for name in params.names() if getattr(params, name) != getattr(SpeculationParams(), name)]
        check(not changed, f"a draft for {', '.join(changed)}", "none", "add --draft table, or remove the option")
        return PLAIN
    check(not params.tree.startswith("beam"), "a tree whose draws can be enumerated", params.tree,
          "use 2x1 or iid:2x1: a beam draws Gumbel noise")
    check(params.verifier != "greedy" or sampling.temperature == 0, "temperature=0 for verifier=greedy",
          sampling.temperature, "set it, or use block")
    if params.draft_length is None and not params.tree:
        params = replace(params, draft_length=DRAFT_LENGTH)
    wide = seed % 2
    model = tabular_model(vocabulary + wide, seed + 1000, zeros=0 if wide else 0.2) if draft == "table" else None
    made = Ahead(Draft(model, "" if model else draft), params)
    made()  # or raise
    return made


# The expected number of accepted tokens, of one round of drafting after the first token


def accepted(table: Table) -> Iterator[tuple[str, float, float]]:
    """(check, enumerated, what it is held against) of what the engine accepts: a closed form where one is known,
    for traversal of deeper trees what top-down rejection accepts."""
    spec, stated = table.ahead, _stated(table)
    if stated is not None:
        name, closed = stated
        depth = 1 if spec.params.tree else _depth(spec)
        params = _one_round(table, depth)
        first = token_laws(table.model, table.prompt, params)(())
        yield name, _enumerated(table, spec, depth), sum(
            mass * closed((x,), params) for x, mass in enumerate(first) if mass > 0)
    elif spec.verifier == "traversal" and not spec.lossy and _depth(spec) > 1:
        top_down = replace(spec, params=replace(spec.params, verifier="recursive"))
        with contextlib.suppress(OptionError):  # too many paths to compare, though the law itself had fewer
            yield AT_LEAST, _enumerated(table, spec, 2), _enumerated(table, top_down, 2)


def _one_round(table: Table, depth: int) -> SamplingParams:
    """Answers of a first token, one draft and the token after it."""
    return replace(table.params, max_tokens=2 + depth, stop=(), ignore_eos=True)


def _enumerated(table: Table, spec: Ahead, depth: int) -> float:
    """The expected number of accepted tokens of that draft, `depth` tokens deep."""
    law = table.measured(functools.partial(sample, n=1), _OneRound(spec, depth), _one_round(table, depth))
    return sum(mass * float(stood) for stood, mass in law.items())


def _stated(table: Table) -> tuple[str, Callable[[Answer, SamplingParams], float]] | None:
    """(check, closed form after an answer of one token), for drafts that do not choose their own length."""
    spec, target = table.ahead, table.model
    size = target.decoder.config.vocab_size
    if spec.params.draft_stop or _depth(spec) == 0 or (spec.params.tree and spec.lossy):
        return None

    def of_chain(answer: Answer, params: SamplingParams) -> float:
        p, length = _draft_rows(spec, target, table.prompt, answer, params)
        q = _after(token_laws(target, table.prompt, params), answer)
        if length == 0:
            return 0.0
        if spec.verifier == "block":
            return drafts.accepted_block(p, q, length)
        if spec.verifier == "token":
            return drafts.accepted_tokenwise(p, q, length)
        return _accepted(kernel(spec), p, q, length)

    def of_siblings(answer: Answer, params: SamplingParams) -> float:
        assert spec.draft is not None and spec.draft.model is not None
        p_V = token_laws(spec.draft.model, table.prompt, params, size)(answer)
        return _first_level(spec, p_V, token_laws(target, table.prompt, params)(answer))

    if not spec.params.tree:
        return "the accepted length is the closed form's", of_chain
    kind, _, sizes = spec.params.tree.rpartition(":")
    known = {"recursive": ("", "iid"), "k_sequential": ("iid",), "coupled": ("iid",),
             "traversal": ("", "iid") if "x" not in sizes else ()}  # of one level it goes sibling by sibling, too
    if kind in known.get(spec.verifier, ()):
        return "the chance that a draft stands is the closed form's", of_siblings
    return None


def _first_level(spec: Ahead, p_V: Sequence[float], q_V: Sequence[float]) -> float:
    """The chance that one of the siblings that start a tree is accepted."""
    kind, _, sizes = spec.params.tree.rpartition(":")
    count = int(sizes.split("x")[0])
    if kind == "":
        return drafts.without_replacement_acceptance(p_V, q_V, count)
    if spec.verifier == "k_sequential":
        return drafts.k_sequential(p_V, q_V, count)[1]
    rule = drafts.naive_acceptance if spec.verifier == "coupled" else drafts.recursive_acceptance
    return rule(p_V, q_V, count)


def _accepted(rule: Kernel, p: theory.Table, q: theory.Table, length: int) -> float:
    """E[accepted tokens] of a chain that is verified left to right by any rule."""

    def after(prefix: Answer, mass: float) -> float:
        if len(prefix) == length or mass == 0:
            return 0.0
        stands_V = mass * rule(list(p(prefix)), list(q(prefix)))[0]  # type: ignore[arg-type]
        return float(stands_V.sum()) + sum(after((*prefix, x), float(m)) for x, m in enumerate(stands_V))

    return after((), 1.0)


def kernel(spec: Ahead) -> Kernel:
    """(mass of each token that is drafted and stands, mass of each that comes in its place), of rules for chains."""

    def rule(p: Sequence[float], q: Sequence[float]) -> tuple[Floats, Floats]:
        p_V, q_V = np.asarray(p), np.asarray(q)
        if spec.verifier in ("coupled", "greedy"):
            return p_V * q_V, (1 - p_V) * q_V
        if spec.verifier == "lossy":
            b_V = theory.lenience_rule(p_V, q_V, spec.params.lenience)
            return b_V * p_V, theory.lossy_law(p_V, q_V, b_V) - b_V * p_V
        entropy = -float((q_V[q_V > 0] * np.log(q_V[q_V > 0])).sum())
        stands_V = p_V * (q_V > min(0.09, 0.3 * np.exp(-entropy)))
        return stands_V, (1 - stands_V.sum()) * q_V

    return rule


def _draft_rows(spec: Ahead, target: Model, prompt: str, answer: Answer,
                params: SamplingParams) -> tuple[theory.Table, int]:
    """p after each path behind `answer`, and how long the draft is."""
    draft, length = spec.draft, _depth(spec)
    assert draft is not None
    size = target.decoder.config.vocab_size
    if draft.model is not None:
        return _after(token_laws(draft.model, prompt, params, size), answer), length
    ask = Ask(target.tokenizer.encode_prompt(prompt), list(answer), length, 0)
    speculation = spec()
    assert speculation is not None
    [proposal] = speculation.drafter.propose([ask], lambda asks: [], KeyedDraws())
    return lambda path: np.eye(size)[proposal.tokens[len(path)]], len(proposal)


def _after(rows: Rows, answer: Answer) -> theory.Table:
    return lambda path: rows((*answer, *path))


def _depth(spec: Ahead) -> int:
    """Tokens of its longest path."""
    kind, _, sizes = spec.params.tree.rpartition(":")
    depth = int(sizes.split("x")[1]) if kind in ("likely", "beam") else len(sizes.split("x")) if sizes else None
    length = spec.params.draft_length
    return min(each for each in (depth, length) if each is not None)


class _OneRound:
    """A speculation that drafts only in its first step, so many tokens."""

    def __init__(self, spec: Ahead, tokens: int) -> None:
        self.spec, self.tokens = spec, tokens

    def __call__(self) -> Speculation | None:
        """A fresh one."""
        made = self.spec()
        assert made is not None
        made.pace = _Once(self.tokens)
        return made


class _Once:
    """The pace of `_OneRound`."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def length(self, rows: int, ids: int, costs: Costs) -> int:
        """See `Pace`."""
        tokens, self.tokens = self.tokens, 0
        return tokens

    def observe(self, drafted: int, accepted: int, committed: int) -> None:
        """See `Pace`."""

    def took(self, seconds: float) -> None:
        """See `Pace`."""


# The law of a lossy rule


def lossy_policy(table: Table) -> Law | None:
    """The law of one answer under a rule that accepts too much; None where it is not known: trees and look-ups.

    A drafted position follows the rule's law, the token after a fully accepted draft is the target's own.
    """
    spec, params = table.ahead, table.params
    if spec.params.tree or spec.params.draft_stop or spec.draft is None or spec.draft.model is None:
        return None
    q, rule, ended = token_laws(table.model, table.prompt, params), kernel(spec), endings(table.model, params)
    p = token_laws(spec.draft.model, table.prompt, params, table.model.decoder.config.vocab_size)
    law = Law()

    def write(answer: Answer, mass: float, left: int) -> None:
        """`left` tokens of the draft are still to be verified."""
        if mass == 0:
            return
        if ended(answer):
            law[answer] = law.get(answer, 0.0) + mass
            return
        fresh = max(0, min(_depth(spec), params.max_tokens - len(answer) - 2))
        q_V = q(answer)
        stands_V, comes_V = rule(p(answer), q_V) if left else (np.zeros(len(q_V)), np.asarray(q_V))
        for token in range(len(q_V)):
            write((*answer, token), mass * float(stands_V[token]), left - 1)
            write((*answer, token), mass * float(comes_V[token]), fresh)

    write((), 1.0, 0)
    return law
