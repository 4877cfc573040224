"""Lossless rules that judge a path as a whole, from its end: block verification, and traversal for trees.

p is the draft's distribution, q the target's. N nodes, V vocabulary. The *share* of a node is the probability with
which it may stand given that it was drafted: what the target asks of its path over what the draft gave, cut at 1 on
the way. A token that the target likes more than the draft makes up for an earlier one that it likes less, which
token-by-token rules cannot use.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ramify.sampling.draws import Draws, Key
from ramify.speculative.proposal import ROOT, Proposal, normalised
from ramify.speculative.residual import leftover, ratio, still_fits
from ramify.speculative.verify import Verdict, accepts, follow_up, require_chain, require_rows


def verify_block(proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key) -> Verdict:
    """The longest beginning of a chain that passes its test, though shorter ones may fail theirs.

    share_i = min(1, share_(i-1) q/p); i tokens pass with probability S / (S + 1 - share_i), where S is the mass of
    (share_i q - p)+ at the next position, and all of them with their share. Then norm((share_i q - p)+) goes on.
    Lossless, expected length sum E_p[share_i]: no lossless rule for a chain keeps more. (arXiv 2403.10444)
    """
    require_chain(proposal)
    require_rows(proposal, q_NV)
    shares, laws = [1.0], [normalised(q_NV[0])]
    for node, token in enumerate(proposal.tokens):
        shares.append(ratio(laws[-1], proposal.drawn_from(node - 1, 0, laws[-1]), token, shares[-1]))
        if shares[-1] == 0:  # from here on nothing can stand, and q need not even be a distribution
            break
        laws.append(normalised(q_NV[node + 1]))
    for length in reversed(range(len(laws))):
        left_V, passing = laws[length], shares[length]
        if length < len(proposal):
            left_V, mass = leftover(left_V, proposal.drawn_from(length - 1, 0, left_V), passing)
            passing = still_fits(mass, passing)
        if length == 0 or accepts(passing, length - 1, draws, key):
            break
    return Verdict(list(range(length)), follow_up(left_V, draws, key), int(length < len(proposal)))


@dataclass(slots=True)
class _Spot:
    """A node on the path that is being judged, with what its fallen children left of q and of its share."""

    node: int
    share: float
    q_V: Tensor
    turn: int = 0  # children that fell


def verify_traversal(proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key) -> Verdict:
    """The default for trees: walk to the first leaf, let its whole path stand with the leaf's share, else delete it.

    After a deletion q at the parent becomes norm((share q - p)+) and the parent's share S / (S + 1 - share), S the
    mass before normalising; the next sibling is tried with these, and a node without children left is a leaf itself.
    The root always stands. Lossless for every scheme, never shorter in the mean than `verify_recursive`, and block
    verification on a chain. Costs O(V) per node visited. (arXiv 2505.12398)
    """
    require_rows(proposal, q_NV)
    path = [_Spot(ROOT, 1.0, normalised(q_NV[0]))]
    while True:
        spot = path[-1]
        children = proposal.children(spot.node)
        if spot.turn < len(children):
            child = children[spot.turn]
            p_V = proposal.drawn_from(spot.node, spot.turn, spot.q_V)
            share = ratio(spot.q_V, p_V, proposal.tokens[child], spot.share)
            if share > 0:  # else nothing below can stand, and q need not even be a distribution
                path.append(_Spot(child, share, normalised(q_NV[child + 1])))
                continue
        elif len(path) == 1 or accepts(spot.share, spot.node, draws, key):
            nodes = [stood.node for stood in path[1:]]
            return Verdict(nodes, follow_up(spot.q_V, draws, key), int(spot.turn > 0))
        else:
            path.pop()
        _drop_child(path[-1], proposal)


def _drop_child(spot: _Spot, proposal: Proposal) -> None:
    """The child whose turn it is fell."""
    p_V = proposal.drawn_from(spot.node, spot.turn, spot.q_V)
    spot.q_V, mass = leftover(spot.q_V, p_V, spot.share)
    spot.share = still_fits(mass, spot.share)
    spot.turn += 1
