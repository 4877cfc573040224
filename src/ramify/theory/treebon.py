"""TreeBoN (arXiv 2410.16033): tokens per layer, and what is known of its output law.

Layer 1 draws n pieces; every later layer keeps the best floor(n/c) candidates and grows c children from each,
so if c divides n each layer decodes n pieces and the total is Best-of-n's. What differs is the scoring: an
implicit reward runs two models (the preference-tuned policy and its reference) over all layers but the last.

Limits of the output law. One layer, or c = 1, is Best-of-n. c = n keeps one survivor per layer: a chain of
Best-of-n choices, `one_survivor_law`. Everything here assumes that no answer ends before `max_tokens`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from ramify.theory import best_of_n
from ramify.theory.checks import need, need_count
from ramify.theory.law import Floats


@dataclass(frozen=True, slots=True)
class Layer:
    """`width` candidates, children of `parents` survivors (0: of the prompt), grow from `start` to `end`."""

    start: int
    end: int
    width: int
    parents: int

    @property
    def tokens(self) -> int:
        """Answer tokens decoded in this layer."""
        return self.width * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Tree:
    """Layers in order. Token counts are forward tokens; `prompt_tokens` defaults to an empty prompt."""

    layers: tuple[Layer, ...]

    @property
    def width(self) -> int:
        """n, the candidates of the first layer."""
        return self.layers[0].width

    @property
    def length(self) -> int:
        """Tokens of a finished answer."""
        return self.layers[-1].end

    @property
    def decode_tokens(self) -> int:
        """Decoded tokens: n * max_tokens, as for Best-of-n, if c divides n."""
        return sum(layer.tokens for layer in self.layers)

    def target_tokens(self, prompt_tokens: int = 0) -> int:
        """Forward tokens of the target: the prompt once, then every token that something grew from.

        The last token of a piece is fed once if its candidate survives, for all its children, and never if not.
        """
        return prompt_tokens + sum(layer.tokens - layer.width + layer.parents for layer in self.layers)

    def scorer_tokens(self, prompt_tokens: int = 0, *, reuse: bool = True, models: int = 2) -> int:
        """Forward tokens of the models that score every layer but the last.

        With l = max_tokens/layers and `reuse`, their caches forking with the tree: models times
        (prompt + n l (layers-1)). Without, every prefix is read again: models times the sum over i < layers
        of n (prompt + i l).
        """
        scored = self.layers[:-1]
        if reuse:
            return models * (prompt_tokens * bool(scored) + sum(layer.tokens for layer in scored))
        return models * sum(layer.width * (prompt_tokens + layer.end) for layer in scored)

    def reward_tokens(self, prompt_tokens: int = 0, *, reuse: bool = True) -> int:
        """Forward tokens of the reward model over the finished answers, n of them if c divides n.

        With `reuse` the prompt is read once: prompt + n * max_tokens. Without: n (prompt + max_tokens).
        """
        leaves = self.layers[-1].width
        return leaves * self.length + prompt_tokens * (1 if reuse else leaves)

    def reward_tokens_forked(self, prompt_tokens: int = 0) -> int:
        """The most the reward model reads if its cache forks with the tree: shared ancestors are read once.

        prompt + last layer + sum over earlier layers of (survivors * l); fewer when survivors share a parent.
        """
        shared = sum(later.parents * (layer.end - layer.start)
                     for layer, later in zip(self.layers, self.layers[1:], strict=False))
        return prompt_tokens + self.layers[-1].tokens + shared


def tree(n: int, layers: int, children: int, max_tokens: int) -> Tree:
    """The layers of TreeBoN: n candidates, then `children` for each of floor(n / children) survivors.

    Each layer is ceil(max_tokens / layers) tokens, the last one shorter; where that fills max_tokens early,
    there are fewer layers. Unless `children` divides n, later layers are narrower than the first.
    """
    _need_tree(n, layers, children)
    need_count("max_tokens", max_tokens)
    piece, parents = math.ceil(max_tokens / layers), n // children
    return Tree(tuple(
        Layer(start, min(start + piece, max_tokens), parents * children if start else n, parents if start else 0)
        for start in range(0, max_tokens, piece)))


def kl_bound(n: int, layers: int, children: int) -> float:
    """A bound in nats on KL(law of the answer || policy), whatever the scores.

    The answer is one leaf of the full unpruned tree, whose n c^(layers-1) leaves each follow the policy, so
    the density ratio is at most that number and the KL at most log n + (layers-1) log c. With one survivor
    a layer, or one layer, or c = 1, layers are plain Best-of-N choices and each adds log N - (N-1)/N at most.
    """
    _need_tree(n, layers, children)
    if layers == 1 or children == 1:
        return best_of_n.kl_bound(n)
    if n // children == 1:
        return best_of_n.kl_bound(n) + (layers - 1) * best_of_n.kl_bound(children)
    return math.log(n) + (layers - 1) * math.log(children)


def one_survivor_law(probs: ArrayLike, scores: ArrayLike, ends: Sequence[tuple[ArrayLike, ArrayLike]],
                     n: int, children: int) -> list[Floats]:
    """Exact law of two layers with one survivor: best of n first pieces by score, of c ends by reward.

    pi(s, y) = pi_n(s) pi_c(y | s), both factors from `best_of_n.sequence_law`, ties uniform. It is TreeBoN's
    law if floor(n / c) = 1, and that of blockwise Best-of-N for any c.

    Args:
        probs: P[first piece], shape S.
        scores: the partial score of each first piece, shape S.
        ends: for each first piece, (P[end | piece], reward of the full answer).
        n: candidates of the first layer.
        children: candidates of the second layer.

    Returns:
        For each first piece the probabilities of its full answers; all of them together sum to 1.
    """
    first_S = best_of_n.sequence_law(probs, scores, n)
    need(len(ends) == len(first_S), f"ends for each of the {len(first_S)} first pieces", len(ends), "pair them up")
    return [weight * best_of_n.sequence_law(end_probs, rewards, children)
            for weight, (end_probs, rewards) in zip(first_S, ends, strict=True)]


def _need_tree(n: int, layers: int, children: int) -> None:
    for name, value in (("n", n), ("layers", layers), ("children", children)):
        need_count(name, value)
    need(children <= n, f"at most n = {n} children", children, "lower it; 1 is Best-of-n")
