"""Brute force: the same laws by listing every outcome. Slow, obvious, and sharing no formula with what it checks."""

import itertools
import math

import numpy as np
from hypothesis import HealthCheck, settings

EXACT = 1e-12

# Enough for properties of small formulas, and no test fails because the machine is busy.
examples = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def table(seed, size=4, levels=3):
    """Random probabilities of `size` sequences and whole rewards with ties."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(size)), rng.integers(0, levels, size).astype(float)


def argmaxes(values):
    best = max(values)
    return [place for place, value in enumerate(values) if value == best]


def best_of(probs, rewards, n):
    """P[each sequence is returned by Best-of-n], from all tuples of n sequences."""
    law = np.zeros(len(probs))
    for drawn in itertools.product(range(len(probs)), repeat=n):
        chance = math.prod(probs[y] for y in drawn)
        winners = argmaxes([rewards[y] for y in drawn])
        for place in winners:
            law[drawn[place]] += chance / len(winners)
    return law


def kl(law, base):
    return sum(q * math.log(q / p) for q, p in zip(law, base, strict=True) if q > 0)


def by_level(law, rewards):
    return np.array([law[rewards == level].sum() for level in np.unique(rewards)])


def multisets(size, n):
    """Every way n draws can fall on `size` values, with its number of orders."""
    for bars in itertools.combinations(range(n + size - 1), size - 1):
        counts = np.diff([-1, *bars, n + size - 1]) - 1
        yield counts, math.factorial(n) / math.prod(math.factorial(c) for c in counts)


def kept(scores, keep):
    """The sets of `keep` survivors by score and their chances: ties at the cut uniform."""
    cut = sorted(scores, reverse=True)[keep - 1]
    sure = [i for i, score in enumerate(scores) if score > cut]
    tied = [i for i, score in enumerate(scores) if score == cut]
    choices = list(itertools.combinations(tied, keep - len(sure)))
    for choice in choices:
        yield [*sure, *choice], 1 / len(choices)


def two_stage(prefixes, scores, ends, n, keep, children):
    """The law of prune-and-grow: n prefixes, the best `keep` by score grow `children` ends each, best reward wins.

    `ends[s]` is (probabilities, rewards) of the ends of prefix s. Speculative Rejection with one decision has
    children = 1, two-layer TreeBoN keep * children = n.
    """
    law = [np.zeros(len(probs)) for probs, _ in ends]
    for drawn in itertools.product(range(len(prefixes)), repeat=n):
        chance = math.prod(prefixes[s] for s in drawn)
        for survivors, share in kept([scores[s] for s in drawn], keep):
            parents = [drawn[i] for i in survivors for _ in range(children)]
            for leaves in itertools.product(*(range(len(ends[s][0])) for s in parents)):
                weight = chance * share * math.prod(ends[s][0][y] for s, y in zip(parents, leaves, strict=True))
                winners = argmaxes([ends[s][1][y] for s, y in zip(parents, leaves, strict=True)])
                for place in winners:
                    law[parents[place]][leaves[place]] += weight / len(winners)
    return law


def prefix_table(seed, prefixes=2, ends=2, levels=3):
    """Random prefixes, scores, and ends with whole rewards."""
    rng = np.random.default_rng(seed)
    return (rng.dirichlet(np.ones(prefixes)), rng.permutation(prefixes).astype(float),
            [(rng.dirichlet(np.ones(ends)), rng.integers(0, levels, ends).astype(float)) for _ in range(prefixes)])


def flat(prefixes, ends):
    """The policy over full answers and their rewards."""
    probs = np.concatenate([p * np.asarray(law) for p, (law, _) in zip(prefixes, ends, strict=True)])
    return probs, np.concatenate([rewards for _, rewards in ends])
