"""Calibrated rewards and the policy that is best *under* Best-of-N (InfAlign, arXiv 2412.19792).

A calibrated reward is the chance of beating a fresh draw from the policy, so it means the same on every
prompt. If answers will be chosen by Best-of-n, the policy to train is the tilt by a transform Phi of that
reward, not by the reward itself. All of it is exact for a finite law; a continuous reward is the uniform grid
`grid(points)`.

Shape letters: L levels, K base samples. p is the base policy, q the aligned one, F and G their CDFs, and B
the mid-ranks of Best-of-n from p: P[it is below the level] + half P[it is on the level].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ramify.theory import best_of_n
from ramify.theory.checks import need, need_count, need_width
from ramify.theory.law import Floats, Law, finite_law, probability_vector


def calibrate(rewards: ArrayLike, base_rewards: ArrayLike) -> Floats:
    """C = P[base < r] + half P[base = r], estimated from K base samples of the prompt; shape of `rewards`.

    In [0, 1] in steps of 1/(2K): K = 100 cannot tell the best two per cent apart. Its mean over answers of
    another policy is that policy's win rate. O(K log K).
    """
    base_K = np.sort(np.asarray(base_rewards, dtype=np.float64).ravel())
    need(len(base_K) >= 1, "at least one base sample", "none", "score some answers of the base policy")
    values = np.asarray(rewards, dtype=np.float64)
    below, upto = np.searchsorted(base_K, values, "left"), np.searchsorted(base_K, values, "right")
    return (below + upto) / (2 * len(base_K))


def quantiles(law: Law) -> Floats:
    """C of each level: F- + half the level's probability; shape L, mean 1/2 under the law itself."""
    return law.below_L + law.probs_L / 2


def grid(points: int) -> Law:
    """The uniform law on the midpoints of `points` cells of [0, 1]: a continuous calibrated reward."""
    need_count("points", points)
    return finite_law((np.arange(points) + 0.5) / points, np.full(points, 1 / points))


def divergence(law: Law, aligned: ArrayLike) -> float:
    """KL(q || p) in nats of a law q on the same levels."""
    aligned_L = _same_levels(law, aligned)
    held_L = aligned_L > 0
    return float(aligned_L[held_L] @ np.log(aligned_L[held_L] / law.probs_L[held_L]))


def win_rate(law: Law, aligned: ArrayLike, n: float) -> float:
    """P[Best-of-n from the aligned policy beats Best-of-n from the base], ties counting half. O(L).

    Args:
        law: the base law p.
        aligned: q, probabilities of the same levels, shape L.
        n: candidates of both.
    """
    return float(_best_of(_same_levels(law, aligned), n) @ _ranks(law, n))


def win_rate_continuous(cdf: Callable[[Floats], Floats], n: float, points: int = 200) -> float:
    """W = integral of u^n d(G^n) = 1 - n integral of u^(n-1) G(u)^n, by Gauss-Legendre quadrature.

    The win rate when the calibrated reward u is continuous and has CDF `cdf` on [0, 1] under the aligned
    policy. Exact for polynomial G of degree d while n (d + 1) <= 2 * points.
    """
    need_width(n)
    nodes, weights = np.polynomial.legendre.leggauss(points)
    u = (nodes + 1) / 2
    return 1.0 - n * float(weights / 2 @ (u ** (n - 1) * cdf(u) ** n))


def transform(law: Law, aligned: ArrayLike, n: float) -> Floats:
    """Phi, the derivative of `win_rate` by q, up to a constant: what the policy should be tilted by.

    Phi(l+1) - Phi(l) = n G(l)^(n-1) (B(l+1) - B(l)); on a fine grid Phi' = n^2 u^(n-1) G^(n-1). For n = 1 it
    is the calibrated reward; for a weak tilt (G = u) it tends to n^2/(2n-1) u^(2n-1). Shape L. O(L).
    """
    upto_L = np.cumsum(_same_levels(law, aligned))
    ranks_L = _ranks(law, n)
    return np.concatenate([[0.0], np.cumsum(n * upto_L[:-1] ** (n - 1) * np.diff(ranks_L))]) + ranks_L[0]


def aligned_law(law: Law, n: float, beta: float) -> Floats:
    """The q that maximises win_rate - beta KL(q || p): the fixed point q = p exp(Phi_q/beta)/Z. Shape L.

    The objective is concave, so there is one. Phi needs G only from below, so q of the lowest level fixes all
    others: the sum of q rises with it, and bisection makes it 1. That replaces the damped iteration, which
    needs ever smaller steps as beta falls. O(60 L).
    """
    need_width(n)
    need(beta > 0, "beta above 0", beta, "use a larger one to stay nearer to the base policy")
    log_p = [float(x) for x in np.log(law.probs_L)]
    pulls = [float(x) for x in n / beta * np.diff(_ranks(law, n))]

    def grow(log_first: float) -> tuple[list[float], float]:
        """log q level by level, and the sum of q, or more than 1 as soon as it passes 1."""
        log_q, total = [log_first], math.exp(log_first)
        for pull, log_now, log_next in zip(pulls, log_p, log_p[1:], strict=False):
            step = log_q[-1] - log_now + log_next + pull * total ** (n - 1)
            if step > 0 or (total := total + math.exp(step)) > 1:
                return log_q, math.inf
            log_q.append(step)
        return log_q, total

    low, high = log_p[0] - sum(pulls) - 1.0, log_p[0]
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if grow(middle)[1] < 1 else (low, middle)
    aligned_L = np.exp(grow(low)[0])
    return aligned_L / aligned_L.sum()


def _same_levels(law: Law, aligned: ArrayLike) -> Floats:
    aligned_L = probability_vector(aligned)
    need(len(aligned_L) == len(law.probs_L), f"a probability for each of the {len(law.probs_L)} levels",
         len(aligned_L), "pair them up")
    return aligned_L


def _best_of(probs_L: Floats, n: float) -> Floats:
    """Level law of Best-of-n for probabilities that may be 0."""
    upto_L = np.minimum(np.cumsum(probs_L), 1.0) ** n
    return np.diff(upto_L, prepend=0.0)


def _ranks(law: Law, n: float) -> Floats:
    best_L = best_of_n.level_law(law, n)
    return np.cumsum(best_L) - best_L / 2
