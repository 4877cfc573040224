"""Reward models and functions on the real Read path: what they see, when, and how often."""

import functools
from collections import Counter

import pytest

from ramify.engine import Drop, Engine, Extend, Fork, Score
from ramify.errors import RewardError
from ramify.exact import tabular_model, tabular_reward
from ramify.rewards import FunctionReward, SequenceReward
from ramify.search import best_of_n, speculative_rejection, treebon
from ramify.types import SamplingParams

EOS, START = 2, "ab"
MODEL = tabular_model(3, 31)


def spelt(prefix):
    """A score that tells exactly what was read."""
    return float(sum((token + 1) * 4**at for at, token in enumerate(prefix)))


def closed(tokens):
    return (0, 1, *tokens, *(() if tokens[-1:] == [EOS] else (EOS,)))


def opened(tokens):
    return (0, 1, *tokens)


def growing(reward, keep=lambda alive: alive):
    """Score after every token, forking the survivors once on the way."""

    def search(prompt):
        alive = yield Fork(prompt, 3)
        yield Score(alive, reward)
        for turn in range(5):
            yield Extend(alive.unfinished, tokens=1)
            yield Score(alive, reward)
            if turn == 1:
                alive = yield Fork(alive[:2], 2)
                yield Score(alive, reward)
        return alive.best()

    return search


@pytest.mark.parametrize(("is_closed", "reads"), [(True, closed), (False, opened)])
@pytest.mark.parametrize("block", [1, 2, 4, 16])
def test_every_score_is_of_the_text_as_it_stood(is_closed, reads, block):
    reward = SequenceReward(tabular_reward(3, spelt), closed=is_closed)
    engine, seen = Engine(MODEL, capacity=400, block_size=block), 0
    for seed in range(8):
        result = engine.result(START, growing(reward), SamplingParams(max_tokens=5), seed=seed)
        for candidate in result.candidates:
            for length, score in candidate.scores:
                assert score == spelt(reads(candidate.token_ids[:length]))
                seen += 1
    assert seen > 100


def test_the_check_catches_the_other_way_of_reading():
    reward = SequenceReward(tabular_reward(3, spelt), closed=False)
    result = Engine(MODEL, capacity=400).result(START, growing(reward), SamplingParams(max_tokens=5))
    assert any(score != spelt(closed(candidate.token_ids[:length]))
               for candidate in result.candidates for length, score in candidate.scores)


def test_an_open_reading_costs_each_token_once():
    fixed = tabular_model(3, table=lambda prefix: [0.5, 0.5, 0.0])
    reward = SequenceReward(tabular_reward(3, spelt), closed=False)

    def search(prompt):
        alive = yield Fork(prompt, 3)
        for _ in range(4):
            yield Extend(alive, tokens=1)
            yield Score(alive, reward)
            yield Score(alive, reward)  # nothing new: nothing read
        return alive.best()

    engine = Engine(fixed, capacity=100, block_size=2, dedupe=False)
    page = engine.result(START, search, SamplingParams(max_tokens=4)).usage.reward
    assert (page.tokens, page.prefill, page.recomputed) == (2 + 3 * 4, 2 + 3 * 4, 0)


def test_a_closed_reading_costs_the_closing_again():
    fixed = tabular_model(3, table=lambda prefix: [0.5, 0.5, 0.0])
    reward = SequenceReward(tabular_reward(3, spelt))

    def search(prompt):
        [one] = yield Fork(prompt, 1)
        for _ in range(4):
            yield Extend([one], tokens=1)
            yield Score([one], reward)
        return one

    engine = Engine(fixed, capacity=100, block_size=2, dedupe=False)
    page = engine.result(START, search, SamplingParams(max_tokens=4)).usage.reward
    assert page.tokens == 2 + 4 * 2  # each new token and the closing one


def test_dropped_candidates_are_never_read_again():
    read = Counter()

    def count(prefix):
        read[prefix] += 1
        return spelt(prefix)

    reward = SequenceReward(tabular_reward(3, count))

    def search(prompt):
        alive = yield Fork(prompt, 4)
        yield Extend(alive, tokens=1)
        yield Score(alive, reward)
        yield Drop(alive[2:])
        yield Extend(alive[:2])
        yield Score(alive[:2], reward)
        return alive[0]

    result = Engine(MODEL, capacity=100, dedupe=False).result(START, search, SamplingParams(max_tokens=4))
    assert sum(read.values()) == 4 + sum(len(c.token_ids) > 1 for c in result.candidates[:2])


@pytest.mark.parametrize("search", [best_of_n, speculative_rejection, treebon])
def test_a_function_sees_prompt_and_answer_as_text(search):
    calls = []
    reward = FunctionReward(lambda prompt, answer: calls.append((prompt, answer)) or len(answer))
    engine = Engine(MODEL, capacity=400)
    result = engine.result(START, lambda prompt: search(prompt, reward=reward, n=4), SamplingParams(max_tokens=4))
    assert {prompt for prompt, _ in calls} == {START}
    assert result.reward == len(result.text)
    assert {c.text for c in result.candidates if c.state != "dropped"} <= {answer for _, answer in calls}


@pytest.mark.parametrize(("function", "told"), [
    (lambda prompt, answer: None, "TypeError"), (lambda prompt, answer: 1 / 0, "ZeroDivisionError"),
    (lambda prompt, answer: float("nan"), "nan"), (lambda prompt, answer: float("inf"), "inf"),
    (lambda prompt, answer: "high", "ValueError"),
])
def test_a_function_that_gives_no_number_is_an_error(function, told):
    engine, reward = Engine(MODEL, capacity=100, prefix_cache=False), FunctionReward(function, "mine")
    with pytest.raises(RewardError, match=told):
        engine.result(START, lambda prompt: best_of_n(prompt, reward=reward, n=2), SamplingParams(max_tokens=3))
    assert engine.loop.target.pool.used == 0


def test_one_failing_request_disturbs_no_other():
    def fussy(prompt, answer):
        return 1.0 if prompt == "b" else None

    engine, params, reward = Engine(MODEL, capacity=100), SamplingParams(max_tokens=3), FunctionReward(fussy)
    bad, good = (engine.submit(text, lambda prompt: best_of_n(prompt, reward=reward, n=2), params) for text in "ab")
    while engine.loop.requests:
        engine.step()
    assert isinstance(bad.error, RewardError) and good.result.reward == 1.0


def test_integers_and_booleans_are_numbers():
    for value in (True, 3, 2.5):
        search = functools.partial(best_of_n, reward=FunctionReward(lambda prompt, answer, value=value: value), n=1)
        result = Engine(MODEL, capacity=100).result(START, search, SamplingParams(max_tokens=2))
        assert result.reward == float(value)
