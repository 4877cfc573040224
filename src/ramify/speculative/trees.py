"""Drafting of trees, level by level, as generators: the caller runs the draft, for many trees in one pass.

p is the draft's distribution. R paths of one level, V vocabulary. A generator yields the paths of a level, first the
empty one, the root; receives p after each of them, p_RV; and returns the proposal. A row of zeros ends its path, for
instance after an end token. p stands in the proposal as it was drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from ramify.sampling.draws import DRAFT, Draws, Key, mix
from ramify.speculative.proposal import ROOT, Path, Proposal, Scheme
from ramify.types import check

Noise = Callable[[int, int], Tensor]  # (node, V) -> [V] independent standard Gumbel numbers
Growth = Generator[list[Path], Tensor, Proposal]
Child = tuple[int, int]  # parent node, token


def grow_independent(branching: Sequence[int], draws: Draws, key: Key) -> Growth:
    """A tree whose nodes at level l have `branching[l]` i.i.d. children; (1, 1, 1) is a chain of three.

    Siblings may repeat; `grow_without_replacement` wastes none. (SpecTr 2310.15141)
    """

    def pick(p_V: Tensor, width: int, first: int) -> list[int]:
        keys = [_draft(key).part(first + turn) for turn in range(width)]
        return draws.categorical(p_V.expand(width, -1), keys) if p_V.any() else []

    return _grow(branching, pick, "independent")


def grow_without_replacement(branching: Sequence[int], draws: Draws, key: Key) -> Growth:
    """RSD-C: nodes at level l have `branching[l]` different children, drawn one after the other from what is left.

    The law of the Gumbel-top-k trick. Fewer children where p has less support. (arXiv 2402.14160)
    """

    def pick(p_V: Tensor, width: int, first: int) -> list[int]:
        # Its parts are those of `first` and of the numbers after it: no other node has them.
        return draws.without_replacement(p_V, min(width, int((p_V > 0).sum())), _draft(key).part(first))

    return _grow(branching, pick, "without_replacement")


def grow_beam(width: int, depth: int, noise: Noise) -> Growth:
    """RSD-S: of each level only the `width` nodes with the greatest perturbed log-probability grow.

    The paths of a level are a draw without replacement from all paths of its length, so the tree is wide where the
    draft is unsure. Who the next sibling is does not depend on its perturbed value, given the earlier ones, so they
    have the law of draws without replacement although values decide what grows. (arXiv 2402.14160, 1903.06059)

    Args:
        noise: `gumbel(key)` outside tests.
    """
    check(width >= 1 and depth >= 1, "width and depth of at least 1", (width, depth), "raise them")
    log_p, value, paths = {ROOT: 0.0}, {ROOT: 0.0}, {ROOT: Path()}
    children, rows, level = list[Child](), list[Tensor](), [ROOT]
    for _ in range(depth):
        p_RV = yield [paths[node] for node in level]
        rows.append(p_RV)
        grown: list[tuple[float, float, Child]] = []  # perturbed, plain log-probability
        for node, p_V in zip(level, p_RV.double(), strict=True):
            if not p_V.any():
                continue
            log_V = log_p[node] + (p_V / p_V.sum()).log()
            perturbed_V = given_maximum(log_V + noise(node, len(p_V)).to(log_V), value[node])
            tops = perturbed_V.topk(min(width, int((p_V > 0).sum())))
            grown += [(top, float(log_V[token]), (node, token))
                      for top, token in zip(tops.values.tolist(), tops.indices.tolist(), strict=True)]
        level = []
        for top, plain, (node, token) in sorted(grown, reverse=True)[:width]:
            new = len(children)
            children.append((node, token))
            value[new], log_p[new], paths[new] = top, plain, (*paths[node], token)
            level.append(new)
        if not level:
            break
    return Proposal([token for _, token in children], [node for node, _ in children], torch.cat(rows),
                    "without_replacement")


def grow_likely(width: int, depth: int, size: int) -> Growth:
    """The most likely nodes by the draft's probability of their whole path, chosen without chance: scheme "fixed".

    At each of `depth` levels the `width` likeliest nodes grow `width` children each; the `size` likeliest of all are
    kept. Siblings in order of probability. Draws nothing; a child is accepted with probability q. (EAGLE-2 2406.16858)
    """
    check(min(width, depth, size) >= 1, "width, depth and size of at least 1", (width, depth, size), "raise them")
    chances, paths, children = {ROOT: 1.0}, {ROOT: Path()}, list[Child]()
    level = [ROOT]
    for _ in range(depth):
        found: list[int] = []
        p_RV = yield [paths[node] for node in level]
        for node, p_V in zip(level, p_RV.double(), strict=True):
            tops = p_V.topk(min(width, len(p_V)))
            for p, token in zip(tops.values.tolist(), tops.indices.tolist(), strict=True):
                if p > 0:
                    found.append(len(children))
                    paths[found[-1]], chances[found[-1]] = (*paths[node], token), chances[node] * p
                    children.append((node, token))
        level = sorted(found, key=lambda node: -chances[node])[:width]
        if not level:
            break
    # No child is likelier than its parent, and of equals the elder stays: what is kept is a tree.
    kept = sorted(sorted(range(len(children)), key=lambda node: -chances[node])[:size])
    number = {ROOT: ROOT, **{node: at for at, node in enumerate(kept)}}
    return Proposal([children[node][1] for node in kept], [number[children[node][0]] for node in kept], None, "fixed")


def gumbel(key: Key) -> Noise:
    """The Gumbel noise of one round of drafting, keyed by node."""

    def noise(node: int, count: int) -> Tensor:
        source = torch.Generator().manual_seed(mix(*_draft(key).part(node + 1)) >> 1)
        return -torch.empty(count, dtype=torch.float64).exponential_(generator=source).log()

    return noise


def given_maximum(perturbed_V: Tensor, maximum: float) -> Tensor:
    """Gumbel numbers conditioned on their maximum: -log(exp(-m) - exp(-Z) + exp(-G)), Z the greatest of them.

    In a form that neither overflows nor cancels. Their order stays.
    """
    gap_V = perturbed_V - perturbed_V.max()
    # log(1 - exp(gap)), each side of -log 2 by the form that is exact there.
    log_rest_V = torch.where(gap_V > -math.log(2), (-torch.expm1(gap_V)).log(), torch.log1p(-gap_V.exp()))
    below_V = maximum - perturbed_V + log_rest_V
    return maximum - below_V.clamp(min=0.0) - torch.log1p((-below_V.abs()).exp())


def _draft(key: Key) -> Key:
    return key._replace(purpose=DRAFT)


def _grow(branching: Sequence[int], pick: Callable[[Tensor, int, int], list[int]], scheme: Scheme) -> Growth:
    """Level by level; `pick(p_V, width, first)` draws the children of a node, which are numbered from `first`."""
    check(all(width >= 1 for width in branching), "branching of at least 1 per level", tuple(branching), "raise it")
    tokens, parents, rows = list[int](), list[int](), list[Tensor]()
    level = {ROOT: Path()}
    for width in branching:
        p_RV = yield list(level.values())
        rows.append(p_RV)
        grown: dict[int, Path] = {}
        for (node, path), p_V in zip(level.items(), p_RV, strict=True):
            for token in pick(p_V, width, len(tokens)):
                grown[len(tokens)] = (*path, token)
                tokens.append(token)
                parents.append(node)
        level = grown
        if not level:
            break
    # Whole levels grow, in the order of their numbers: the rows lie where the nodes' are looked for.
    return Proposal(tokens, parents, torch.cat(rows) if rows else None, scheme)
