"""Which verifier accepts most: chains of drafts, and several drafts for one position.

p is the draft's distribution, q the target's; `Table` and the prefix sums are those of `speculative`. Every rule
here leaves the target's law as it is, so acceptance is the only difference. Letters: k drafts, V tokens.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ramify.theory.checks import need, need_count
from ramify.theory.law import Floats
from ramify.theory.speculative import Prefix, Table, all_rejected, pair

# What `without_replacement_acceptance` is willing to sum over: seconds.
MOST_ORDERS = 100_000

# Chains whose running ratios agree to this many decimals are one: their order of multiplication differs.
DECIMALS = 13


# A chain of `length` drafts: E[accepted], without the token that the target adds


def accepted_tokenwise(p: Table, q: Table, length: int) -> float:
    """E[accepted tokens] of a chain verified token by token: sum over i <= length of sum prod min(p, q).

    One more token per call comes from the target. O(V^length).
    """

    def after(prefix: Prefix, mass: float) -> float:
        if len(prefix) == length or mass == 0:
            return 0.0
        both_V = mass * np.minimum(*pair(p(prefix), q(prefix)))
        return float(both_V.sum()) + sum(after((*prefix, x), float(both)) for x, both in enumerate(both_V))

    need_count("length", length)
    return after((), 1.0)


def accepted_block(p: Table, q: Table, length: int) -> float:
    """E[accepted tokens] of a chain under block verification (arXiv 2403.10444), the most any verifier gets.

    Sum over i <= length of E_p[pi_i], pi_0 = 1, pi_i = min(1, pi_(i-1) q_i/p_i). O(V^length).
    """

    def after(prefix: Prefix, mass: float, ratio: float) -> float:
        if len(prefix) == length or mass == 0 or ratio == 0:
            return 0.0
        p_V, q_V = pair(p(prefix), q(prefix))
        drawn = np.flatnonzero(p_V).tolist()
        ratios = [min(1.0, ratio * float(q_V[x] / p_V[x])) for x in drawn]
        return sum(mass * float(p_V[x]) * new + after((*prefix, x), mass * float(p_V[x]), new)
                   for x, new in zip(drawn, ratios, strict=True))

    need_count("length", length)
    return after((), 1.0, 1.0)


def accepted_tokenwise_chain(p: ArrayLike, q: ArrayLike, length: int) -> float:
    """`accepted_tokenwise` where p and q do not depend on the prefix: a + a^2 + ... + a^length, a = acceptance."""
    need_count("length", length)
    share = float(np.minimum(*pair(p, q)).sum())
    return sum(share**i for i in range(1, length + 1))


def accepted_block_chain(p: ArrayLike, q: ArrayLike, length: int) -> float:
    """`accepted_block` where p and q do not depend on the prefix, chains with equal pi merged.

    The number of different pi grows like length^(V-1) at most, not like V^length.
    """
    need_count("length", length)
    p_V, q_V = pair(p, q)
    p_V, q_V = p_V[p_V > 0], q_V[p_V > 0]
    ratio_S, mass_S, total = np.ones(1), np.ones(1), 0.0
    for _ in range(length):
        ratios, masses = np.minimum(1.0, np.outer(ratio_S, q_V / p_V)).ravel(), np.outer(mass_S, p_V).ravel()
        total += float(ratios @ masses)
        merged, state = np.unique(ratios.round(DECIMALS), return_inverse=True)
        ratio_S, mass_S = merged, np.bincount(state, weights=masses).astype(np.float64)
    return total


# Several drafts for one position: the chance that one of them is accepted


def naive_acceptance(p: ArrayLike, q: ArrayLike, drafts: int) -> float:
    """Draw y from q, accept if it is among k i.i.d. drafts: sum of q (1 - (1 - p)^k). O(V)."""
    need_count("drafts", drafts)
    p_V, q_V = pair(p, q)
    return float(q_V @ (1 - (1 - p_V) ** drafts))


def recursive_acceptance(p: ArrayLike, q: ArrayLike, drafts: float) -> float:
    """Recursive rejection of k i.i.d. drafts, 1 - `all_rejected`; k = 1 is `acceptance`. O(V k)."""
    return 1 - all_rejected(p, q, drafts)[0]


def k_sequential(p: ArrayLike, q: ArrayLike, drafts: int) -> tuple[float, float]:
    """(rho, acceptance) of k-sequential selection from k i.i.d. drafts (SpecTr, arXiv 2310.15141).

    Each draft is accepted with min(1, q/(rho p)). With beta(rho) = sum of min(p, q/rho), rho in [1, k] solves
    1 - (1 - beta)^k = rho beta, by bisection: the left side falls and the right side rises in rho. O(60 V).
    """
    need_count("drafts", drafts)
    p_V, q_V = pair(p, q)

    def accepted(rho: float) -> tuple[float, float]:
        beta = min(1.0, float(np.minimum(p_V, q_V / rho).sum()))
        return 1 - (1 - beta) ** drafts, rho * beta

    low, high = 1.0, float(drafts)
    while low < (middle := (low + high) / 2) < high:
        left, right = accepted(middle)
        low, high = (middle, high) if left > right else (low, middle)
    return high, accepted(high)[0]


def sibling_orders(p: ArrayLike, drafts: int) -> int:
    """How many orders of all drafts but the last `without_replacement_acceptance` sums over."""
    need_count("drafts", drafts)
    tokens = int((np.asarray(p) > 0).sum())
    return math.perm(tokens, min(drafts, tokens) - 1)


def without_replacement_acceptance(p: ArrayLike, q: ArrayLike, drafts: int) -> float:
    """Recursive rejection of k drafts drawn without replacement (RSD, arXiv 2402.14160).

    Draft j is tested with min(1, q^j/p^j), p^j being p without the drafts before it; k beyond the tokens that p
    can draw changes nothing. At least `recursive_acceptance`. Sums over all `sibling_orders`.

    Raises:
        OutOfRange: more than 100,000 orders.
    """
    p_V, q_V = pair(p, q)
    orders = sibling_orders(p_V, drafts)
    need(orders <= MOST_ORDERS, f"at most {MOST_ORDERS:,} orders of the drafts", f"{orders:.3g}",
         "lower the drafts or the tokens")

    def missed(p_V: Floats, q_V: Floats, left: int) -> float:
        """The chance that all of `left` drafts fail."""
        rest_V = np.maximum(q_V - p_V, 0)
        failed = float(rest_V.sum())
        held = np.flatnonzero(p_V)
        if left == 1 or len(held) <= 1 or failed == 0:
            return failed
        fails_V = np.maximum(p_V - q_V, 0)
        return sum(float(fails_V[x]) * missed(_without(p_V, x), rest_V / failed, left - 1)
                   for x in held.tolist() if fails_V[x] > 0)

    return 1 - missed(p_V, q_V, drafts)


def iid_bound(p: ArrayLike, q: ArrayLike, drafts: int) -> float:
    """The most any lossless verifier accepts from k i.i.d. drafts: min over sets S of q(S) + 1 - p(S)^k.

    The value of the optimal transport problem. q(S) - p(S)^k is concave in the indicator of S, so the minimum is
    at a set of the tokens with the smallest q/p, and one sort replaces the 2^V sets. O(V log V).
    """
    need_count("drafts", drafts)
    p_V, q_V = pair(p, q)
    p_V, q_V = p_V[p_V > 0], q_V[p_V > 0]  # a token that p never draws only raises q(S)
    order = np.argsort(q_V / p_V)
    return min(1.0, 1 + float((np.cumsum(q_V[order]) - np.cumsum(p_V[order]) ** drafts).min()))


def _without(p_V: Floats, token: int) -> Floats:
    left_V = p_V.copy()
    left_V[token] = 0
    return left_V / left_V.sum()
