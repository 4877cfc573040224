"""Short memory: what is given up, what it costs, and what does not fit at all."""

from functools import partial

import pytest
from tiny import Doubles, assert_empty, finish, tiny_engine, tiny_model

from ramify.engine import Extend, Fork
from ramify.engine.jobs import Job
from ramify.errors import CapacityError, PromptError
from ramify.rewards import SequenceReward
from ramify.search import best_of_n, sample
from ramify.types import SamplingParams

TARGET, REWARD = tiny_model(0), tiny_model(1)
PROMPT, ANSWER, WIDTH = "abcdefga" * 5, 16, 8
SEARCH = partial(best_of_n, reward=SequenceReward(REWARD), n=WIDTH)
PARAMS = SamplingParams(max_tokens=ANSWER, ignore_eos=True)


def crowd(capacity, **options):
    """Two requests of eight candidates each. Returns their requests and the number of steps."""
    engine = tiny_engine(TARGET, capacity=capacity, step_tokens=256, **options)
    requests = [engine.submit(PROMPT + "ab" * seed, SEARCH, PARAMS, seed=seed) for seed in range(2)]
    steps = finish(engine, requests, limit=3 * 2 * WIDTH * ANSWER)
    assert_empty(engine)
    return requests, steps


def answers(requests):
    return [[row.token_ids for row in request.outcome.candidates] for request in requests]


@pytest.fixture(scope="module")
def ample():
    return answers(crowd(4096)[0])


def little_is_read_again(ample, prefix_cache):
    requests, steps = crowd(len(PROMPT) + 4 * ANSWER, prefix_cache=prefix_cache, dedupe=False)
    assert answers(requests) == ample
    # Four at a time, and what was given up on the way.
    assert steps < 2 * (WIDTH // 4 + 2) * ANSWER
    for request in requests:
        page = request.usage.target
        assert page.prefill == len(request.prompt.ids) and page.decode == WIDTH * (ANSWER - 1)
        assert 0 < page.recomputed < page.decode


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_little_is_read_again(ample, prefix_cache):
    little_is_read_again(ample, prefix_cache)


def test_candidates_that_each_read_the_prompt_again_are_caught(ample, monkeypatch):
    monkeypatch.setattr(Job, "lacks_prompt", False)
    monkeypatch.setattr(Job, "return_prompt", lambda job: None)
    with pytest.raises(AssertionError):
        little_is_read_again(ample, False)


def test_the_peak_is_noted_before_anything_is_given_up():
    engine = tiny_engine(TARGET, capacity=len(PROMPT) + 4 * ANSWER, prefix_cache=False)
    usage = engine.result(PROMPT, partial(sample, n=WIDTH), PARAMS).usage
    assert usage.target.recomputed > 0
    assert len(PROMPT) + 3 * ANSWER < usage.peak_kv_tokens <= engine.loop.target.capacity


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_room_for_one_answer_is_enough_for_any_width(ample, prefix_cache):
    requests, steps = crowd(len(PROMPT) + 2 + ANSWER + 2, prefix_cache=prefix_cache)
    assert answers(requests) == ample
    # Every step but those that wait for the first id of a request grows an answer or scores one.
    assert steps <= sum(request.usage.target.tokens + request.usage.reward.tokens for request in requests)


def test_what_cannot_fit_is_refused_and_leaves_nothing_behind():
    engine = tiny_engine(TARGET, capacity=32, block_size=16)
    with pytest.raises(CapacityError, match="33 tokens"):
        engine.submit("abcabc", partial(sample, n=1), SamplingParams(max_tokens=27))
    short = tiny_engine(tiny_model(0, positions=16), capacity=64)
    with pytest.raises(PromptError, match="within the 16 tokens"):
        short.submit("abcabc", partial(sample, n=1), SamplingParams(max_tokens=11))
    short.target.tokenizer.encode_prompt = lambda prompt: [3] * len(prompt)
    for prompt in ("", " ", "\n \t"):
        with pytest.raises(PromptError, match="empty"):
            short.submit(prompt, partial(sample, n=1), SamplingParams(max_tokens=8))
    assert engine.step() == short.step() == []
    assert engine.result("abcabc", partial(sample, n=1), SamplingParams(max_tokens=26)).text


@pytest.mark.parametrize("positions", [1024, 16])
def test_a_reward_that_cannot_read_so_much_ends_its_own_request_alone(positions):
    """The answer fits the target, but not the reward together with the end of the turn."""
    narrow = tiny_model(1, tokenizer=Doubles(), positions=positions)
    engine = tiny_engine(TARGET, capacity=16, block_size=16)
    params = SamplingParams(max_tokens=10, ignore_eos=True, logit_bias={7: -100.0})
    bad = engine.submit("abcabc", partial(best_of_n, reward=SequenceReward(narrow), n=2), params)
    good = engine.submit("abcabc", partial(sample, n=2), params)
    finish(engine, [bad, good])
    assert isinstance(bad.outcome, CapacityError) and "tiny-1" in str(bad.outcome) and "19" in str(bad.outcome)
    assert good.outcome.candidates[0].tokens == 10
    assert_empty(engine)


def test_a_request_that_arrives_late_or_is_cancelled_disturbs_nobody():
    def endless(prompt):
        group = yield Fork(prompt, 3)
        while True:
            yield Extend(group, tokens=1)

    engine = tiny_engine(TARGET, capacity=48)
    first = engine.submit("abcab", partial(sample, n=3), SamplingParams(max_tokens=16), seed=1)
    gone = engine.submit("abcdd", partial(sample, n=3), SamplingParams(max_tokens=16), seed=2)
    for _ in range(4):
        engine.step()
    engine.cancel(gone)
    late = engine.submit("abc", partial(sample, n=3), SamplingParams(max_tokens=16), seed=3)
    finish(engine, [first, late])
    assert not gone.finished
    for request, prompt, seed in ((first, "abcab", 1), (late, "abc", 3)):
        alone = tiny_engine(TARGET).result(prompt, partial(sample, n=3), SamplingParams(max_tokens=16), seed=seed)
        assert [row.token_ids for row in alone.candidates] == [row.token_ids for row in request.outcome.candidates]
    assert_empty(engine)
