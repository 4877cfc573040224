"""Rules that keep more drafted tokens than the target's law allows, and say at what price.

p is the draft's distribution, q the target's. N nodes, V vocabulary. With o the law of a token that comes out and
TV the total variation, no rule has P(reject) + TV(o, q) below TV(p, q); `verify_lossy` and `verify_priced` reach it
at every position, so the shape of over-acceptance is free and only *where* to accept is worth choosing.
(arXiv 2411.00841)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ramify.sampling.draws import Draws, Key
from ramify.speculative.proposal import ROOT, Proposal, normalised
from ramify.speculative.residual import leftover, priced, ratio
from ramify.speculative.verify import Level, Verdict, accepts, descend, follow_up, require_chain, require_rows
from ramify.types import check


def verify_lossy(proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key, *, eps: float = 0.0,
                 lenience: float = 1.0) -> Verdict:
    """Token by token on a chain with x standing at probability b = min(1, (q / lenience + eps) / p).

    Law at each position: o = b p + P norm((q - p)+), P the chance to reject; P + TV(o, q) = TV(p, q) exactly, so the
    residual of the lossless rule is the best one for every b. A token with q = 0 never stands.

    Args:
        eps: probability lent to every token that the target can draw; 0 lends none.
        lenience: in (0, 1]; 1 is lossless, less accepts more.
    """
    check(eps >= 0, "eps of 0 or more", eps, "use 0 for lossless")
    check(0 < lenience <= 1, "lenience in (0, 1]", lenience, "use 1 for lossless")

    def rule(node: int, q_V: Tensor, p_V: Tensor, token: int) -> tuple[float, Tensor]:
        if q_V[token] == 0:
            return 0.0, q_V
        return min(1.0, ratio(q_V, p_V, token, 1 / lenience) + eps / float(p_V[token])), q_V

    return _over_accept(rule, proposal, q_NV, draws, key)


def verify_priced(proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key, *, reward_NV: Tensor, delta: float,
                  gain_only: bool = False) -> Verdict:
    """Token by token on a chain, spending a loss of `delta` per position where it buys the most reward.

    Law at each position: o = `residual.priced(q, p, reward, delta)`, a lossless draw from it. TV(o, q) is delta, or
    all that can be moved if that is less; the chance to reject is TV(p, q) less that; and no law of the same loss on
    that line has a greater expected reward. A token with q = 0 never stands.

    Args:
        reward_NV: [N + 1, V] what each token is worth after each node.
        delta: loss to spend at each position, a total variation.
        gain_only: spend only what raises the expected reward; it then never falls below the target's.
    """
    check(0 <= delta <= 1, "delta in [0, 1]", delta, "use 0 for lossless")
    check(reward_NV.shape == q_NV.shape, f"rewards of shape {tuple(q_NV.shape)}", tuple(reward_NV.shape),
          "give one per node and token")

    def rule(node: int, q_V: Tensor, p_V: Tensor, token: int) -> tuple[float, Tensor]:
        o_V = priced(q_V, p_V, reward_NV[node + 1], delta, gain_only=gain_only)
        return ratio(o_V, p_V, token), o_V

    return _over_accept(rule, proposal, q_NV, draws, key)


Rule = Callable[[int, Tensor, Tensor, int], tuple[float, Tensor]]


def _over_accept(rule: Rule, proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key) -> Verdict:
    """Left to right: `rule(node, q_V, p_V, token)` gives the chance to stand, and o for the residual norm((o - p)+)."""
    require_chain(proposal)

    def level(node: int, q_V: Tensor) -> Level:
        children = proposal.children(node)
        if not children:
            return None, q_V, 0
        p_V = proposal.drawn_from(node, 0, q_V)
        probability, o_V = rule(node, q_V, p_V, proposal.tokens[children[0]])
        if accepts(probability, children[0], draws, key):
            return children[0], q_V, 0
        return None, leftover(o_V, p_V)[0], 1

    return descend(level, proposal, q_NV, draws, key)


def verify_typical(proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key, *, eps: float = 0.09,
                   alpha: float = 0.3) -> Verdict:
    """Medusa's typical acceptance: x stands if q(x) > min(eps, alpha exp(-H(q))), H in nats; then a token from q.

    Lossy, by an amount that depends on the draft and is not known. The longest path of standing tokens wins, ties go
    to the more likely one. Draws only the last token. (arXiv 2401.10774; its settings are the defaults)
    """
    require_rows(proposal, q_NV)
    check(eps >= 0 and alpha >= 0, "eps and alpha of 0 or more", (eps, alpha), "raise them")
    paths, best = {ROOT: (0.0, list[int]())}, ROOT  # log-likelihood and nodes
    for node, (parent, token) in enumerate(zip(proposal.parents, proposal.tokens, strict=True)):
        if parent not in paths:
            continue
        q_V = normalised(q_NV[parent + 1])
        if float(q_V[token]) > min(eps, alpha * float(torch.exp(-torch.special.entr(q_V).sum()))):
            likelihood, nodes = paths[parent]
            paths[node] = likelihood + float(q_V[token].log()), [*nodes, node]
            best = max(best, node, key=lambda end: (len(paths[end][1]), paths[end][0]))
    token = follow_up(normalised(q_NV[best + 1]), draws, key)
    return Verdict(paths[best][1], token, int(bool(proposal.children(best))))
