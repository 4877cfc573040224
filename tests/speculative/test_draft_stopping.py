"""When to stop drafting: rules over what was drafted, and the length that pays."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.errors import OptionError
from ramify.exact import enumerate_law
from ramify.exact.tabular import random_table
from ramify.sampling.draws import DRAFT, Key
from ramify.speculative import chain, stopping, verify_block, verify_token
from ramify.speculative.stopping import AcceptanceRates, Step, best_length

examples = settings(max_examples=60, deadline=None)

SURE, LIKELY, WILD = Step(0.9, 0.9, 0.3, 0.95), Step(0.1, 0.6, 0.9, 0.8), Step(0.2, 0.2, 1.6, 0.5)
SCRIPT = [SURE, SURE, LIKELY, WILD, SURE]


def drafted(rule, steps=SCRIPT):
    """How many tokens a drafter that asks before every draw ends up with; all of them stay."""
    for length in range(len(steps)):
        if rule(steps[:length]):
            return length
    return len(steps)


def test_a_step_is_read_off_the_distribution():
    p_V = torch.tensor([0.5, 0.25, 0.25, 0.0])
    step = stopping.step_of(p_V, 1, 0.3)
    assert step == pytest.approx((0.25, 0.5, 1.5 * math.log(2), 0.3))
    assert stopping.step_of(p_V, 0).acceptance == 1


def test_fixed():
    assert [drafted(stopping.fixed(length)) for length in (0, 1, 3, 9)] == [0, 1, 3, 5]


def test_confidence_keeps_the_token_that_stops_it():
    assert drafted(stopping.confidence()) == 4
    assert drafted(stopping.confidence(0.7)) == 3  # of the likeliest token, whichever was drawn
    assert drafted(stopping.confidence(0)) == 5 and drafted(stopping.confidence(1)) == 1


def test_entropy():
    assert [drafted(stopping.entropy(nats)) for nats in (0, 0.5, 1, 2)] == [1, 3, 4, 5]


def test_likelihood_is_of_the_whole_path():
    """.9, .81, .081, .0162."""
    assert [drafted(stopping.likelihood(least)) for least in (0, 0.05, 0.5, 0.85, 0.95, 1)] == [5, 4, 3, 2, 1, 1]
    assert not stopping.likelihood(1.0)([])


def check_newest(rule_of):
    """1 - product of acceptances: .05, .0975, .278, .639."""
    assert [drafted(rule_of(threshold)) for threshold in (0, 0.04, 0.06, 0.1, 0.3, 0.7, 1)] == [1, 1, 2, 3, 4, 5, 5]


def test_acceptance_counts_the_newest_token():
    check_newest(stopping.acceptance)
    with pytest.raises(AssertionError):  # broken twin: one token late, as published
        check_newest(lambda threshold: lambda steps: stopping.acceptance(threshold)(steps[:-1]))
    assert not stopping.acceptance(0.0)([])


def test_bounds():
    wild = [WILD] * 9
    rule = stopping.bounded(stopping.acceptance(), 2, 4)
    assert drafted(rule, wild) == 2 and drafted(rule, [SURE] * 9) == 4
    assert drafted(stopping.bounded(stopping.fixed(3), 0, 9), wild) == 3


@pytest.mark.parametrize("make", [
    lambda: stopping.fixed(-1), lambda: stopping.confidence(1.1), lambda: stopping.entropy(-0.1),
    lambda: stopping.entropy(math.nan), lambda: stopping.acceptance(math.nan),
    lambda: stopping.likelihood(-0.1),
    lambda: stopping.bounded(stopping.fixed(1), 3, 2), lambda: AcceptanceRates(0), lambda: AcceptanceRates(4, prior=2),
    lambda: AcceptanceRates(4, decay=1), lambda: AcceptanceRates(4, strength=0)])
def test_thresholds_out_of_range(make):
    with pytest.raises(OptionError):
        make()


# The length that pays


def slow_best(rates, draft_seconds, verify_seconds):
    """Expected tokens from the law of the number accepted, one length after the other."""
    def speed(length):
        law = [math.prod(rates[:n]) * (1 - rates[n] if n < length else 1) for n in range(length + 1)]
        return sum((n + 1) * chance for n, chance in enumerate(law)) / (length * draft_seconds + verify_seconds(length))

    return max(range(len(rates) + 1), key=speed)


def check_best(best):
    for rates in ([0.8] * 8, [0.9, 0.1, 0.9, 0.9], [0.2] * 4, [0.0, 1.0], []):
        for draft_seconds in (0.01, 0.1, 0.5):
            for verify_seconds in (lambda k: 1.0, lambda k: 1 + 0.2 * k, lambda k: 1.0 if k < 3 else 2.0):
                assert best(rates, draft_seconds, verify_seconds) == slow_best(rates, draft_seconds, verify_seconds)


def test_best_length():
    check_best(best_length)
    with pytest.raises(AssertionError):  # broken twin: every token counted as if tested on its own
        check_best(lambda rates, d, t: max(range(len(rates) + 1), key=lambda k: (1 + sum(rates[:k])) / (k * d + t(k))))


@examples
@given(st.lists(st.floats(0, 1), max_size=6), st.floats(1e-4, 1), st.lists(st.floats(0.01, 2), min_size=7, max_size=7))
def test_best_length_of_any_table(rates, draft_seconds, seconds):
    def speed(length):
        tokens = 1 + sum(math.prod(rates[:n]) for n in range(1, length + 1))
        return tokens / (length * draft_seconds + seconds[length])

    length = best_length(rates, draft_seconds, seconds.__getitem__)
    assert speed(length) == pytest.approx(max(speed(n) for n in range(len(rates) + 1)), rel=1e-12)


def test_lengths_that_depend_on_the_rows():
    """Acceptance .8, drafts at a tenth of a step: 6 tokens for one row; none where a wide batch pays for each."""
    assert best_length([0.8] * 12, 0.1, lambda k: 1.0) == 6
    assert best_length([0.8] * 12, 0.1, lambda k: 1.0 + k) == 0
    assert best_length([0.0] * 12, 1e-9, lambda k: 1.0) == 0


# What was accepted


def test_the_prior_until_something_is_known():
    rates = AcceptanceRates(3, prior=0.7)
    assert rates.by_position() == pytest.approx([0.7] * 3)
    rates.observe(0, 0)
    assert rates.by_position() == pytest.approx([0.7] * 3)


def test_only_tested_positions_are_counted():
    rates = AcceptanceRates(4, prior=0.5, strength=2, decay=0.9)
    rates.observe(4, 1)  # the second failed; the others say nothing
    first, second, third, fourth = rates.by_position()
    assert first == pytest.approx(2 / 3) and second == pytest.approx((2 * 2 / 3) / 3)
    assert third == fourth == pytest.approx(second)  # like their neighbour
    rates.observe(1, 1)
    assert rates.by_position()[0] == pytest.approx((0.9 + 1 + 1) / (1.9 + 2))
    rates.observe(9, 9)  # beyond the positions
    assert len(rates.by_position()) == 4


def test_the_least_it_can_think():
    rates = AcceptanceRates(1)
    for _ in range(2000):
        rates.observe(1, 0)
    assert rates.by_position()[0] == pytest.approx(0.7 * 4 / 54)


def check_learns(kind):
    rates = kind(4, decay=0.99)
    chances, generator = [0.9, 0.5, 0.8, 0.3], torch.Generator().manual_seed(0)
    for _ in range(2000):
        passed = (torch.rand(4, generator=generator) < torch.tensor(chances)).tolist()
        rates.observe(4, ([*passed, False]).index(False))
    assert rates.by_position() == pytest.approx(chances, abs=0.12)
    for _ in range(300):
        rates.observe(4, 0)
    assert rates.by_position()[0] < 0.1  # yesterday's text is forgotten


class CountsAll(AcceptanceRates):
    """Broken twin: tokens behind the first failure count as failures."""

    def observe(self, drafted, accepted):
        for position in range(drafted):
            self._accepted[position] = self.decay * self._accepted[position] + (position < accepted)
            self._tested[position] = self.decay * self._tested[position] + 1


def test_it_learns_and_forgets():
    check_learns(AcceptanceRates)
    with pytest.raises(AssertionError):
        check_learns(CountsAll)


@examples
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60), st.floats(0.01, 0.99))
def test_rates_stay_inside(rounds, prior):
    rates = AcceptanceRates(4, prior=prior)
    for length, accepted in rounds:
        rates.observe(length, min(length, accepted))
        assert all(0 < rate < 1 for rate in rates.by_position())


def test_a_start_that_costs_more_than_drafts_save_is_not_made():
    """Each token of a chain of 3 that always stands takes (1 + 3 * .1)/4 of a second, plain decoding 1."""
    saved = 1 - (1 + 3 * 0.1) / 4
    assert best_length([1.0] * 3, 0.1, lambda k: 1.0, saved - 0.001) == 3
    assert best_length([1.0] * 3, 0.1, lambda k: 1.0, saved + 0.001) == 0


# The law

P, Q = random_table(3, 1), random_table(3, 2)


def written(rule, verify, source, keep_newest=True):
    """Three tokens: drafts that stop by the rule, verified; an oracle head tells min(1, q/p)."""
    text = ()
    while len(text) < 3:
        steps, rows, tokens = [], [], []
        while len(tokens) < 2 and not rule(steps):
            path = (*text, *tokens)
            rows.append(torch.tensor(P(path), dtype=torch.float64))
            [token] = source.categorical(rows[-1][None], [Key(1, len(text), DRAFT).part(len(tokens))])
            tokens.append(token)
            steps.append(stopping.step_of(rows[-1], token, min(1.0, Q(path)[token] / P(path)[token])))
        if not keep_newest and len(tokens) < 2 and tokens:
            tokens.pop()
            rows.pop()
        q_NV = torch.tensor([Q((*text, *tokens[:n])) for n in range(len(tokens) + 1)], dtype=torch.float64)
        verdict = verify(chain(tokens, torch.stack(rows) if rows else None), q_NV, source, Key(1, len(text)))
        text += (*tokens[:len(verdict.path)], verdict.token)
    return text[:3]


RULES = {"fixed": stopping.fixed(1), "confidence": stopping.confidence(0.6), "entropy": stopping.entropy(0.8),
         "likelihood": stopping.likelihood(0.3),
         "acceptance": stopping.acceptance(0.4)}


def check_law(rule, verify, keep_newest=True):
    law = enumerate_law(lambda source: written(rule, verify, source, keep_newest))
    for text in product(range(3), repeat=3):
        exact = math.prod(Q(text[:n])[text[n]] for n in range(3))
        assert law.get(text, 0.0) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("name", list(RULES))
def test_a_rule_leaves_the_law_alone(name):
    check_law(RULES[name], verify_token)


def test_block_verification_may_stop_too():
    check_law(RULES["acceptance"], verify_block)


def test_to_drop_the_newest_token_is_biased():
    """The broken twin: a rule that reads the token and takes it back."""
    with pytest.raises(AssertionError):
        check_law(RULES["acceptance"], verify_token, keep_newest=False)
