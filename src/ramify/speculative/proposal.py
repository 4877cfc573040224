"""What a drafter hands to a verifier: drafted tokens, and the distributions they were drawn from.

p is the draft's distribution, q the target's. N nodes, V vocabulary. Node -1 is the root, the end of the
committed text; row `node + 1` of p and of q belongs to what follows the node.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

ROOT = -1

Path = tuple[int, ...]  # drafted tokens, from the committed text on
Scheme = Literal["independent", "without_replacement", "fixed"]


@dataclass(slots=True, eq=False)
class Proposal:
    """Drafted tokens: a tree, of which a chain is a special case. N = 0 is legal: nothing was drafted.

    Every verifier trusts p: the law of its output is wrong if a token was drawn from anything else, or if a token
    was drawn and then left out because of what it is. Which nodes get children, and how many, may be decided by
    anything that was drawn before: a node that stops growing keeps exactly the share that its children would have had.

    Args:
        tokens: [N] ids.
        parents: [N] the node that each continues; a parent comes before its children, and siblings stand in the
            order in which they were drawn.
        p_NV: [N + 1, V] row 0 the root's, row i + 1 node i's: the distribution that its children were drawn from,
            after every transform. Rows of leaves are not read, and those at the end may be missing.
        scheme: "independent" (siblings are i.i.d.; also a chain), "without_replacement" (one after the other, each
            from what is left), or "fixed" (chosen without chance, such as a look-up: p is not read and may be None).
        fixed: nodes whose children were chosen without chance where the others' were not.

    Raises:
        ValueError: sampled tokens without p, a token that p gives no mass, equal siblings without replacement, or
            lists that do not fit together.
    """

    tokens: list[int]
    parents: list[int]
    p_NV: Tensor | None
    scheme: Scheme = "independent"
    fixed: Collection[int] = ()
    _children: list[list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require(len(self.tokens) == len(self.parents), "one parent per token",
                f"{len(self.parents)} parents of {len(self.tokens)} tokens", "use -1 for children of the root")
        self._children = [[] for _ in range(len(self) + 1)]
        for node, parent in enumerate(self.parents):
            require(ROOT <= parent < node, "parents before their children", f"parent {parent} of node {node}",
                    "number the nodes level by level")
            self._children[parent + 1].append(node)
        sampled = [node for node, parent in enumerate(self.parents) if self.scheme_at(parent) != "fixed"]
        if sampled:
            self._check_draws(sampled)

    def _check_draws(self, sampled: list[int]) -> None:
        require(self.p_NV is not None, "the distribution that the tokens were drawn from", "p_NV = None",
                'pass it, or scheme="fixed" for tokens chosen without chance')
        assert self.p_NV is not None
        rows, ids = [self.parents[node] + 1 for node in sampled], [self.tokens[node] for node in sampled]
        count, vocabulary = self.p_NV.shape
        require(max(rows) < count and min(ids) >= 0 and max(ids) < vocabulary, f"p_NV of at least {max(rows) + 1} rows "
                "and as many columns as there are tokens", f"{count} x {vocabulary}", "pass a row for every parent")
        masses = self.p_NV[rows, ids].tolist()
        lies = [node for node, mass in zip(sampled, masses, strict=True) if not mass > 0]
        require(not lies, "tokens that p can draw", f"no mass on nodes {lies}", "pass the p that was drawn from")
        for parent, children in enumerate(self._children, ROOT):
            distinct = len({self.tokens[child] for child in children}) == len(children)
            require(distinct or self.scheme_at(parent) != "without_replacement", "different siblings",
                    f"equal ones under node {parent}", 'pass scheme="independent" if they were drawn independently')

    def __len__(self) -> int:
        return len(self.tokens)

    def children(self, node: int) -> list[int]:
        """Nodes that continue a node (-1: the root), in the order in which they were drawn."""
        return self._children[node + 1]

    def scheme_at(self, node: int) -> Scheme:
        """How the children of a node were drawn."""
        return "fixed" if node in self.fixed else self.scheme

    @property
    def is_chain(self) -> bool:
        """Whether every node has at most one child."""
        return all(len(children) <= 1 for children in self._children)

    @property
    def paths(self) -> list[Path]:
        """[N] the tokens from the committed text up to each node, its own last."""
        paths: list[Path] = []
        for token, parent in zip(self.tokens, self.parents, strict=True):
            paths.append((*(() if parent == ROOT else paths[parent]), token))
        return paths

    @property
    def depths(self) -> list[int]:
        """[N] 1 for children of the root."""
        return [len(path) for path in self.paths]

    def drawn_from(self, node: int, turn: int, like_V: Tensor) -> Tensor:
        """The distribution of a node's child number `turn`, given the earlier ones; float64, on the device of `like_V`.

        One-hot for a token that was chosen without chance. O(V).
        """
        siblings = [self.tokens[child] for child in self.children(node)]
        if self.scheme_at(node) == "fixed":
            one_hot_V = torch.zeros_like(like_V, dtype=torch.float64)
            one_hot_V[siblings[turn]] = 1.0
            return one_hot_V
        assert self.p_NV is not None
        p_V = normalised(self.p_NV[node + 1].to(like_V.device))
        if turn == 0 or self.scheme == "independent":
            return p_V
        p_V[siblings[:turn]] = 0.0
        return normalised(p_V)


def chain(tokens: Sequence[int], p_NV: Tensor | None, scheme: Scheme = "independent") -> Proposal:
    """One continuation; token i was drawn from row i of p. The same errors as `Proposal`."""
    return Proposal(list(tokens), list(range(ROOT, len(tokens) - 1)), p_NV, scheme)


def normalised(weights_V: Tensor) -> Tensor:
    """The weights in float64, divided by their sum: float32 rows sum to 1 only to rounding.

    Raises:
        ValueError: they have no mass, or are not numbers.
    """
    probs_V = weights_V.to(torch.float64, copy=True)
    total = float(probs_V.sum())
    require(0 < total < float("inf"), "a distribution", f"weights that sum to {total}", "mask fewer tokens")
    return probs_V.div_(total)


def require(ok: bool, needed: str, got: str, do: str) -> None:
    """Raise `ValueError` unless `ok`: a mistake in a drafter, not of a user."""
    if not ok:
        raise ValueError(f"needed {needed}; got {got}; {do}")
