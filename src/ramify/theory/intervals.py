"""Intervals for what was measured: Wilson's for an accuracy, the bootstrap over prompts for any mean."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from ramify.theory.checks import need, need_count


def wilson_interval(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a success probability: the rates that a normal test does not refuse.

    centre (p + z^2/2m)/(1 + z^2/m), half-width z sqrt(p(1-p)/m + z^2/4m^2)/(1 + z^2/m), with p = successes/m
    and m = trials, which must be independent: one answer per prompt, not many answers to the same prompt.
    """
    need(trials > 0 and 0 <= successes <= trials, "0 <= successes <= trials, trials above 0",
         f"{successes} of {trials}", "count again")
    need(0 < level < 1, "a confidence level in (0, 1)", level, "use 0.95")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate, shrink = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials**2)) / shrink
    low = 0.0 if successes == 0 else centre - half
    return low, 1.0 if successes == trials else centre + half


def bootstrap_interval(values: ArrayLike, *, level: float = 0.95, resamples: int = 2000,
                       seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of one value per prompt, prompts drawn with replacement.

    Estimates at several n from one pool of samples are strongly correlated; the prompts are what is
    independent, so they are what is redrawn. Same seed, same interval. O(resamples * prompts).
    """
    values_P = np.asarray(values, dtype=np.float64).ravel()
    need(len(values_P) >= 1, "a value for at least one prompt", "none", "measure some first")
    need(0 < level < 1, "a confidence level in (0, 1)", level, "use 0.95")
    need_count("resamples", resamples)
    rng = np.random.default_rng(seed)
    means = [values_P[rng.integers(len(values_P), size=len(values_P))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)
