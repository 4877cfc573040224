import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.theory import speculative as spec
from ramify.theory import speculative_cost as cost
from ramify.theory.checks import OutOfRange
from theory import chains
from theory.brute import EXACT, examples

RATES, LENGTHS = (0, 0.3, 0.8, 1), (0, 1, 4, 9)


def check_tokens(expected_tokens):
    assert expected_tokens(0.8, 4) == pytest.approx(3.3616, abs=EXACT)
    for rate, length in itertools.product(RATES, LENGTHS):
        accepted = [rate**n * (1 - rate if n < length else 1) for n in range(length + 1)]
        assert expected_tokens(rate, length) == pytest.approx(
            sum((n + 1) * chance for n, chance in enumerate(accepted)), abs=EXACT)


def test_expected_tokens():
    check_tokens(cost.expected_tokens)
    with pytest.raises(AssertionError):  # broken twin: without the token that the target adds
        check_tokens(lambda rate, length: cost.expected_tokens(rate, length) - 1)


def test_rejections_per_token():
    for rate, length in itertools.product(RATES, LENGTHS):
        calls = 1 / cost.expected_tokens(rate, length)
        assert cost.rejections_per_token(rate, length) == pytest.approx(calls * (1 - rate**length), abs=EXACT)
    rates = [cost.rejections_per_token(0.8, length) for length in range(40)]
    assert rates[0] == 0 and (np.diff(rates) > 0).all() and rates[-1] == pytest.approx(0.2, abs=1e-4)


TABLE = {(0.6, 0.02): (6, 2.17), (0.6, 0.05): (4, 1.92), (0.6, 0.1): (3, 1.67), (0.6, 0.3): (1, 1.23),
         (0.8, 0.02): (11, 3.82), (0.8, 0.05): (8, 3.09), (0.8, 0.1): (6, 2.47), (0.8, 0.3): (3, 1.55),
         (0.9, 0.02): (19, 6.37), (0.9, 0.05): (13, 4.67), (0.9, 0.1): (10, 3.43), (0.9, 0.3): (5, 1.87)}


def test_best_lengths_of_the_card():
    for (rate, price), (length, factor) in TABLE.items():
        assert cost.best_length(rate, price) == length
        assert cost.speedup(rate, length, price) == pytest.approx(factor, abs=0.005)


@examples
@given(st.floats(0, 1), st.floats(0, 1.5))
def test_the_best_length_is_the_best(rate, price):
    factors = [cost.speedup(rate, length, price) for length in range(31)]
    best = cost.best_length(rate, price, 30)
    assert factors[best] == max(factors) and factors[0] == 1
    if abs(rate - price) > 1e-6:
        assert (best > 0) == (rate > price)
    assert factors[1] == pytest.approx((1 + rate) / (1 + price))


def test_operations_are_never_saved():
    for rate, length in itertools.product(RATES, LENGTHS):
        factor = cost.operation_factor(rate, length, 0.1)
        assert factor == pytest.approx((0.1 * length + length + 1) / cost.expected_tokens(rate, length), abs=EXACT)
        assert cost.operation_factor(rate, length, 0) >= 1 - EXACT
    assert cost.operation_factor(1, 4, 0) == 1


# Several rows

FLAT, KNEE = {1: 0.01, 1000: 0.01}, {1: 0.01, 64: 0.01, 128: 0.02, 1024: 0.16}


def test_rows_share_the_target():
    for length in (0, 1, 5):
        assert cost.batched_speedup(0.8, length, 0.1, 8, FLAT) == pytest.approx(cost.speedup(0.8, length, 0.1))
    assert cost.step_seconds(KNEE, 96) == pytest.approx(0.015)
    assert cost.batched_speedup(0.8, 1, 0.1, 64, KNEE) == pytest.approx(1.8 / 2.1)
    best = [cost.best_batched_length(0.8, 0.1, rows, KNEE) for rows in (1, 8, 16, 64)]
    assert best == [6, 6, 3, 0]
    for rows, length in zip((1, 8, 16, 64), best, strict=True):
        factors = [cost.batched_speedup(0.8, n, 0.1, rows, KNEE) for n in range(1024 // rows)]
        assert factors[length] == max(factors) and factors[0] == 1
    assert cost.best_length(0.8, 0.1) == 6  # the twin that forgets the rows would draft 6 at any width


# Stopping


def play(rng, p, q, tokens, stop, discard, call, lag=0):
    """The cost of one text, written as an engine would; `lag` hides the newest verdicts from the stop rule."""
    text, total = (), 0.0
    while len(text) < tokens:
        drafted, accepts = (), ()
        while len(text + drafted) + 1 < tokens and not stop(accepts[:len(accepts) - lag]):
            p_V, q_V = p(text + drafted), q(text + drafted)
            x = int(rng.choice(3, p=p_V))
            drafted, accepts = (*drafted, x), (*accepts, min(1.0, q_V[x] / p_V[x]))
        total += call
        for n, accept in enumerate(accepts):
            if rng.random() >= accept:
                rest = chains.after_rejection(p(text), q(text))
                text, total = (*text, int(rng.choice(3, p=rest))), total + discard * (len(drafted) - n)
                break
            text = (*text, drafted[n])
        else:
            text = (*text, int(rng.choice(3, p=q(text))))
    return total


def threshold(h):
    return lambda accepts: 1 - math.prod(accepts) > h


def constant(length):
    return lambda accepts: len(accepts) >= length


def check_simulation(lag):
    p, q = chains.table(0), chains.table(1)
    rng, rule = np.random.default_rng(0), threshold(0.3)
    costs = np.array([play(rng, p, q, 4, rule, 0.3, 1.0, lag) for _ in range(3000)])
    error = costs.std() / math.sqrt(len(costs))
    assert abs(costs.mean() - cost.stopping_cost(p, q, 4, rule, 0.3, 1.0)) < 4 * error


def test_the_predicted_cost_is_the_cost():
    check_simulation(0)
    with pytest.raises(AssertionError):  # broken twin: the head that scores the token before the newest
        check_simulation(1)


def test_calls_are_rejections_and_one():
    """Drafts that never stop: a call follows only a rejection, and the last token is the target's own."""
    for seed in range(3):
        p, q = chains.table(seed), chains.table(seed + 10)
        calls = cost.stopping_cost(p, q, 4, lambda _: False, 0, 1)
        assert calls == pytest.approx(1 + spec.expected_rejections(p, q, 3), abs=EXACT)
        assert cost.stopping_cost(p, q, 4, lambda _: True, 0.5, 1) == pytest.approx(4, abs=EXACT)


def test_no_rule_beats_value_iteration():
    """A threshold on an oracle is better than constant lengths on average, though not always: the end is near."""
    gaps = []
    for seed in range(4):
        p, q = chains.table(seed, sharpness=0.4), chains.table(seed + 50, sharpness=0.4)
        for discard, call in ((0.1, 0.9), (0.4, 0.6)):
            least = cost.least_stopping_cost(p, q, 4, discard, call)
            gaps.append([min(cost.stopping_cost(p, q, 4, rule, discard, call) for rule in rules) - least
                         for rules in (map(constant, range(4)), map(threshold, (-1, *np.linspace(0, 1, 11))))])
    constants_R, thresholds_R = np.array(gaps).T
    assert constants_R.min() > -EXACT and thresholds_R.min() > -EXACT and constants_R.min() > 0.01
    assert thresholds_R.mean() < 0.7 * constants_R.mean() and (thresholds_R > constants_R + EXACT).any()


def test_free_waste_never_stops():
    p, q = chains.table(2), chains.table(3)
    assert cost.least_stopping_cost(p, q, 4, 0, 1) == pytest.approx(
        cost.stopping_cost(p, q, 4, lambda _: False, 0, 1), abs=EXACT)
    assert cost.least_stopping_cost(p, p, 5, 1, 1) == pytest.approx(1, abs=EXACT)


@pytest.mark.parametrize(("call", "said"), [
    (lambda: cost.expected_tokens(1.1, 4), "acceptance in [0, 1]"),
    (lambda: cost.expected_tokens(0.5, -1), "whole number of at least 0"),
    (lambda: cost.speedup(0.5, 4, -1), "cost of 0 or more"),
    (lambda: cost.operation_factor(0.5, 4, -1), "operations of 0 or more"),
    (lambda: cost.step_seconds({}, 4), "a table of tokens"),
    (lambda: cost.batched_speedup(0.5, 4, 0.1, 300, FLAT), "between the measured 1 and 1000; got 1500"),
    (lambda: cost.best_batched_length(0.5, 0.1, 0, FLAT), "rows to be a whole number"),
    (lambda: cost.stopping_cost(chains.table(0), chains.table(1), 0, constant(1), 1, 1), "tokens to be"),
    (lambda: cost.least_stopping_cost(chains.table(0), chains.table(1), 2, -1, 1), "costs of 0 or more"),
])
def test_mistakes(call, said):
    with pytest.raises(OutOfRange) as error:
        call()
    assert said in str(error.value)
