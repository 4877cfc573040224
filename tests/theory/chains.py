"""Tabular drafts and targets, and speculation played out over every outcome."""

import itertools
import math
from collections import Counter
from functools import cache

import numpy as np

P, Q = (0.5, 0.3, 0.2), (0.2, 0.3, 0.5)  # the pair that can be checked by hand


def table(seed, size=3, sharpness=1.0):
    """A distribution for each prefix, drawn once."""
    return cache(lambda prefix: np.random.default_rng([seed, *(1 + x for x in prefix)])
                 .dirichlet(np.full(size, sharpness)))


def pairs(count, size=4, sharpness=0.7):
    rng = np.random.default_rng(count * size)
    return [(rng.dirichlet(np.full(size, sharpness)), rng.dirichlet(np.full(size, sharpness))) for _ in range(count)]


def after_rejection(p, q):
    rest = [max(b - a, 0) for a, b in zip(p, q, strict=True)]
    return np.array(rest) / sum(rest) if sum(rest) > 0 else np.asarray(q, dtype=float)


def draw_with(p, q, drawn, removed=False, ratio=1.0):
    """(accepted token, mass) and then (None, mass, residual): one position, drafts tested in their order.

    `removed` takes a tested draft out of p; the target's residual follows either way.
    """
    p, q, left, accepted = np.array(p), np.array(q), 1.0, []
    for x in drawn:
        chance = min(1.0, q[x] / (ratio * p[x]))
        accepted.append((x, left * chance))
        left *= 1 - chance
        q = after_rejection(p, q)
        if removed:
            p[x] = 0
            p = p / p.sum() if p.sum() > 0 else p
    return accepted, left, q


def batch(p, q, tokens, drafts):
    """(law over texts, E[rejections]) of `drafts` draft sequences from every fresh position, by enumeration."""
    states, rejections = {((), True): 1.0}, 0.0
    for _ in range(tokens):
        later = Counter()
        for (prefix, fresh), mass in states.items():
            p_V, q_V = p(prefix), q(prefix)
            for drawn in itertools.product(range(len(p_V)), repeat=drafts if fresh else 1):
                chance = mass * math.prod(p_V[x] for x in drawn)
                accepted, left, last = draw_with(p_V, q_V, drawn)
                for x, share in accepted:
                    later[(*prefix, x), False] += chance * share
                for x, share in enumerate(last):
                    later[(*prefix, x), True] += chance * left * share
                rejections += chance * left
        states = later
    return {text: states[text, False] + states[text, True] for text, _ in states}, rejections


def text_law(q, tokens, size):
    return {text: math.prod(q(text[:n])[text[n]] for n in range(tokens))
            for text in itertools.product(range(size), repeat=tokens)}
