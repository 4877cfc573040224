"""Comparisons at equal compute, as pure functions. Shape letters: N widths, P problems, M samples of the pool."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ramify.theory.best_of_n import estimate_smaller_n

Floats = NDArray[np.float64]


class Reach(NamedTuple):
    """Compute that reaches a goal: `cost`, or at most that if `bound` (the cheapest point is already there)."""

    cost: float
    bound: bool


def cost_to_reach(costs: ArrayLike, values: ArrayLike, goal: float) -> Reach | None:
    """The compute at which a method's curve first reaches `goal`, or None if it never does.

    Between two measured points the value is taken as linear in the logarithm of the cost; nothing is
    extrapolated. In the unit of `costs`.
    """
    points = sorted(zip(np.ravel(costs).tolist(), np.ravel(values).tolist(), strict=True))
    if points[0][1] >= goal:
        return Reach(points[0][0], True)
    for (cost, value), (next_cost, next_value) in pairwise(points):
        if next_value >= goal:
            share = (goal - value) / (next_value - value)
            return Reach(math.exp((1 - share) * math.log(cost) + share * math.log(next_cost)), False)
    return None


def share_interval(costs_NP: Floats, values_NP: Floats, goal_P: Floats, full_P: Floats, *, level: float = 0.95,
                   resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval over problems of (compute to reach the mean of `goal_P`) / (mean of `full_P`).

    A resample in which the method never gets there counts as infinite.
    """
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(resamples):
        some = rng.integers(len(goal_P), size=len(goal_P))
        reach = cost_to_reach(costs_NP[:, some].mean(1), values_NP[:, some].mean(1), float(goal_P[some].mean()))
        shares.append(math.inf if reach is None else reach.cost / float(full_P[some].mean()))
    # Not np.quantile: between two infinities it would interpolate to a NaN.
    shares.sort()
    tail = (1 - level) / 2 * (resamples - 1)
    return shares[math.floor(tail)], shares[math.ceil(resamples - 1 - tail)]


def win_rate(value: float, samples: ArrayLike, scores: ArrayLike, n: float) -> float:
    """P[`value` beats the Best-of-n answer of one prompt], ties counting half, from a pool of M scored samples.

    The pool must be independent of `value`. The estimate is unbiased for whole n (all n-subsets of the pool)
    and linear between two of them; n is limited to 1..M.

    Args:
        value: of the method's answer: its reward, or 1 if it is correct and 0 if not.
        samples: the same of each sample, shape M.
        scores: what Best-of-n ranks by, shape M.
        n: candidates; not whole where it stands for a number of generated tokens.
    """
    samples_M = np.asarray(samples, dtype=np.float64)
    wins_M = (value > samples_M) + 0.5 * (value == samples_M)
    n = min(max(n, 1.0), float(len(samples_M)))
    low, part = int(n), n - int(n)
    rate = estimate_smaller_n(scores, wins_M, low)
    return rate if part == 0 else (1 - part) * rate + part * estimate_smaller_n(scores, wins_M, low + 1)
