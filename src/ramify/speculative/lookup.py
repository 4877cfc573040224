"""Drafts without a draft model: what followed when the same tokens came before.

`lookup` copies from one text, `SuffixTree` counts over many: the prompt, a candidate's own answer, its siblings in
the same search. Both choose without chance, so their proposals are "fixed": a drafted x is accepted with q(x), q
being the target's distribution, and the law stays q whatever was looked up. Where siblings are looked up a
candidate's *text* depends on them, unless the verifier is the coupled one.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import count


def lookup(tokens: Sequence[int], most: int, longest: int = 3) -> list[int]:
    """`most` tokens copied from behind an earlier occurrence of the end of the text; none if there is no such.

    The longest end that came before is taken, of `longest` tokens at most, and of its occurrences the most recent:
    text changes its subject. A copy that reaches the end of the text runs on into itself, so that "abab" gives
    "abab". At most `longest` passes over the text, backwards, at the speed of a byte search.
    """
    text = array("q", tokens)
    words = text.tobytes()
    for size in range(min(longest, len(text) - 1), 0, -1):
        end = words[-size * text.itemsize:]
        found = words.rfind(end, 0, -text.itemsize)
        while found > 0 and found % text.itemsize:  # in the middle of a word
            found = words.rfind(end, 0, found + len(end) - 1)
        if found >= 0:
            start = found // text.itemsize + size
            return [text[start + at % (len(text) - start)] for at in range(most)]
    return []


class SuffixTree:
    """How often each token followed each context of up to `depth` - 1 tokens, over several growing texts.

    An owner is any name of a text. Every token that is added counts once after each of its contexts; a fork shares
    what it inherits without counting it again. Nothing is ever forgotten: tokens that were rewound and owners that
    were dropped have been seen.

    Cost: a token at most `depth` steps, and as many as the longest end of its text that occurs elsewhere; memory for
    one node a token and one for each different context that occurs twice. A fork or a rewind copies the text and
    takes `depth`^2 steps.
    """

    def __init__(self, depth: int = 24) -> None:
        self.depth = depth
        self._root = _Node(0)
        self._texts: dict[Hashable, _Text] = {}

    def extend(self, owner: Hashable, tokens: Iterable[int]) -> None:
        """Add tokens to the end of an owner's text; an unknown owner begins an empty one."""
        text = self._texts.setdefault(owner, _Text([], [self._root]))
        for token in tokens:
            text.tokens.append(token)
            text.ends = [self._root, *self._count(text, token)]

    def fork(self, owner: Hashable, child: Hashable) -> None:
        """Let `child` begin with the owner's text.

        Raises:
            KeyError: nobody has that owner's text.
        """
        tokens = self._texts[owner].tokens.copy()
        self._texts[child] = _Text(tokens, self._find_ends(tokens))

    def rewind(self, owner: Hashable, length: int) -> None:
        """Cut an owner's text to its first `length` tokens; what was there stays counted."""
        tokens = self._texts[owner].tokens[:length]
        self._texts[owner] = _Text(tokens, self._find_ends(tokens))

    def drop(self, owner: Hashable) -> None:
        """Forget whose text it was; what it said stays counted."""
        del self._texts[owner]

    def chain(self, owner: Hashable, most: int, factor: float = 1.0, least: float = 0.1) -> list[int]:
        """The likeliest continuation of an owner's text, token by token, `most` tokens at most; perhaps none.

        After a context of m tokens that occurred before, the most frequent token is taken, the most recent of
        equals, as long as the chain has at most factor * m tokens, the product of the tokens' frequencies is at
        least `least`, and context and chain together fit into `depth`. Of all contexts the one whose chain has the
        largest sum of such products wins, which is the expected number of accepted tokens if the past is any
        guide; of equals the longest. arXiv 2411.04975.
        """
        best: list[int] = []
        best_sum = 0.0
        for node in reversed(self._contexts(owner)):
            length = min(most, int(factor * node.depth), self.depth - node.depth)
            if length > best_sum:  # the most that its sum could be
                total, tokens = self._chain(node, length, least)
                best, best_sum = (tokens, total) if total > best_sum else (best, best_sum)
        return best

    def tree(self, owner: Hashable, nodes: int, factor: float = 1.0,
             least: float = 0.1) -> tuple[list[int], list[int]]:
        """(tokens, parents) of the `nodes` likeliest continuations of an owner's text, of any length up to
        factor * m; the context is chosen as in `chain`.

        parents[i] is the place of the token before token i, -1 for those right after the text. Parents come before
        children, siblings by frequency.
        """
        grown = [(*self._grow(node, nodes, factor, least), node.depth) for node in self._contexts(owner)]
        _, tokens, parents, _ = max(grown, key=lambda tree: (tree[0], tree[3]), default=(0.0, [], [], 0))
        return tokens, parents

    def _count(self, text: _Text, token: int) -> Iterator[_Node]:
        """Count a token after every context that ends the text; the nodes at which the longer contexts end.

        A context that occurs nowhere else ends inside a leaf, which is the text itself and needs no step.
        """
        for node in text.ends:
            child = node.children.pop(token, None) or _Node(node.depth + 1, text, len(text.tokens))
            node.children[token] = child  # put last: the order of children is that of their last occurrence
            child.count += 1
            if child.count > 1 and child.depth < self.depth:
                self._open(child)
                yield child

    def _open(self, leaf: _Node) -> None:
        """Turn a leaf, if it is one, into a node with one leaf; at the end of its text it waits for a token."""
        text, leaf.text = leaf.text, None
        if text is not None:
            leaf.children = dict(self._inside(text, leaf))
            if not leaf.children:
                text.ends.append(leaf)

    def _inside(self, text: _Text, leaf: _Node) -> Iterator[tuple[int, _Node]]:
        """What follows within a leaf: the next token of its text, if there is one and it is not too deep."""
        if leaf.start < len(text.tokens) and leaf.depth < self.depth:
            child = _Node(leaf.depth + 1, text, leaf.start + 1)
            child.count = 1
            yield text.tokens[leaf.start], child

    def _children(self, node: _Node) -> dict[int, _Node]:
        return node.children if node.text is None else dict(self._inside(node.text, node))

    def _find_ends(self, tokens: list[int]) -> list[_Node]:
        """The nodes of all contexts that end these tokens, which have been counted before."""
        ends = [self._root]
        for length in range(1, min(len(tokens), self.depth - 1) + 1):
            node = self._root
            for token in tokens[-length:]:
                node = node.children[token]
                self._open(node)
            ends.append(node)
        return ends

    def _contexts(self, owner: Hashable) -> list[_Node]:
        return [node for node in self._texts[owner].ends if node is not self._root]

    def _chain(self, node: _Node, length: int, least: float) -> tuple[float, list[int]]:
        """(sum of path probabilities, tokens) of the chain after one context."""
        tokens: list[int] = []
        chance, total = 1.0, 0.0
        while len(tokens) < length and (children := self._children(node)):
            seen = sum([child.count for child in children.values()])
            most = max([child.count for child in children.values()])
            token, node = next(item for item in reversed(children.items()) if item[1].count == most)
            chance *= most / seen
            if chance < least:
                break
            tokens.append(token)
            total += chance
        return total, tokens

    def _grow(self, root: _Node, nodes: int, factor: float, least: float) -> tuple[float, list[int], list[int]]:
        """(sum of path probabilities, tokens, parents) of the tree after one context, likeliest node first."""
        tokens: list[int] = []
        parents: list[int] = []
        total, order = 0.0, count()  # the order settles ties, so that nodes are never compared
        heap = [(-1.0, next(order), -1, -1, root)]
        while heap and len(tokens) < nodes:
            minus, _, parent, token, node = heapq.heappop(heap)
            if node is not root:
                tokens.append(token)
                parents.append(parent)
                total -= minus
            if node.depth - root.depth < int(factor * root.depth):
                children = self._children(node)
                seen = sum(child.count for child in children.values())
                for token, child in reversed(children.items()):  # of equals the most recent is pushed first
                    chance = minus * (child.count / seen)
                    if -chance >= least:
                        heapq.heappush(heap, (chance, next(order), len(tokens) - 1, token, child))
        return total, tokens, parents


class _Text:
    """An owner's tokens, and the nodes of those contexts at their end that occur elsewhere too, shortest first."""

    __slots__ = ("ends", "tokens")

    def __init__(self, tokens: list[int], ends: list[_Node]) -> None:
        self.tokens, self.ends = tokens, ends


class _Node:
    """A context of `depth` tokens and how often it was counted; children by the order of their last occurrence.

    A leaf has a text instead of children: it occurred once, and went on with the text's tokens from `start`.
    """

    __slots__ = ("children", "count", "depth", "start", "text")

    def __init__(self, depth: int, text: _Text | None = None, start: int = 0) -> None:
        self.depth, self.text, self.start = depth, text, start
        self.count, self.children = 0, dict[int, _Node]()
