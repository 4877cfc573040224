"""A finite law of rewards under the policy: the input of most closed forms.

Shape letters: L levels (distinct rewards of positive probability, ascending), Y sequences, M samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ramify.theory.checks import need, need_count

Floats = NDArray[np.float64]

# Probabilities that come from float32 softmaxes add up to 1 within about this much.
SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Law:
    """Levels in ascending order and their probabilities, all positive. Build one with the functions below."""

    values_L: Floats
    probs_L: Floats

    @property
    def mean(self) -> float:
        """E[r], in reward units."""
        return float(self.probs_L @ self.values_L)

    @property
    def top(self) -> float:
        """P[r = r_max]."""
        return float(self.probs_L[-1])

    @property
    def below_L(self) -> Floats:
        """P[r < level]."""
        return np.concatenate([[0.0], np.cumsum(self.probs_L)[:-1]])

    @property
    def log_upto_L(self) -> Floats:
        """log P[r <= level], exact near 0 and near 1: above the median it is taken from the upper tail."""
        upto_L = np.cumsum(self.probs_L)
        above_L = np.concatenate([np.cumsum(self.probs_L[::-1])[::-1][1:], [0.0]])
        return np.where(upto_L < 0.5, np.log(upto_L), np.log1p(-np.minimum(above_L, 0.5)))


def finite_law(values: ArrayLike, probs: ArrayLike) -> Law:
    """The law of a reward that takes `values` with `probs`: equal values merged, impossible ones left out.

    Raises:
        OutOfRange: lengths differ, a value is not finite, or `probs` is no probability vector.
    """
    values_Y, probs_Y = np.asarray(values, dtype=np.float64).ravel(), np.asarray(probs, dtype=np.float64).ravel()
    need(len(values_Y) == len(probs_Y), "as many values as probabilities",
         f"{len(values_Y)} values and {len(probs_Y)} probabilities", "pair them up")
    need(bool(np.isfinite(values_Y).all()), "finite rewards",
         _first(values_Y, ~np.isfinite(values_Y)), "remove the answers that have none")
    levels_L, level_Y = np.unique(values_Y, return_inverse=True)
    probs_L = np.zeros(len(levels_L))
    np.add.at(probs_L, level_Y, probability_vector(probs_Y))
    possible_L = probs_L > 0
    return Law(levels_L[possible_L], probs_L[possible_L] / probs_L.sum())


def empirical_law(rewards: Sequence[float] | Floats) -> Law:
    """The law that gives each of M observed rewards probability 1/M: the plug-in for whatever takes a law.

    It knows nothing above the best observed reward, so plug-in KL and reward of Best-of-N are too low once N
    is not well below M; for values at n <= M use `best_of_n.estimate_smaller_n`, which is unbiased.
    """
    rewards_M = np.asarray(rewards, dtype=np.float64).ravel()
    need(len(rewards_M) >= 1, "at least one reward", "none", "score some answers first")
    return finite_law(rewards_M, np.full(len(rewards_M), 1.0 / len(rewards_M)))


def binomial_law(length: int, rate: float) -> Law:
    """The law of the fraction of ones among `length` independent tokens that are 1 with probability `rate`.

    The memoryless model with linear reward of arXiv 2404.01730. Levels less likely than 1e-308 are left out.
    """
    need_count("length", length)
    need(0 < rate < 1, "a rate strictly between 0 and 1", rate, "change it")
    log_binomial = [math.lgamma(length + 1) - math.lgamma(k + 1) - math.lgamma(length - k + 1)
                    + k * math.log(rate) + (length - k) * math.log1p(-rate) for k in range(length + 1)]
    return finite_law(np.arange(length + 1) / length, np.exp(log_binomial))


def probability_vector(probs: ArrayLike) -> Floats:
    """`probs` as float64, divided by its sum, which must be 1 within 1e-6.

    Raises:
        OutOfRange: empty, negative, not finite, or another sum.
    """
    probs_Y = np.asarray(probs, dtype=np.float64).ravel()
    total = float(probs_Y.sum())
    need(len(probs_Y) > 0, "at least one probability", "none", "give some")
    need(bool((probs_Y >= 0).all()), "probabilities of 0 or more", _first(probs_Y, ~(probs_Y >= 0)), "correct it")
    need(abs(total - 1) <= SUM_TOLERANCE, "probabilities that sum to 1", f"a sum of {total:.9g}",
         "rescale them")
    return probs_Y / total


def _first(values: Floats, wrong: NDArray[np.bool_]) -> str:
    """The first wrong value, if any, for an error message."""
    return f"{values[wrong][0]} at place {int(np.argmax(wrong))}" if wrong.any() else ""
