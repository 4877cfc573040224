"""TreeBoN (arXiv 2410.16033): tokens per layer, and what is known of its output law.

Layer 1 draws n pieces; every later layer keeps the best n/c candidates and grows c children from each, so
each layer decodes n pieces and the total equals Best-of-n's. What differs is the scoring: an implicit reward
runs two models (the preference-tuned policy and its reference) over every piece of all layers but the last.

Limits of the output law. One layer, or c = 1, is Best-of-n. c = n keeps one survivor per layer: a chain of
Best-of-n choices, `one_survivor_law`. Everything here assumes that no answer ends before `max_tokens`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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
        """n, the candidates of each layer."""
        return self.layers[0].width

    @property
    def length(self) -> int:
        """Tokens of a finished answer."""
        return self.layers[-1].end

    @property
    def decode_tokens(self) -> int:
        """n * max_tokens, as for Best-of-n."""
        return sum(layer.tokens for layer in self.layers)

    def target_tokens(self, prompt_tokens: int = 0) -> int:
        """Forward tokens of the target: the prompt once, then every decoded token."""
        return prompt_tokens + self.decode_tokens

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
        """Forward tokens of the reward model over the n finished answers.

        With `reuse` the prompt is read once: prompt + n * max_tokens. Without: n (prompt + max_tokens).
        """
        return self.width * self.length + prompt_tokens * (1 if reuse else self.width)

    def reward_tokens_forked(self, prompt_tokens: int = 0) -> int:
        """The most the reward model reads if its cache forks with the tree: shared ancestors are read once.

        prompt + last layer + sum over earlier layers of (survivors * l); fewer when survivors share a parent.
        """
        shared = sum(later.parents * (layer.end - layer.start)
                     for layer, later in zip(self.layers, self.layers[1:], strict=False))
        return prompt_tokens + self.layers[-1].tokens + shared


def tree(n: int, layers: int, children: int, max_tokens: int) -> Tree:
    """The layers of TreeBoN with n candidates; layer i ends at floor(i * max_tokens / layers).

    Raises:
        OutOfRange: `children` does not divide n (the layers would shrink), or more layers than tokens.
    """
    for name, value in (("n", n), ("layers", layers), ("children", children), ("max_tokens", max_tokens)):
        need_count(name, value)
    need(n % children == 0, f"a number of children that divides n = {n}", children, "change n or children")
    need(layers <= max_tokens, f"at most {max_tokens} layers, one token each", layers, "lower layers")
    ends = [i * max_tokens // layers for i in range(layers + 1)]
    return Tree(tuple(Layer(ends[i], ends[i + 1], n, n // children if i else 0) for i in range(layers)))


def kl_bound(n: int, layers: int, children: int) -> float:
    """A bound in nats on KL(law of the answer || policy), whatever the scores.

    The answer is one leaf of the full unpruned tree, whose n c^(layers-1) leaves each follow the policy, so
    the density ratio is at most that number and the KL at most log n + (layers-1) log c. Where a layer is a
    plain Best-of-n the bound log n - (n-1)/n replaces its share: one layer or c = 1 (once), c = n (each).
    """
    for name, value in (("n", n), ("layers", layers), ("children", children)):
        need_count(name, value)
    need(n % children == 0, f"a number of children that divides n = {n}", children, "change n or children")
    plain = best_of_n.kl_bound(n)
    if layers == 1 or children == 1:
        return plain
    if children == n:
        return layers * plain
    return math.log(n) + (layers - 1) * math.log(children)


def one_survivor_law(probs: ArrayLike, scores: ArrayLike, children: Sequence[tuple[ArrayLike, ArrayLike]],
                     n: int) -> list[Floats]:
    """Exact law of two-layer TreeBoN with c = n: best of n first pieces by score, then of n ends by reward.

    pi(s, y) = pi_n(s) pi_n(y | s), both factors from `best_of_n.sequence_law`, ties uniform.

    Args:
        probs: P[first piece], shape S.
        scores: the partial score of each first piece, shape S.
        children: for each first piece, (P[end | piece], reward of the full answer).
        n: candidates of each layer.

    Returns:
        For each first piece the probabilities of its full answers; all of them together sum to 1.
    """
    first_S = best_of_n.sequence_law(probs, scores, n)
    need(len(children) == len(first_S), f"ends for each of the {len(first_S)} first pieces", len(children),
         "pair them up")
    return [weight * best_of_n.sequence_law(np.asarray(end_probs), rewards, n)
            for weight, (end_probs, rewards) in zip(first_S, children, strict=True)]
