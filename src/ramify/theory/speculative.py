"""Speculative decoding: how often a draft is rejected, and what a lossy rule buys (arXiv 2411.00841).

p is the draft's distribution, q the target's. A `Table` gives the distribution after a prefix of tokens, so any
dependence on the past is allowed; sums run over all prefixes, hence cost V^tokens: these are for tables. With a
real pair of models average `tv` over text that the *target* wrote, one teacher-forced pass of each.

`expected_rejections` assumes drafts as long as the answer: a target call happens only after a rejection, so
calls = rejections + 1. For a finite draft length see `speculative_cost`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ramify.theory.checks import need, need_count
from ramify.theory.law import Floats, probability_vector

Prefix = tuple[int, ...]
Table = Callable[[Prefix], ArrayLike]


# One position


def tv(p: ArrayLike, q: ArrayLike) -> float:
    """Total variation, half the sum of |p - q|: the least chance of rejection. In [0, 1]. O(V)."""
    p_V, q_V = pair(p, q)
    return float(np.maximum(q_V - p_V, 0).sum())


def acceptance(p: ArrayLike, q: ArrayLike) -> float:
    """1 - tv = sum of min(p, q): the chance that the ordinary rule min(1, q/p) accepts a draft. O(V)."""
    return float(np.minimum(*pair(p, q)).sum())


def residual(p: ArrayLike, q: ArrayLike) -> Floats:
    """norm((q - p)+), the law of the token after a rejection; q itself where p = q and nothing is rejected."""
    p_V, q_V = pair(p, q)
    left_V = np.maximum(q_V - p_V, 0)
    return left_V / left_V.sum() if left_V.any() else q_V


def all_rejected(p: ArrayLike, q: ArrayLike, drafts: float) -> tuple[float, Floats]:
    """(chance that `drafts` i.i.d. drafts all fail, law of the token then) under recursive rejection.

    Draft m is tested against q^m, q^1 = q, q^(m+1) = norm((q^m - p)+): the chance is the product of
    tv(p, q^m) and the law is the last residual. Infinitely many drafts leave exactly what p never draws.
    """
    p_V, left_V = pair(p, q)
    if drafts == math.inf:
        left_V = np.where(p_V > 0, 0.0, left_V)
    else:
        need_count("drafts", drafts)
        for _ in range(int(drafts)):  # not normalised: the sum of what is left is the chance so far
            left_V = np.maximum(left_V - left_V.sum() * p_V, 0)
    failed = float(left_V.sum())
    return failed, left_V / failed if failed > 0 else pair(p, q)[1]


# A whole answer


def expected_rejections(p: Table, q: Table, tokens: int) -> float:
    """E[rejections] while `tokens` tokens are written: the sum over positions of E_q[tv(p_n, q_n)].

    The expectation over prefixes is under the target. No other accept-or-redraw rule with one draft whose text
    has the target's law has fewer: unbiasedness forces p b <= q at every token, so at most 1 - tv is accepted.
    O(V^tokens).
    """
    need_count("tokens", tokens)

    def after(prefix: Prefix) -> float:
        p_V, q_V = pair(p(prefix), q(prefix))
        here = tv(p_V, q_V)
        if len(prefix) + 1 == tokens:
            return here
        return here + sum(mass * after((*prefix, x)) for x, mass in enumerate(q_V) if mass > 0)

    return after(())


def expected_rejections_batch(p: Table, q: Table, tokens: int, drafts: float) -> float:
    """E[rejections] with `drafts` independent draft sequences from every fresh position; math.inf is the limit.

    A position is fresh at the start and after a rejection. There the first tokens are tested one after the other
    (`all_rejected`); the sequence that passes is kept and verified alone until its first rejection. With f(x) the
    chance that the prefix is x and its last token came from a rejection, f() = 1,

        E = sum E_q[tv] - sum over prefixes of f (tv - all_rejected),

    so the gain has a limit: only fresh positions have more than one draft. O(V^tokens).
    """
    need_count("tokens", tokens)

    def after(prefix: Prefix, mass: float, fresh: float) -> float:
        p_V, q_V = pair(p(prefix), q(prefix))
        one = tv(p_V, q_V)
        failed, last_V = all_rejected(p_V, q_V, drafts)
        here = (mass - fresh) * one + fresh * failed
        if len(prefix) + 1 == tokens:
            return here
        fresh_V = fresh * failed * last_V + (mass - fresh) * np.maximum(q_V - p_V, 0)
        return here + sum(after((*prefix, x), mass * float(q_V[x]), float(fresh_V[x]))
                          for x in np.flatnonzero(q_V).tolist())

    return after((), 1.0, 1.0)


def chain_rejections(p: ArrayLike, q: ArrayLike, tokens: int, drafts: float = 1) -> float:
    """`expected_rejections_batch` where p and q do not depend on the prefix, in closed form. O(V drafts).

    With R1 = tv, R2 = all_rejected and g_n the chance that position n is fresh, g_1 = 1 and
    g_(n+1) = R1 + g_n (R2 - R1), so g tends to R1/(1 + R1 - R2) geometrically and E = sum of R1 - g_n (R1 - R2).
    drafts = math.inf is the limit that this scheme tends to.
    """
    need_count("tokens", tokens)
    one, many = tv(p, q), all_rejected(p, q, drafts)[0]
    drop = many - one
    limit = one / (1 - drop)
    fresh = tokens * limit + (1 - limit) * (1 - drop**tokens) / (1 - drop)
    return tokens * one + drop * fresh


def tilted(q: ArrayLike, weights: ArrayLike) -> Floats:
    """The tilted target norm(q w) of one position; weights of 0 or more, shape V."""
    q_V, weights_V = probability_vector(q), np.asarray(weights, dtype=np.float64).ravel()
    need(len(q_V) == len(weights_V), f"a weight for each of the {len(q_V)} tokens", len(weights_V), "pair them up")
    need(bool((weights_V >= 0).all()) and float(q_V @ weights_V) > 0, "weights of 0 or more, not all 0 on the target",
         weights_V, "use exp(reward/beta) or a probability")
    return q_V * weights_V / float(q_V @ weights_V)


def tilted_rejections(p: Table, q: Table, weights: Table, tokens: int) -> float:
    """E[rejections] when drafts from p are verified against the tilted target t = norm(q w): sum of E_t[tv(p, t)].

    Its excess over `expected_rejections(p, q)` is the price of guidance in target calls. Any w >= 0 that is a
    function of the prefix; drafting from norm(p w) instead is a `p` of its own. O(V^tokens).
    """
    return expected_rejections(p, lambda prefix: tilted(q(prefix), weights(prefix)), tokens)


# Quality against acceleration


def epsilon_rule(p: ArrayLike, q: ArrayLike, epsilon: float) -> Floats:
    """b = min(1, (q + epsilon)/p), the chance to accept each token; 0 is lossless. Shape V."""
    need(epsilon >= 0, "epsilon of 0 or more", epsilon, "0 is lossless")
    p_V, q_V = pair(p, q)
    return _share(q_V + epsilon, p_V)


def lenience_rule(p: ArrayLike, q: ArrayLike, lenience: float) -> Floats:
    """b = min(1, q/(lenience p)), the chance to accept each token; 1 is lossless. Shape V."""
    need(0 < lenience <= 1, "a lenience above 0 and at most 1", lenience, "1 is lossless")
    p_V, q_V = pair(p, q)
    return _share(q_V, lenience * p_V)


def pareto_point(p: ArrayLike, q: ArrayLike, accept: ArrayLike) -> tuple[float, float]:
    """(chance of rejection, tv between output and target) of an acceptance rule b with its best residual.

    Rejection = sum of (1 - b) p, loss = sum of (b p - q)+. Wherever b >= min(1, q/p) their sum is tv(p, q),
    whatever the shape of b: all such rules lie on the straight `pareto_line`. A rule that accepts less somewhere
    pays more rejections for nothing. O(V).
    """
    p_V, q_V = pair(p, q)
    taken_V = _rule(accept, len(p_V)) * p_V
    return float((p_V - taken_V).sum()), float(np.maximum(taken_V - q_V, 0).sum())


def pareto_line(p: ArrayLike, q: ArrayLike, losses: ArrayLike) -> Floats:
    """The least chance of rejection at each loss: (tv(p, q) - loss)+, a segment from (0, tv) to (tv, 0)."""
    return np.maximum(tv(p, q) - np.asarray(losses, dtype=np.float64), 0)


def lossy_law(p: ArrayLike, q: ArrayLike, accept: ArrayLike) -> Floats:
    """The law of the token under an acceptance rule b >= min(1, q/p) with the ordinary residual norm((q - p)+).

    That residual is already the best one for every such b: tv(lossy_law, q) is the loss of `pareto_point`.

    Raises:
        OutOfRange: b accepts less than min(1, q/p) somewhere; its best residual is another one.
    """
    p_V, q_V = pair(p, q)
    taken_V = _rule(accept, len(p_V)) * p_V
    need(bool((taken_V >= np.minimum(p_V, q_V) - 1e-12).all()), "a rule that accepts at least min(1, q/p)",
         "one that accepts less somewhere", "raise it there: it costs rejections and buys nothing")
    return taken_V + float((p_V - taken_V).sum()) * residual(p_V, q_V)


def pair(p: ArrayLike, q: ArrayLike) -> tuple[Floats, Floats]:
    """Two probability vectors over the same tokens.

    Raises:
        OutOfRange: no probability vectors, or not of one length.
    """
    p_V, q_V = probability_vector(p), probability_vector(q)
    need(len(p_V) == len(q_V), "draft and target over the same tokens", f"{len(p_V)} and {len(q_V)} of them",
         "pair them up")
    return p_V, q_V


def _share(top_V: Floats, bottom_V: Floats) -> Floats:
    """min(1, top/bottom), 1 where bottom is 0: such a token is never drafted."""
    return np.minimum(np.divide(top_V, bottom_V, out=np.ones_like(top_V), where=bottom_V > 0), 1.0)


def _rule(accept: ArrayLike, size: int) -> Floats:
    accept_V = np.asarray(accept, dtype=np.float64).ravel()
    need(len(accept_V) == size and bool(((accept_V >= 0) & (accept_V <= 1)).all()),
         f"{size} chances of acceptance in [0, 1]", accept_V, "use epsilon_rule or lenience_rule")
    return accept_V
