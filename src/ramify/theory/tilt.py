"""The tilt p exp(r/beta)/Z: the most reward that a given KL can buy, and soft Best-of-n, which tends to it.

Maximising E[r] under KL(pi || p) <= Delta gives the tilt whose KL is Delta (arXiv 2404.01730), so (KL, E[r])
of any method lies on or below this frontier, and its distance to it is the honest score. KL in nats, beta in
reward units. Shape letter: L levels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ramify.theory import best_of_n
from ramify.theory.checks import need, need_width
from ramify.theory.law import Floats, Law

# The grid in log(w t) for soft Best-of-n. The integrand is analytic for |Im| < pi/2, where the trapezoid
# rule's # error is exp(-pi^2/STEP), and below exp(-45) and exp(-90) outside: nothing is left to tune.
STEP, LEFT, RIGHT = 0.1, 45.0, 4.5


def tilt(law: Law, beta: float) -> Floats:
    """P[level] under p exp(r/beta)/Z; shape L, sums to 1. O(L).

    beta = inf is the policy itself, beta = 0 the limit in which only the best reward is left.
    """
    need(beta >= 0, "beta of 0 or more", beta, "change it")
    if beta == 0:
        return (law.values_L == law.values_L[-1]).astype(np.float64)
    weights_L = law.probs_L * np.exp((law.values_L - law.values_L[-1]) / beta)
    return weights_L / weights_L.sum()


def tilt_point(law: Law, beta: float) -> tuple[float, float]:
    """(KL(p_beta || p) in nats, E[r] under p_beta); KL = E[r]/beta - log Z. O(L)."""
    if beta == 0:
        return best_of_n.kl_ceiling(law), float(law.values_L[-1])
    tilted_L = tilt(law, beta)
    shifted_L = (law.values_L - law.values_L[-1]) / beta
    log_z = math.log(float(law.probs_L @ np.exp(shifted_L)))
    return max(0.0, float(tilted_L @ shifted_L) - log_z), float(tilted_L @ law.values_L)


def beta_for_kl(law: Law, kl: float) -> float:
    """The beta whose tilt has this KL, by bisection on 1/beta (the KL rises with it); inf for KL 0.

    Raises:
        OutOfRange: kl is negative or not below the ceiling -log P[r = r_max], which the tilt only tends to.
    """
    ceiling = best_of_n.kl_ceiling(law)
    need(kl >= 0, "a KL of 0 or more", kl, "change it")
    need(kl < ceiling or kl == 0, f"a KL below the ceiling {ceiling:.6g} nats of this law", kl, "lower it")
    if kl == 0:
        return math.inf
    low, high = 0.0, 1.0 / float(np.ptp(law.values_L))
    while tilt_point(law, 1 / high)[0] < kl and tilt(law, 1 / high)[-1] < 1:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if tilt_point(law, 1 / middle)[0] < kl else (low, middle)
    return 1 / high


def optimum_reward(law: Law, kl: float) -> float:
    """The largest E[r] of any law within `kl` nats of the policy: the tilt's; r_max from the ceiling on."""
    if kl >= best_of_n.kl_ceiling(law):
        return float(law.values_L[-1])
    return tilt_point(law, beta_for_kl(law, kl))[1]


def frontier(law: Law, kls: ArrayLike) -> Floats:
    """`optimum_reward` at each of `kls`, in their order: the curve to plot methods against."""
    return np.array([optimum_reward(law, float(kl)) for kl in np.asarray(kls, dtype=np.float64).ravel()])


def gap_to_best_of_n(law: Law, n: float) -> float:
    """optimum_reward at the exact KL of Best-of-n, minus Best-of-n's E[r]: what Best-of-n leaves, never
    negative."""
    return optimum_reward(law, best_of_n.kl(law, n)) - best_of_n.expected_reward(law, n)


def soft_best_of_n(law: Law, n: float, beta: float) -> Floats:
    """P[level] when n answers are drawn and one is picked with probability proportional to exp(r/beta).

    n = 1 is the policy, beta -> 0 Best-of-n, n -> inf the tilt (arXiv 2505.03156). With w = exp(r/beta) and
    phi(t) = E[exp(-w t)], 1/x = integral of exp(-x t) dt turns n p w E[1/(w + sum of n-1 others)] into

        P[level] = n p w  integral over t > 0 of exp(-w t) phi(t)^(n-1),

    one integral for each level instead of a sum over all multisets of rewards; n may be real. Shape L, exact
    to about 1e-13. O(L^2) times about 500 nodes.
    """
    need_width(n)
    need(beta > 0, "beta above 0", beta, "use a small one for almost Best-of-n")
    if n == 1:
        return law.probs_L
    log_w_L = (law.values_L - law.values_L[-1]) / beta
    log_wt_G = np.arange(-LEFT - math.log(n), RIGHT, STEP)
    density_G = np.exp(log_wt_G - np.exp(log_wt_G))
    picked_L = np.empty_like(log_w_L)
    for level, log_w in enumerate(log_w_L):
        log_phi_G = _log_phi(law.probs_L, np.add.outer(log_w_L - log_w, log_wt_G))
        picked_L[level] = n * law.probs_L[level] * STEP * float(density_G @ np.exp((n - 1) * log_phi_G))
    return picked_L


def _log_phi(probs_L: Floats, log_wt_LG: Floats) -> Floats:
    """log E[exp(-w t)], near phi = 1 from its distance to 1: it is raised to the power n."""
    with np.errstate(over="ignore", divide="ignore"):  # exp(-inf) = 0 and log 0 are meant
        wt_LG = np.exp(log_wt_LG)
        lost_G = probs_L @ np.expm1(-wt_LG)
        return np.where(lost_G > -0.5, np.log1p(np.maximum(lost_G, -0.5)), np.log(probs_L @ np.exp(-wt_LG)))
