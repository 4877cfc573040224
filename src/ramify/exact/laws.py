"""Stated laws, computed from tables alone: what the engine's laws are compared with."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch

from ramify.models import Model
from ramify.sampling.transforms import probabilities
from ramify.theory.voting import majority_law
from ramify.types import SamplingParams

Answer = tuple[int, ...]
Law = dict[Answer, float]
Key = TypeVar("Key", bound=Hashable)


def policy_law(model: Model, prompt: str, **sampling: Any) -> Law:
    """The probability of every answer when tokens are drawn one by one from a tabular model.

    Args:
        model: a tabular model.
        prompt: letters.
        sampling: fields of `SamplingParams`.
    """
    params = SamplingParams(**sampling)
    ids = model.tokenizer.encode_prompt(prompt)
    ended = () if params.ignore_eos else model.tokenizer.eos_ids
    table: Any = model.decoder.table
    law: Law = {}

    def walk(answer: Answer, mass: float) -> None:
        stopped = any(word in model.tokenizer.decode(answer) for word in params.stop)
        if stopped or len(answer) == params.max_tokens or (answer and answer[-1] in ended):
            law[answer] = mass
            return
        logits_V = torch.tensor(table((*ids, *answer)), dtype=torch.float64).log()
        [row] = probabilities(logits_V[None], params, [list(answer)], ids).tolist()
        for token, probability in enumerate(row):
            if probability > 0:
                walk((*answer, token), mass * probability)

    walk((), 1.0)
    return law


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
