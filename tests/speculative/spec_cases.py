"""Random draft and target tables, drafts of every scheme drawn from them, and the complete law of one round.

A path is a tuple of tokens; `p(path)` and `q(path)` are the rows that follow it. Everything stated is plain Python.
"""

from collections import defaultdict
from functools import cache
from math import prod

import torch

from ramify.exact import distance, enumerate_law
from ramify.exact.tabular import random_table
from ramify.sampling.draws import Key
from ramify.speculative import Proposal, verify_block, verify_k_sequential, verify_recursive, verify_traversal
from ramify.speculative.trees import grow_beam, grow_independent, grow_likely, grow_without_replacement

KEY = Key(7, 3)
FIXTURE_P, FIXTURE_Q = (0.5, 0.3, 0.2), (0.2, 0.3, 0.5)


def drafted(growth, next_p):
    """The tree that a `grow_` generator grows when `next_p(paths)` answers it, p_RV for the R paths of a level."""
    rows = None
    try:
        while True:
            rows = next_p(growth.send(rows))
    except StopIteration as stop:
        return stop.value


def independent_tree(next_p, branching, draws, key):
    return drafted(grow_independent(branching, draws, key), next_p)


def without_replacement_tree(next_p, branching, draws, key):
    return drafted(grow_without_replacement(branching, draws, key), next_p)


def stochastic_beam(next_p, width, depth, noise):
    return drafted(grow_beam(width, depth, noise), next_p)


def likely_tree(next_p, width, depth, size):
    return drafted(grow_likely(width, depth, size), next_p)


class Pair:
    """A draft and a target."""

    def __init__(self, seed=0, vocabulary=3, zeros=0.2, p=None, q=None):
        self.vocabulary = vocabulary
        self.p = p or cache(random_table(vocabulary, seed, zeros=zeros))
        self.q = q or cache(random_table(vocabulary, seed + 1000, zeros=zeros))

    def next_p(self, paths):
        return torch.tensor([self.p(path) for path in paths], dtype=torch.float64)

    def q_NV(self, proposal):
        """The target's rows of the root and of every node."""
        return torch.tensor([self.q(path) for path in [(), *proposal.paths]], dtype=torch.float64)

    def mixed(self, branching, source, key):
        """The root's children are fixed, those below are drawn; the first fixed child has none."""
        roots = list(range(branching[0]))
        below = [independent_tree(lambda paths, root=root: self.next_p([(root, *path) for path in paths]),
                                  branching[1:], source, Key(50 + root, 0)) for root in roots[1:]]
        tokens, parents = roots.copy(), [-1] * len(roots)
        rows = torch.zeros(len(roots) + 1 + sum(map(len, below)), self.vocabulary, dtype=torch.float64)
        for root, tree in zip(roots[1:], below, strict=True):
            start = len(tokens)
            rows[root + 1] = tree.p_NV[0]
            rows[start + 1 : start + len(tree.p_NV)] = tree.p_NV[1:]
            tokens += tree.tokens
            parents += [root if parent == -1 else parent + start for parent in tree.parents]
        return Proposal(tokens, parents, rows, "independent", fixed={-1})

    def draft(self, scheme, branching, source, key=KEY):
        """A tree; its draws come from `source`."""
        if scheme == "independent":
            return independent_tree(self.next_p, branching, source, key)
        if scheme == "without_replacement":
            return without_replacement_tree(self.next_p, branching, source, key)
        if scheme == "mixed":
            return self.mixed(branching, source, key)
        return likely_tree(self.next_p, branching[0], len(branching), size=100)

    def text_law(self, length):
        """What the target alone would write."""
        law = {(): 1.0}
        for _ in range(length):
            law = self.grown(law)
        return law

    def grown(self, law):
        return {(*text, token): mass * q for text, mass in law.items()
                for token, q in enumerate(self.q(text)) if q > 0}

    def completed(self, law, length):
        """A law of texts, each continued by the target to `length` tokens."""
        done, growing = defaultdict(float), dict(law)
        while growing:
            for text in [text for text in growing if len(text) == length]:
                done[text] += growing.pop(text)
            growing = self.grown(growing)
        return dict(done)

    def round_law(self, verify, scheme, branching):
        """{(text, accepted tokens, rejections): probability} of one round: draft, verify."""

        def run(source):
            proposal = self.draft(scheme, branching, source)
            verdict = verify(proposal, self.q_NV(proposal), source, KEY)
            return tuple(verdict.text(proposal)), len(verdict.path), verdict.rejections

        return enumerate_law(run)

    def error(self, verify, scheme, branching):
        """The largest difference between the law of one round, continued by the target, and the target's law."""
        law = self.round_law(verify, scheme, branching)
        assert abs(sum(law.values()) - 1) < 1e-9
        return self.error_of(law, len(branching) + 1)

    def error_of(self, law, length):
        texts = defaultdict(float)
        for (text, *_), mass in law.items():
            texts[text] += mass
        return distance(self.completed(texts, length), self.text_law(length))

    def accepted(self, verify, scheme, branching):
        """The expected number of accepted tokens."""
        return sum(mass * length for (_, length, _), mass in self.round_law(verify, scheme, branching).items())


def context_free(p=FIXTURE_P, q=FIXTURE_Q):
    """The hand-checked pair: the same rows after every path."""
    return Pair(vocabulary=len(p), p=lambda path: p, q=lambda path: q)


def sparse(seed):
    """Rows of two or three tokens out of four, as after top-k: few draws, many zeros on either side."""
    return Pair(seed, vocabulary=4, zeros=0.5)


def overlap(pair, path):
    return [min(p, q) for p, q in zip(pair.p(path), pair.q(path), strict=True)]


def paths_of(pair, length):
    """Every path of so many tokens."""
    paths = [()]
    for _ in range(length):
        paths = [(*path, token) for path in paths for token in range(pair.vocabulary)]
    return paths


def token_length(pair, gamma):
    """The card's formula: sum over positions and paths of prod min(p, q)."""
    return sum(prod(overlap(pair, path[:at])[path[at]] for at in range(length))
               for length in range(1, gamma + 1) for path in paths_of(pair, length))


def block_length(pair, gamma):
    """The card's formula: sum over positions of E_p[share]."""
    total = 0.0
    for length in range(1, gamma + 1):
        for path in paths_of(pair, length):
            chance, share = 1.0, 1.0
            for at, token in enumerate(path):
                p, q = pair.p(path[:at])[token], pair.q(path[:at])[token]
                chance *= p
                share = min(1.0, share * q / p) if p else 0.0
            total += chance * share
    return total


def recursive_accepts(p, q, count, scheme):
    """[V] the probability that a level of `count` siblings lets each token stand, by walking over all their draws."""
    stands = [0.0] * len(p)

    def walk(p, q, left, mass):
        if left == 0 or mass == 0 or sum(p) == 0:
            return
        total = sum(p)
        p = [x / total for x in p]
        failed = [max(0.0, b - a) for a, b in zip(p, q, strict=True)]
        next_q = [x / sum(failed) for x in failed] if sum(failed) > 1e-14 else q
        for token, chance in enumerate(p):
            if chance == 0:
                continue
            passes = min(1.0, q[token] / chance)
            stands[token] += mass * chance * passes
            rest = [0.0 if other == token and scheme == "without_replacement" else x for other, x in enumerate(p)]
            walk(rest, next_q, left - 1, mass * chance * (1 - passes))

    walk(list(p), list(q), count, 1.0)
    return stands


def recursive_length(pair, branching, scheme, path=()):
    """E[accepted] = sum over tokens of P(it stands) (1 + the same one level down)."""
    if not branching:
        return 0.0
    stands = recursive_accepts(pair.p(path), pair.q(path), branching[0], scheme)
    return sum(mass * (1 + recursive_length(pair, branching[1:], scheme, (*path, token)))
               for token, mass in enumerate(stands) if mass > 0)


TREE_RULES = {"recursive": verify_recursive, "traversal": verify_traversal}
CHAIN_RULES = {**TREE_RULES, "block": verify_block, "k-sequential": verify_k_sequential}
