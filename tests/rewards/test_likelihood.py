"""The likelihood reward is the log-probability that plain summation over the table gives."""

import math

import pytest

from ramify.engine import Engine, Extend, Fork, Score
from ramify.exact import tabular_model
from ramify.rewards import LikelihoodReward
from ramify.types import SamplingParams

JUDGE = tabular_model(3, seed=7)


def partial_and_whole(prompt):
    """Scores after one token and at the end."""
    alive = yield Fork(prompt, 6)
    yield Extend(alive, tokens=1)
    yield Score(alive, LikelihoodReward(JUDGE))
    yield Extend(alive)
    yield Score(alive, LikelihoodReward(JUDGE))
    return alive[0]


def summed(answer):
    """log p(answer | prompt) from the table itself."""
    prompt = JUDGE.tokenizer.encode("a")
    return sum(math.log(JUDGE.decoder.table((*prompt, *answer[:at]))[token]) for at, token in enumerate(answer))


def largest_error(reference):
    """Of all scores of six candidates, against `reference(tokens so far)`."""
    params = SamplingParams(max_tokens=5)
    result = Engine(tabular_model(3, seed=1), capacity=512, block_size=2).result("a", partial_and_whole, params)
    return max(abs(score - reference(row.token_ids[:at])) for row in result.candidates for at, score in row.scores)


def test_every_score_is_the_sum_of_the_table():
    assert largest_error(summed) < 1e-9


def test_a_mean_instead_of_the_sum_is_caught():
    with pytest.raises(AssertionError):
        assert largest_error(lambda answer: summed(answer) / len(answer)) < 1e-9
