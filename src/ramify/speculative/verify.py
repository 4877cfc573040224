"""Which drafted tokens stand, and the token that follows them.

p is the draft's distribution, q the target's. N nodes, V vocabulary. Every rule is a pure function

    verify(proposal, q_NV, draws, key) -> Verdict

of the distributions alone: q_NV is [N + 1, V], row 0 the root's, row i + 1 what follows node i, after every
transform. `key` names this round of drafting; its draws are its own. A rule is *lossless* if the tokens that come
out are distributed as if the target had drawn them one by one, whatever the draft is.

| rule | for | |
|---|---|---|
| `verify_token` | chains | lossless; left to right |
| `verify_block` | chains | lossless; keeps more than any other |
| `verify_recursive` | trees | lossless; sibling after sibling, top down |
| `verify_k_sequential` | i.i.d. trees | lossless; siblings share one divisor |
| `verify_traversal` | trees | lossless; bottom up, the default |
| `verify_coupled` | any | lossless; the very tokens of plain decoding |
| `verify_greedy` | any | temperature 0 |
| `verify_lossy`, `verify_priced` | chains | accept more, for a stated loss |
| `verify_typical` | trees | accepts what is not unlikely; its loss is unknown |

This file holds the rules that go top down; `verify_joint` block and traversal, `verify_relaxed` the last three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ramify.sampling.draws import ACCEPT, RESIDUAL, TOKEN, Draws, Key
from ramify.speculative.proposal import ROOT, Proposal, normalised, require
from ramify.speculative.residual import k_sequential_leftover, k_sequential_rho, leftover, ratio


@dataclass(slots=True, frozen=True)
class Verdict:
    """What a round of drafting came to.

    path: accepted nodes, root to leaf.
    token: what follows them: drawn from what is left of q after a rejection, from q itself after none.
    rejections: failed tests of the rules that go top down; else 1 if drafted tokens were to follow the path, 0 if not.
    """

    path: list[int]
    token: int
    rejections: int

    def text(self, proposal: Proposal) -> list[int]:
        """The tokens to commit: at least one."""
        return [*(proposal.tokens[node] for node in self.path), self.token]


def verify_token(proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key) -> Verdict:
    """Speculative sampling of a chain: left to right, x stands with probability min(1, q/p).

    The first that falls is replaced by a draw from norm((q - p)+), and what follows it is lost. Lossless. Expected
    rejections: TV(p, q) at each position that is reached. (arXiv 2211.17192, 2302.01318)
    """
    require_chain(proposal)
    return verify_recursive(proposal, q_NV, draws, key)


def verify_recursive(proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key) -> Verdict:
    """Top-down rejection of a tree: siblings are tested in turn against what the earlier ones left of q.

    x_j stands with probability min(1, q^j/p^j); if it falls, q^(j+1) = norm((q^j - p^j)+), and p^(j+1) is what
    the next sibling was drawn from. Lossless for every scheme. (arXiv 2402.14160; SpecInfer 2305.09781)
    """

    def level(node: int, q_V: Tensor) -> Level:
        for turn, child in enumerate(proposal.children(node)):
            p_V = proposal.drawn_from(node, turn, q_V)
            if accepts(ratio(q_V, p_V, proposal.tokens[child]), child, draws, key):
                return child, q_V, turn
            q_V, _ = leftover(q_V, p_V)
        return None, q_V, len(proposal.children(node))

    return descend(level, proposal, q_NV, draws, key)


def verify_k_sequential(proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key) -> Verdict:
    """SpecTr: at each node the k i.i.d. siblings stand with probability min(1, q / (rho p)), one rho for all.

    Lossless, and never below (1 - 1/e) of what the best rule for i.i.d. siblings accepts. (arXiv 2310.15141)

    Raises:
        ValueError: siblings that were not drawn independently.
    """

    def level(node: int, q_V: Tensor) -> Level:
        children = proposal.children(node)
        if not children:
            return None, q_V, 0
        alike = len(children) == 1 or proposal.scheme_at(node) == "independent"
        require(alike, "siblings drawn independently", proposal.scheme_at(node), "use verify_traversal")
        p_V = proposal.drawn_from(node, 0, q_V)
        rho = k_sequential_rho(q_V, p_V, len(children))
        for turn, child in enumerate(children):
            if accepts(ratio(q_V, p_V, proposal.tokens[child], 1 / rho), child, draws, key):
                return child, q_V, turn
        return None, k_sequential_leftover(q_V, p_V, len(children), rho), len(children)

    return descend(level, proposal, q_NV, draws, key)


def verify_coupled(proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key) -> Verdict:
    """The target draws every token itself, with the keys of plain decoding; drafted tokens that agree save the wait.

    Plain decoding draws the first of them under Key(key.stream, key.position), so the text is its text, token for
    token, whatever the draft did. Of drafts that were drawn independently it keeps less than the others, sum q p of a
    single token for their sum min(p, q); `Draws.guess` drafts with the same random numbers.
    """
    require_rows(proposal, q_NV)

    def pick(node: int, depth: int) -> int:
        # The row as it came: plain decoding draws from the same numbers.
        [token] = draws.categorical(q_NV[node + 1][None], [Key(key.stream, key.position + depth, TOKEN)])
        return token

    return _follow(proposal, pick)


def verify_greedy(proposal: Proposal, q_NV: Tensor, draws: Draws, key: Key) -> Verdict:
    """Temperature 0: the drafted path of most likely tokens, then the next one. Draws nothing.

    The text is that of greedy decoding.
    """
    require_rows(proposal, q_NV)
    return _follow(proposal, lambda node, depth: int(q_NV[node + 1].argmax()))


def _follow(proposal: Proposal, pick: Callable[[int, int], int]) -> Verdict:
    """Walk from the root to the child that holds the picked token, as long as there is one."""
    path, node = list[int](), ROOT
    while True:
        token = pick(node, len(path))
        children = proposal.children(node)
        match = [child for child in children if proposal.tokens[child] == token]
        if not match:
            return Verdict(path, token, int(bool(children)))
        node = match[0]
        path.append(node)


Level = tuple[int | None, Tensor, int]  # the accepted child, what is left of q, failed tests


def descend(level: Callable[[int, Tensor], Level], proposal: Proposal, q_NV: Tensor, draws: Draws,
            key: Key) -> Verdict:
    """Top down: `level` tests the children of a node against q; on to the accepted one, or draw from what is left."""
    require_rows(proposal, q_NV)
    path, node, rejections = list[int](), ROOT, 0
    while True:
        child, left_V, failed = level(node, normalised(q_NV[node + 1]))
        rejections += failed
        if child is None:
            return Verdict(path, follow_up(left_V, draws, key), rejections)
        path.append(child)
        node = child


def accepts(probability: float, node: int, draws: Draws, key: Key) -> bool:
    """The one test of a node."""
    return draws.bernoulli(probability, key._replace(purpose=ACCEPT).part(node))


def follow_up(q_V: Tensor, draws: Draws, key: Key) -> int:
    """The token after the accepted path."""
    [token] = draws.categorical(q_V[None], [key._replace(purpose=RESIDUAL)])
    return token


def require_chain(proposal: Proposal) -> None:
    """Raise `ValueError` for a tree."""
    require(proposal.is_chain, "a chain", "a tree", "use verify_traversal")


def require_rows(proposal: Proposal, q_NV: Tensor) -> None:
    """Raise `ValueError` unless q has a row for the root and for every node, as wide as p's."""
    same = proposal.p_NV is None or proposal.p_NV.shape[1] == q_NV.shape[1]
    require(len(q_NV) == len(proposal) + 1 and same, f"q_NV of {len(proposal) + 1} rows and p's vocabulary",
            f"{tuple(q_NV.shape)}", "pass the target's row of the root and of every node")
