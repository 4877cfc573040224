"""Candidates that have said the same are one row until they differ: the same results, for fewer tokens read."""

from functools import partial

import pytest
from tiny import EOS, assert_empty, finish, tiny_engine, tiny_model

from ramify.engine import Extend, Fork, Score
from ramify.engine.scheduler import Scheduler
from ramify.engine.sequence import Context
from ramify.rewards import FunctionReward, ImplicitReward, SequenceReward
from ramify.search import METHODS
from ramify.types import SamplingParams

TARGET, REWARD, POLICY, REFERENCE = (tiny_model(seed) for seed in range(4))
SCORED = SequenceReward(REWARD, closed=False)
# Rounding would break ties between equal texts one way or the other where it chooses who lives on.
WRITTEN = FunctionReward(lambda prompt, answer: answer.count("a") - len(answer) / 8)
OPTIONS = {
    "best_of_n": {"reward": ImplicitReward(POLICY, REFERENCE)}, "sample": {"n": 8},
    "self_consistency": {"reward": SCORED, "beta": 1.0}, "speculative_rejection": {"reward": WRITTEN, "first": 3},
    "treebon": {"reward": WRITTEN, "children": 4},
}  # fmt: skip
COLD = SamplingParams(max_tokens=12, temperature=0.4)  # so that many candidates begin alike
PROMPT = "abcab"


def run(search, params=COLD, seed=0, **engine):
    engine = tiny_engine(TARGET, block_size=4, **engine)
    request = engine.submit(PROMPT, search, params, seed=seed)
    finish(engine, [request])
    assert_empty(engine)
    return request.outcome


def seen(result):
    return result.text, [(row.id, row.token_ids, row.state, row.reward and pytest.approx(row.reward))
                         for row in result.candidates]


def both(method, **engine):
    search = partial(METHODS[method], **{"n": 8, **OPTIONS.get(method, {"reward": SCORED})})
    return [run(search, dedupe=dedupe, **engine) for dedupe in (True, False)]


@pytest.mark.parametrize("capacity", [4096, 40])
@pytest.mark.parametrize("method", METHODS)
def test_results_are_the_same_and_never_cost_more(method, capacity):
    together, apart = both(method, capacity=capacity)
    assert seen(together) == seen(apart)
    if capacity == 4096:  # nothing is read twice, so what one way reads the other way reads or was spared
        for role in ("target", "reward", "reference"):
            ours, theirs = together.usage.role(role), apart.usage.role(role)
            assert ours.tokens <= theirs.tokens and ours.dropped <= theirs.dropped
            assert ours.tokens + ours.cached == theirs.tokens + theirs.cached
        assert together.usage.peak_kv_tokens <= apart.usage.peak_kv_tokens


def beginnings(candidates):
    """Every beginning of an answer that its model reads; the last token ends it unread."""
    return {tuple(row.token_ids[:size]) for row in candidates for size in range(1, row.tokens)}


def test_every_beginning_is_read_once():
    search = partial(METHODS["best_of_n"], n=16, reward=SCORED)
    result = run(search)
    answers = {tuple(row.token_ids) for row in result.candidates}
    assert len(answers) < 16
    assert result.usage.target.prefill == len(PROMPT)
    assert result.usage.target.decode == len(beginnings(result.candidates))
    apart = run(search, dedupe=False)
    assert apart.usage.target.decode == sum(row.tokens - 1 for row in apart.candidates)
    # Whole answers that are the same are judged once; an end of sequence is judged as part of the answer.
    assert result.usage.reward.tokens == len(PROMPT) + sum(map(len, answers))


def trie(texts):
    """Ids that are read where texts with at least eight ids in common are read together as far as they are."""
    groups, total = {}, 0
    for text in texts:
        groups.setdefault(text[:8], set()).add(text)
    for group in groups.values():
        least, most = min(group), max(group)
        common = next((at for at, pair in enumerate(zip(least, most, strict=False)) if len(set(pair)) > 1), len(least))
        total += common + trie({text[common:] for text in group if len(text) > common})
    return total


def test_a_reward_reads_once_what_answers_begin_with():
    params = SamplingParams(max_tokens=60, temperature=0.3, logit_bias={EOS: -50.0})
    search = partial(METHODS["best_of_n"], n=16, reward=SCORED)
    result, apart = (run(search, params, step_tokens=4096, dedupe=dedupe) for dedupe in (True, False))
    assert seen(result) == seen(apart)
    answers = {tuple(row.token_ids) for row in result.candidates}
    assert result.usage.reward.tokens == len(PROMPT) + trie(answers) < len(PROMPT) + sum(map(len, answers))


def test_two_policies_read_once_what_answers_begin_with():
    params = SamplingParams(max_tokens=60, temperature=0.3, logit_bias={EOS: -50.0})
    search = partial(METHODS["best_of_n"], n=16, reward=ImplicitReward(POLICY, REFERENCE))
    result, apart = (run(search, params, step_tokens=4096, dedupe=dedupe) for dedupe in (True, False))
    assert seen(result) == seen(apart)
    read = {tuple(row.token_ids[:-1]) for row in result.candidates}  # what follows the last token is not asked
    for role in ("reward", "reference"):
        assert result.usage.role(role).tokens == len(PROMPT) + trie(read) < apart.usage.role(role).tokens


def test_children_read_their_parent_once_and_part_where_they_differ():
    def search(prompt):
        parents = yield Fork(prompt, 2)
        yield Extend(parents, tokens=3)
        children = yield Fork(parents, 6)
        yield Extend(children, tokens=4)
        yield Extend(children[:3])  # what is left behind keeps what it has read
        yield Score(children, SCORED)
        return children[0]

    together, apart = run(search), run(search, dedupe=False)
    assert seen(together) == seen(apart)
    assert together.usage.target.decode == len(beginnings(together.candidates)) < apart.usage.target.decode


def test_greedy_candidates_are_one_row():
    result = run(partial(METHODS["sample"], n=8), SamplingParams(max_tokens=9, temperature=0, ignore_eos=True))
    assert result.usage.target.decode == 8


split, rows = Context.split, Scheduler._rows


def half_split(context, count):
    """Both go on in the same blocks."""
    child = split(context, count)
    child.table = context.table
    return child


def alike_whatever_they_read(scheduler, jobs):
    """One row for all that wait in one context."""
    waiting = {}
    for job in jobs:
        waiting.setdefault(job.context, []).append(job)
    return list(waiting.values())


@pytest.mark.parametrize(("owner", "name", "broken"), [(Scheduler, "_rows", alike_whatever_they_read),
                                                       (Context, "split", half_split)])
def test_a_broken_share_is_caught(owner, name, broken, monkeypatch):
    search = partial(METHODS["sample"], n=8)
    good = run(search)
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises((AssertionError, IndexError)):
        assert seen(run(search)) == seen(good)
