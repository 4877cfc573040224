"""Searches without sense: any command, in any order, on any candidates. What they see must not depend on the engine."""

from hypothesis import strategies as st

from ramify.engine import Drop, Extend, Fork, Peek, Read, Rewind, Score
from ramify.types import SamplingParams

KINDS = ("extend", "extend", "extend", "extend", "score", "score", "fork", "fork", "drop", "rewind", "peek", "read")
OPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 15), st.integers(0, 7)), min_size=1, max_size=9)
PROMPTS = ("abcab", "abcabdd", "abcfe", "b", "abcabddacacac")
WAYS = (
    {"max_tokens": 12}, {"max_tokens": 16, "ignore_eos": True, "temperature": 0.7, "top_k": 5},
    {"max_tokens": 9, "temperature": 0.0}, {"max_tokens": 14, "stop": ("ab", "dcd"), "top_p": 0.9},
    {"max_tokens": 12, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "logit_bias": {7: -3.0}},
)  # fmt: skip


def params(way):
    return SamplingParams(**WAYS[way])


def chaos(prompt, *, ops, rewards, models, log):
    """Play `ops` and write every reply and every candidate's state into `log`."""
    pool = yield Fork(prompt, 3)
    for kind, choice, size in ops:
        some = pool.of(sequence for at, sequence in enumerate(pool) if choice >> at & 1)
        model, role = models[choice % len(models)]
        if kind == "extend":
            yield Extend(some, tokens=None if size == 7 else size)
        elif kind == "score":
            log.append((yield Score(some, rewards[size % len(rewards)])))
        elif kind == "peek":
            log.append((yield Peek(some, model, role)))
        elif kind == "read":
            log.append((yield Read(some, models[1][0], "reward", size % 2 == 0)))
        elif kind == "rewind":
            yield Rewind(some, size)
        elif kind == "drop" and len(pool) > 2:
            yield Drop(pool[:1])
            pool = pool.of(pool[1:])
        elif kind == "fork" and len(pool) < 6:
            source = prompt if choice == 0 else some if choice > 11 and some else pool[choice % len(pool)]
            pool = pool.of([*pool, *(yield Fork(source, 1 + size % 2))])
        log.append([snapshot(sequence) for sequence in pool])
    return pool[0]


def snapshot(sequence):
    return [list(sequence.tokens), sequence.state, sequence.text, [list(pair) for pair in sequence.scores]]


def same(left, right, tolerance=1e-9):
    """Equal in shape and words, and in every number but for rounding."""
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b, tolerance) for a, b in zip(left, right, strict=True))
    return abs(left - right) <= tolerance if isinstance(left, float) else left == right
