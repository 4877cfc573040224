"""Stated laws, computed from tables alone: what the engine's laws are compared with."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar, cast

import torch

from ramify.engine.speculation import fit_vocabulary
from ramify.exact.tabular import TabularDecoder
from ramify.models import Model
from ramify.sampling.transforms import probabilities
from ramify.theory.voting import majority_law
from ramify.types import SamplingParams

Answer = tuple[int, ...]
Law = dict[Answer, float]
Rows = Callable[[Answer], list[float]]
Key = TypeVar("Key", bound=Hashable)


def policy_law(model: Model, prompt: str, **sampling: Any) -> Law:
    """The probability of every answer when tokens are drawn one by one from a tabular model.

    Args:
        model: a tabular model.
        prompt: letters.
        sampling: fields of `SamplingParams`.
    """
    params = SamplingParams(**sampling)
    rows, ended, law = token_laws(model, prompt, params), endings(model, params), Law()

    def walk(answer: Answer, mass: float) -> None:
        if ended(answer):
            law[answer] = mass
            return
        for token, probability in enumerate(rows(answer)):
            if probability > 0:
                walk((*answer, token), mass * probability)

    walk((), 1.0)
    return law


def token_laws(model: Model, prompt: str, params: SamplingParams, size: int | None = None) -> Rows:
    """The distribution of the token after each answer, every transform applied; O(V).

    size: tokens of the target, where a tabular draft has fewer or more.
    """
    ids, table = model.tokenizer.encode_prompt(prompt), cast(TabularDecoder, model.decoder).table

    def rows(answer: Answer) -> list[float]:
        logits_1V = torch.tensor(table((*ids, *answer)), dtype=torch.float64).log()[None]
        if size is not None:
            logits_1V = fit_vocabulary(logits_1V, size)
        [row] = probabilities(logits_1V, params, [list(answer)], ids).tolist()
        return row

    return rows


def endings(model: Model, params: SamplingParams) -> Callable[[Answer], bool]:
    """Whether an answer is over: by its length, its last token, or a stop string in its text."""
    last = () if params.ignore_eos else model.tokenizer.eos_ids

    def ended(answer: Answer) -> bool:
        stopped = any(word in model.tokenizer.decode(answer) for word in params.stop)
        return stopped or len(answer) == params.max_tokens or answer[-1:] in [(token,) for token in last]

    return ended


def best_of_n_law(policy: Law, reward: Callable[[Answer], float], n: int) -> Law:
    """pi_N(y) = p(y) (F^n - F-^n) / (F - F-) at the level of reward(y); ties uniformly at random."""
    rewards = {answer: reward(answer) for answer in policy}
    law: Law = {}
    for answer, mass in policy.items():
        below = sum(p for other, p in policy.items() if rewards[other] < rewards[answer])
        level = sum(p for other, p in policy.items() if rewards[other] == rewards[answer])
        law[answer] = mass * ((below + level) ** n - below**n) / level
    return law


def vote_law(policy: Mapping[Answer, float], key: Callable[[Answer], Key | None], n: int) -> dict[Key | None, float]:
    """P[a plain vote of n answers gives each key], ties uniform; None votes for nothing and wins if nobody votes."""
    shares: dict[Key | None, float] = defaultdict(float)
    for answer, mass in policy.items():
        shares[key(answer)] += mass
    silent = shares.pop(None, 0.0)
    law: dict[Key | None, float] = defaultdict(float, {None: silent**n})
    voting = sum(shares.values())
    for voters in range(1, n + 1 if shares else 1):
        chance = math.comb(n, voters) * voting**voters * silent ** (n - voters)
        wins = majority_law([share / voting for share in shares.values()], voters)
        for name, win in zip(shares, wins, strict=True):
            law[name] += chance * float(win)
    return dict(law)


def distance(left: Mapping[Any, float], right: Mapping[Any, float]) -> float:
    """The largest difference between two laws at any answer."""
    return max(abs(left.get(answer, 0.0) - right.get(answer, 0.0)) for answer in left.keys() | right.keys())
