"""Best-of-N: draw N answers, keep the one with the highest reward, ties uniformly at random.

With F(c) = P[r <= c] and F-(c) = P[r < c] under the policy p, the best of N has reward c with probability
F(c)^N - F-(c)^N, and every number below follows. N may be real: best-of-exp(KL) is a common way to write it.
Shape letters: L levels, Y sequences, M samples of one prompt. Logarithms are natural, so KL is in nats.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ramify.theory.checks import need, need_count, need_width
from ramify.theory.law import Floats, Law, finite_law, probability_vector


def log_ratio(law: Law, n: float) -> Floats:
    """log pi_N(y)/p(y) for a sequence on each level: log of (F^N - F-^N)/(F - F-). Nats, shape L. O(L)."""
    need_width(n)
    with np.errstate(divide="ignore"):  # the lowest level has F- = 0, hence log 0
        log_below_over_upto_L = np.log1p(-np.minimum(law.probs_L / np.exp(law.log_upto_L), 1.0))
    return n * law.log_upto_L + np.log(-np.expm1(n * log_below_over_upto_L)) - np.log(law.probs_L)


def level_law(law: Law, n: float) -> Floats:
    """P[the best of n has this reward] = F^n - F-^n for each level; shape L, sums to 1. O(L)."""
    return law.probs_L * np.exp(log_ratio(law, n))


def sequence_law(probs: ArrayLike, rewards: ArrayLike, n: float) -> Floats:
    """pi_n(y) = p(y) (F^n - F-^n)/(F - F-) at r(y): the law over sequences of Best-of-n. O(Y log Y).

    Args:
        probs: p(y) of every sequence, shape Y.
        rewards: r(y), shape Y.
        n: candidates, real or whole.
    """
    law = finite_law(rewards, probs)
    probs_Y = probability_vector(probs)
    rewards_Y = np.asarray(rewards, dtype=np.float64).ravel()
    level_Y = np.searchsorted(law.values_L, rewards_Y).clip(max=len(law.values_L) - 1)
    return probs_Y * np.exp(log_ratio(law, n))[level_Y]


def expected_reward(law: Law, n: float) -> float:
    """E[max of n rewards] = sum of c (F^n - F-^n), in reward units. O(L)."""
    return float(level_law(law, n) @ law.values_L)


def kl(law: Law, n: float) -> float:
    """KL(pi_n || p) in nats, exact with ties: sum of (F^n - F-^n) log[(F^n - F-^n)/(F - F-)]. O(L).

    At most `kl_bound(n, law.top)`, hence at most `kl_bound(n)` and `kl_ceiling(law)` (arXiv 2401.01879).
    """
    return max(0.0, float(level_law(law, n) @ log_ratio(law, n)))


def kl_bound(n: float, top: float = 0.0) -> float:
    """The largest KL(pi_n || p) in nats when the best reward has probability `top`.

    For top = 0 it is log n - (n-1)/n: exact without ties, otherwise only a bound (arXiv 2401.01879). An atom
    of mass e at the top and no other ties give, with a = 1 - e,

        a^n (log n + (n-1) log a - (n-1)/n) + (1 - a^n) log[(1 - a^n)/e],

    and splitting any other tie only raises the KL. A rule that picks one of n independent draws by any other
    means stays below kl_bound(n) too.
    """
    need_width(n)
    need(0 <= top <= 1, "the probability of the best reward in [0, 1]", top, "change it")
    if top == 1:
        return 0.0
    log_below = math.log1p(-top)
    smooth = math.exp(n * log_below) * (math.log(n) + (n - 1) * log_below - (n - 1) / n)
    wins_top = -math.expm1(n * log_below)
    return smooth + (wins_top * math.log(wins_top / top) if top > 0 else 0.0)


def kl_ceiling(law: Law) -> float:
    """-log P[r = r_max] in nats: no method that returns a best answer needs more, whatever its n."""
    return -math.log(law.top)


def win_rate(law: Law, n: float) -> float:
    """P[the best of n beats one fresh draw], ties counting half: sum of (F^n - F-^n)(F + F-)/2. O(L)."""
    return float(level_law(law, n) @ (law.below_L + law.probs_L / 2))


def win_rate_bound(n: float) -> float:
    """n/(n+1), reached without ties (arXiv 2401.01879)."""
    need_width(n)
    return n / (n + 1)


def estimate_smaller_n(scores: ArrayLike, values: ArrayLike, n: int) -> float:
    """Unbiased estimate, from M >= n scored samples of one prompt, of the mean value of its Best-of-n answer.

    Sort by score; V = sum over i = n..M of w_i v_(i) with w_i = C(i-1, n-1)/C(M, n), the chance that the i-th
    lowest is the best of n drawn without replacement. Tied scores share the mean of their values. w_M = n/M
    and w_i = w_(i+1) (i-n+1)/i, so no binomial is formed. In the units of `values`; O(M log M).

    Args:
        scores: what Best-of-n ranks by, shape M.
        values: what is reported: the scores themselves, another reward, or 0/1 for correct; shape M.
        n: whole, 1 to M.
    """
    scores_M = np.asarray(scores, dtype=np.float64).ravel()
    values_M = np.asarray(values, dtype=np.float64).ravel()
    count = len(scores_M)
    need_count("n", n)
    need(n <= count, f"n of at most the {count} samples", n, "lower n or draw more samples")
    need(len(values_M) == count, "one value for each score", f"{len(values_M)} values and {count} scores",
         "pair them up")
    need(bool(np.isfinite(scores_M).all()), "finite scores", "one that is not",
         "remove the samples that have none")
    _, group_M = np.unique(scores_M, return_inverse=True)
    group_mean = np.bincount(group_M, weights=values_M) / np.bincount(group_M)
    rank = np.arange(n, count)  # i = n..M-1
    weights = n / count * np.append(np.cumprod(((rank - n + 1) / rank)[::-1])[::-1], 1.0)
    return float(weights @ group_mean[np.sort(group_M)][n - 1:])


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Unbiased estimate of P[one of k draws is correct] = 1 - C(M-c, k)/C(M, k) (arXiv 2107.03374). O(k).

    `estimate_smaller_n` with a perfect verifier: scores and values both 1 for correct, 0 for wrong.
    """
    need(0 <= correct <= samples, f"between 0 and {samples} correct samples", correct, "count again")
    need_count("k", k)
    need(k <= samples, f"k of at most the {samples} samples", k, "lower k or draw more samples")
    return 1.0 - math.prod((samples - correct - i) / (samples - i) for i in range(k))


def pass_at_n(rate: float, n: float) -> float:
    """1 - (1 - rate)^n: the chance that one of n answers is correct when each is with probability `rate`."""
    need_width(n)
    need(0 <= rate <= 1, "a rate in [0, 1]", rate, "change it")
    return 1.0 if rate == 1 else -math.expm1(n * math.log1p(-rate))
