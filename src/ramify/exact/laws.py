"""Stated laws, computed from tables alone: what the engine's laws are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ramify.models import Model
from ramify.sampling.transforms import probabilities
from ramify.types import SamplingParams

Answer = tuple[int, ...]
Law = dict[Answer, float]


def policy_law(model: Model, prompt: str, **sampling: Any) -> Law:
    """The probability of every answer when tokens are drawn one by one from a tabular model."""
    params = SamplingParams(**sampling)
    ids, ended = model.tokenizer.encode_prompt(prompt), set(model.tokenizer.eos_ids)
    table: Any = model.decoder.table
    law: Law = {}

    def walk(answer: Answer, mass: float) -> None:
        if len(answer) == params.max_tokens or (answer and answer[-1] in ended):
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
    law: Law = {}
    for answer, mass in policy.items():
        level = reward(answer)
        below = sum(p for other, p in policy.items() if reward(other) < level)
        upto = below + sum(p for other, p in policy.items() if reward(other) == level)
        law[answer] = mass * (upto**n - below**n) / (upto - below)
    return law


def distance(left: Law, right: Law) -> float:
    """The largest difference between two laws at any answer."""
    return max(abs(left.get(answer, 0.0) - right.get(answer, 0.0)) for answer in left.keys() | right.keys())
