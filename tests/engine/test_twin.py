"""The engine against its twin: senseless searches of several requests together, with memory to spare or just enough."""

from functools import partial

import pytest
from chaos import OPS, PROMPTS, WAYS, chaos, params, same
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Doubles, assert_empty, finish, tiny_engine, tiny_model
from twin import Twin

from ramify.cache import BlockTable
from ramify.cache.blocks import OutOfBlocks
from ramify.engine.jobs import Job
from ramify.engine.padded import PaddedAttention
from ramify.engine.sequence import Context
from ramify.rewards import FunctionReward, ImplicitReward, SequenceReward

TARGET, REWARD, OTHER, POLICY, REFERENCE = FAMILY = tuple(
    tiny_model(seed, tokenizer=Doubles() if seed == 2 else None) for seed in range(5)
)
ROLES = {"target": [TARGET], "reward": [REWARD, OTHER, POLICY], "reference": [REFERENCE]}
REWARDS = (SequenceReward(REWARD), SequenceReward(REWARD, closed=False), SequenceReward(OTHER),
           ImplicitReward(POLICY, REFERENCE), FunctionReward(lambda prompt, answer: answer.count("a") - len(prompt)))
MODELS = ((None, "target"), (REWARD, "reward"), (POLICY, "reward"), (REFERENCE, "reference"))
REQUESTS = st.lists(st.tuples(OPS, st.sampled_from(PROMPTS), st.integers(0, len(WAYS) - 1)), min_size=1, max_size=3)
ENOUGH = 13 + 16 + 3  # the longest prompt, the longest answer, and the end of the turn


def search(ops, log):
    return partial(chaos, ops=ops, rewards=REWARDS, models=MODELS, log=log)


def play(requests, **engine):
    """Run all requests together. Returns what each saw; the ledger must tell what the models were fed."""
    engine, logs = tiny_engine(TARGET, **engine), [[] for _ in requests]
    for model in FAMILY:
        model.decoder.calls.clear()
    sent = [engine.submit(prompt, search(ops, log), params(way), seed=at)
            for at, ((ops, prompt, way), log) in enumerate(zip(requests, logs, strict=True))]
    finish(engine, sent, limit=2000)
    for request in sent:
        if request.error:
            raise request.error
    for role, models in ROLES.items():
        pages = [request.usage.role(role) for request in sent]
        assert sum(page.tokens for page in pages) == sum(sum(model.decoder.calls) for model in models)
        assert all(page.tokens >= page.dropped >= 0 and page.cached >= 0 for page in pages)
    assert_empty(engine)
    return logs, sent


def expected(requests):
    logs = [[] for _ in requests]
    for at, ((ops, prompt, way), log) in enumerate(zip(requests, logs, strict=True)):
        Twin(TARGET, prompt, params(way), at).run(search(ops, log))
    return logs


@given(requests=REQUESTS, block_size=st.sampled_from([1, 2, 16]), step_tokens=st.sampled_from([1, 3, 64]),
       prefix_cache=st.booleans(), dedupe=st.booleans(),
       capacity=st.sampled_from([4096, ENOUGH, ENOUGH, ENOUGH + 4, 2 * ENOUGH]))
@settings(max_examples=40, deadline=None)
def test_engine_equals_twin(requests, **engine):
    logs, _ = play(requests, **engine)
    assert same(logs, expected(requests))


# Two requests that meet most situations; candidates are chosen by the bits of the second number.
STORY = [("extend", 15, 3), ("score", 15, 3), ("fork", 1, 1), ("peek", 15, 2), ("extend", 15, 2), ("rewind", 3, 2),
         ("extend", 1, 3), ("read", 15, 1), ("score", 15, 2), ("drop", 0, 0), ("extend", 13, 3), ("rewind", 1, 5),
         ("extend", 15, 6), ("peek", 15, 2), ("score", 15, 0), ("fork", 0, 1), ("extend", 15, 7), ("score", 15, 3)]
REQUESTS_OF_ALL = [(STORY, "abcab", 1), (STORY, "abcabdd", 4)]

TIGHT = {"capacity": ENOUGH + 8, "block_size": 2, "step_tokens": 16}


def test_short_memory_is_paid_in_recomputed_tokens_alone():
    requests = REQUESTS_OF_ALL
    (logs, sent), (ample, plenty) = play(requests, **TIGHT), play(requests)
    assert same(logs, ample) and same(logs, expected(requests))
    for request, other in zip(sent, plenty, strict=True):
        page, free = request.usage.target, other.usage.target
        assert page.recomputed > 0 == free.recomputed
        # A token that a rewind reads once more may have been lost before, so nothing is fresh that was not.
        assert page.prefill == free.prefill and free.decode - 3 <= page.decode <= free.decode


BROKEN = {
    "writes into shared blocks": (BlockTable, "_shared_tail", lambda table: False),
    "keeps what a rewind cut": (Context, "rewind", lambda context, length: None),
    "loses the mask": (PaddedAttention, "_mask", None),
    "starts a lost context too late": (Job, "restore", None),
}


def broken_mask(mask):
    def sees_all(attend, number, window):
        return mask(attend, number, window) | True

    return sees_all


def broken_restore(restore):
    def forgets(job):
        lost = not job.context.ids
        restore(job)
        if lost and len(job.context.ids) > 1:
            job.context.ids.append(job.context.ids[-1])

    return forgets


MAKERS = {"_mask": broken_mask, "restore": broken_restore}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_engine_is_caught(name, monkeypatch):
    owner, method, replacement = BROKEN[name]
    monkeypatch.setattr(owner, method, replacement or MAKERS[method](getattr(owner, method)))
    requests = REQUESTS_OF_ALL
    with pytest.raises((AssertionError, IndexError, RuntimeError, ValueError, OutOfBlocks)):
        logs, _ = play(requests, **TIGHT)
        assert same(logs, expected(requests))
