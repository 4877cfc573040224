"""The enumerator itself: every outcome once, with its probability, and no random number twice."""

import functools

import pytest
import torch

from ramify.engine import Engine, Extend, Fork, Rewind
from ramify.errors import OptionError
from ramify.exact import Branches, best_of_n_law, chi_square, enumerate_law, output_law, policy_law, tabular_model
from ramify.exact.enumerate import chosen_tokens
from ramify.exact.tabular import random_table
from ramify.rewards import FunctionReward
from ramify.sampling.draws import Key, KeyedDraws
from ramify.search import best_of_n, sample, treebon
from ramify.types import SamplingParams

MODEL, START = tabular_model(3, 1), "a"
REWARD = FunctionReward(lambda prompt, answer: len(answer) % 2)


def two_dice(source):
    first = source.uniform_index(2, Key(0, 0))
    second = source.categorical(torch.tensor([[0.25, 0.0, 0.75]]), [Key(0, 1)])[0]
    third = source.bernoulli(0.1, Key(0, 2)) if first else False
    return first, second, third


TWO_DICE = {(0, 0, False): 0.125, (0, 2, False): 0.375, (1, 0, False): 0.1125, (1, 0, True): 0.0125,
            (1, 2, False): 0.3375, (1, 2, True): 0.0375}


def test_every_outcome_has_its_probability():
    assert enumerate_law(two_dice) == pytest.approx(TWO_DICE, abs=1e-12)


def test_every_path_is_walked_once():
    walked = []
    enumerate_law(lambda source: walked.append(two_dice(source)))
    assert sorted(walked) == sorted(TWO_DICE)


def test_certain_draws_do_not_branch():
    runs = []
    enumerate_law(lambda source: runs.append((source.bernoulli(0.0, Key(0, 0)), source.bernoulli(1.0, Key(0, 1)),
                                              source.uniform_index(1, Key(0, 2)))))
    assert runs == [(False, True, 0)]


def test_rows_are_drawn_independently_and_need_not_be_normalised():
    probs_RV = torch.tensor([[2.0, 6.0], [3.0, 1.0]])
    law = enumerate_law(lambda source: tuple(source.categorical(probs_RV, [Key(0, 0), Key(1, 0)])))
    assert law == pytest.approx({(0, 0): 0.1875, (0, 1): 0.0625, (1, 0): 0.5625, (1, 1): 0.1875}, abs=1e-12)


def test_the_path_says_what_was_drawn():
    source = Branches((1, 2))
    assert two_dice(source) == (1, 2, False)
    assert source.mass == pytest.approx(0.5 * 0.75 * 0.9)
    assert source.left == [(1, 2, 1)]


@pytest.mark.parametrize("again", [
    lambda source: source.uniform_index(2, Key(0, 0)),
    lambda source: source.bernoulli(0.5, Key(0, 0)),
    lambda source: source.categorical(torch.ones(2, 2), [Key(5, 0), Key(0, 0)]),
])
def test_a_key_drawn_from_twice_is_caught(again):
    with pytest.raises(AssertionError, match="drawn from twice"):
        enumerate_law(lambda source: (source.uniform_index(2, Key(0, 0)), again(source)))


def test_a_search_that_reuses_a_stream_is_caught():
    """Two candidates with one stream would draw the same tokens."""

    def twins(prompt):
        alive = yield Fork(prompt, 2)
        alive[1].stream = alive[0].stream
        yield Extend(alive)
        return alive[0]

    with pytest.raises(AssertionError, match="drawn from twice"):
        output_law(MODEL, START, twins, max_tokens=2)


def test_a_program_that_does_not_repeat_itself_is_caught():
    runs = []

    def moody(source):
        runs.append(1)
        probs = [1.0, 0.0, 1.0] if len(runs) == 1 else [1.0, 1.0, 0.0]
        return source.categorical(torch.tensor([probs]), [Key(0, 0)])[0]

    with pytest.raises(AssertionError, match="same path"):
        enumerate_law(moody)


def test_a_rewind_without_fresh_keys_is_caught():
    def stale(prompt):
        [one] = yield Fork(prompt, 1)
        stream = one.stream
        yield Extend([one])
        yield Rewind([one], 0)
        one.stream = stream
        yield Extend([one])
        return one

    with pytest.raises(AssertionError, match="drawn from twice"):
        output_law(MODEL, START, stale, max_tokens=2)


@pytest.mark.parametrize("width", [1, 3, 1000])
def test_paths_may_run_together(width):
    law = output_law(MODEL, START, lambda prompt: best_of_n(prompt, reward=REWARD, n=2), width=width, max_tokens=2)
    stated = best_of_n_law(policy_law(MODEL, START, max_tokens=2), lambda answer: sum(t != 2 for t in answer) % 2, 2)
    assert law == pytest.approx(stated, abs=1e-12)


@pytest.mark.parametrize("options", [
    {"capacity": 100, "block_size": 1}, {"capacity": 100, "block_size": 16, "prefix_cache": False},
    {"capacity": 5, "block_size": 1}, {"capacity": 100, "step_tokens": 1},
])
def test_the_engines_settings_leave_the_law_alone(options):
    def search(prompt):
        return treebon(prompt, reward=REWARD, n=2, layers=2, children=2, segment=1)

    law = output_law(MODEL, START, search, engine=Engine(MODEL, **options), width=2, max_tokens=2)
    assert law == pytest.approx(output_law(MODEL, START, search, max_tokens=2), abs=1e-12)


def test_any_outcome_of_a_result_has_a_law():
    law = output_law(MODEL, START, sample, outcome=lambda result: result.finish_reason, max_tokens=2)
    policy = policy_law(MODEL, START, max_tokens=2)
    assert law["stop"] == pytest.approx(sum(p for answer, p in policy.items() if answer[-1] == 2))
    assert sum(law.values()) == pytest.approx(1)


def test_a_law_too_large_is_refused():
    with pytest.raises(OptionError, match="at most 50 paths"):
        output_law(MODEL, START, lambda prompt: sample(prompt, n=4), max_tokens=3, most=50)


def test_the_engine_draws_what_the_law_says():
    """The law of enumeration is that of the keyed numbers users get: counts over seeds agree."""
    search, engine, counts = functools.partial(best_of_n, reward=REWARD, n=2), Engine(MODEL, capacity=100), {}
    assert isinstance(engine.loop.draws, KeyedDraws)
    for seed in range(600):
        answer = chosen_tokens(engine.result(START, search, SamplingParams(max_tokens=2), seed=seed))
        counts[answer] = counts.get(answer, 0) + 1
    law = output_law(MODEL, START, search, max_tokens=2)
    assert chi_square(counts, law) > 1e-3
    assert chi_square(counts, policy_law(MODEL, START, max_tokens=2)) < 1e-6  # the broken twin: no search at all


def test_random_tables_are_distributions_and_repeat():
    table = random_table(4, seed=3, zeros=0.5)
    rows = [table((0, 1, at % 4, at // 4)) for at in range(16)]
    assert all(sum(row) == pytest.approx(1) and min(row) >= 0 and row[-1] > 0 for row in rows)
    assert any(0 in row for row in rows)
    assert rows == [random_table(4, seed=3, zeros=0.5)((0, 1, at % 4, at // 4)) for at in range(16)]
    assert rows[0] != random_table(4, seed=4, zeros=0.5)((0, 1, 0, 0))
