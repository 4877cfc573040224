"""The ledger says what the models were fed, and the prompt is computed once."""

from functools import partial

import pytest
from tiny import assert_empty, finish, runners, tiny_engine, tiny_model

from ramify.cache import BlockTable, PrefixCache
from ramify.cache.blocks import OutOfBlocks
from ramify.engine import Drop, Extend, Fork, Score
from ramify.engine.jobs import Job
from ramify.engine.sequence import Context
from ramify.rewards import ImplicitReward, SequenceReward
from ramify.search import METHODS
from ramify.types import ROLES, SamplingParams

TARGET, REWARD, POLICY, REFERENCE = FAMILY = [tiny_model(seed) for seed in range(4)]
SCORED, OPEN = SequenceReward(REWARD), SequenceReward(REWARD, closed=False)
OPTIONS = {
    "best_of_n": {"reward": ImplicitReward(POLICY, REFERENCE)}, "sample": {"n": 5},
    "self_consistency": {"reward": SCORED, "beta": 1.0}, "speculative_rejection": {"reward": SCORED, "first": 3},
    "treebon": {"reward": SCORED, "guide": ImplicitReward(POLICY, REFERENCE, "decay"), "children": 3},
}  # fmt: skip


def reconcile(engine, requests):
    """Run alone; compare the pages with what the models saw."""
    for model in FAMILY:
        model.decoder.calls.clear()
    finish(engine, requests)
    seen = {role: [0, 0] for role in ROLES}
    for runner in runners(engine):
        calls = runner.model.decoder.calls
        assert runner.tokens_seen == sum(calls)
        seen[runner.role][0] += sum(calls)
        seen[runner.role][1] += len(calls)
    for role in ROLES:
        pages = [request.usage.role(role) for request in requests]
        assert sum(page.tokens for page in pages) == seen[role][0]
        assert max(page.calls for page in pages) <= seen[role][1] <= sum(page.calls for page in pages)
        assert all(0 <= page.dropped <= page.tokens and page.cached >= 0 for page in pages)
    assert_empty(engine)


@pytest.mark.parametrize("capacity", [4096, 40])
@pytest.mark.parametrize("method", METHODS)
def test_pages_add_up(method, capacity):
    engine, params = tiny_engine(TARGET, capacity=capacity), SamplingParams(max_tokens=12)
    search = partial(METHODS[method], **{"n": 6, **OPTIONS.get(method, {"reward": SCORED})})
    requests = [engine.submit("abcab" * turn, search, params, seed=turn) for turn in (1, 3)]
    reconcile(engine, requests)
    if capacity == 4096:
        for turn, request in zip((1, 3), requests, strict=True):
            assert request.usage.target.prefill == 5 * turn and request.usage.target.recomputed == 0


def test_a_page_that_forgets_is_caught(monkeypatch):
    account = Job.account
    forgetful = lambda job, start, count, *others: account(job, start, max(1, count - 1), *others)  # noqa: E731
    monkeypatch.setattr(Job, "account", forgetful)
    with pytest.raises(AssertionError):
        test_pages_add_up("treebon", 4096)


def test_flops_are_those_of_the_tokens_and_of_what_they_see():
    engine, params = tiny_engine(TARGET, step_tokens=3, dedupe=False), SamplingParams(max_tokens=8, ignore_eos=True)
    usage = engine.result("abcab", partial(METHODS["sample"], n=2), params).usage
    # The prompt once, then 7 ids of each candidate; an id at position t sees t + 1.
    pairs = sum(range(1, 6)) + 2 * sum(range(6, 13))
    assert usage.flops == usage.target.flops == TARGET.decoder.flops(5 + 2 * 7, pairs)


PROMPT, BLOCK, WIDTH = "abcdefga" * 32 + "ab", 16, 64


def stages(prompt, *, states, pool):
    """Grow, score and drop in turns; note the free blocks around each Drop and the tokens at each Score."""
    alive = yield Fork(prompt, WIDTH)
    while alive.unfinished and len(alive) > 8:
        yield Extend(alive.unfinished, tokens=3)
        scores = yield Score(alive, OPEN)
        held = {block for sequence in alive for context in sequence.contexts.values() if context.runner.pool is pool()
                for block in context.table.blocks}
        free = pool().available
        alive, lost = alive.split_top(scores, len(alive) // 2)
        yield Drop(lost)
        kept = {block for sequence in alive for context in sequence.contexts.values() if context.runner.pool is pool()
                for block in context.table.blocks}
        states.append((len(lost), len(held), len(kept), pool().available - free))
    return alive.best()


def the_prompt_is_computed_once():
    engine, states = tiny_engine(TARGET, block_size=BLOCK, step_tokens=512, dedupe=False), []
    search = partial(stages, states=states, pool=lambda: engine.loop.target.pool)
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    request = engine.submit(PROMPT, search, params)
    reconcile(engine, [request])
    page, reward, rows = request.usage.target, request.usage.reward, request.result.candidates
    read = [row.tokens for row in rows]
    assert len(rows) == WIDTH and sorted(set(read)) == [3, 6, 9]
    # Every id of the prompt once in each model, every other id once; the last of an answer is not fed to the target.
    assert page.prefill == len(PROMPT) and page.decode == sum(read) - WIDTH
    assert reward.prefill == len(PROMPT) + sum(read) and reward.decode == reward.recomputed == 0
    assert page.recomputed == 0 and page.cached == reward.cached == (WIDTH - 1) * len(PROMPT)
    # At the first cut: the prompt, 64 suffixes of 2, and at most a block each in copies of the prompt's last block.
    suffixes = 2 * WIDTH
    assert len(PROMPT) + suffixes <= request.usage.peak_kv_tokens <= len(PROMPT) + suffixes + WIDTH * BLOCK
    # A dropped candidate's own block is free at once.
    assert [state[0] for state in states] == [32, 16, 8]
    for lost, held, kept, freed in states:
        assert freed == held - kept == lost


def test_the_prompt_is_computed_once():
    the_prompt_is_computed_once()


split = Context.split


def copying_fork(table):
    """A fork that shares nothing: as if every candidate brought its own prompt."""
    child = BlockTable(table.pool)
    child.append(table.length)
    return child


def empty_split(context, count):
    child = split(context, count)
    if child is not context:
        child.table.free()
        child.ids.clear()
    return child


BROKEN = {"a fork copies": (BlockTable, "fork", copying_fork), "a fork reads again": (Context, "split", empty_split),
          "a drop keeps its blocks": (BlockTable, "free", lambda table: None)}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_prompt_that_is_not_shared_is_caught(name, monkeypatch):
    owner, method, replacement = BROKEN[name]
    monkeypatch.setattr(owner, method, replacement)
    monkeypatch.setattr(PrefixCache, "match", lambda cache, tokens: BlockTable(cache.pool))
    with pytest.raises((AssertionError, OutOfBlocks)):
        the_prompt_is_computed_once()
