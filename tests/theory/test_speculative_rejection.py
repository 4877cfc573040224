import itertools
import math
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.theory import best_of_n
from ramify.theory import speculative_rejection as sr
from ramify.theory.checks import OutOfRange
from theory import brute
from theory.brute import EXACT, examples

RULES = ("ceil", "round", "quantile")
plans = st.tuples(st.integers(1, 40), st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.7, 0.9]), st.integers(1, 60),
                  st.integers(1, 12), st.sampled_from(RULES)).filter(lambda plan: plan[3] <= plan[2])


# Schedules


def walk(n, alpha, max_tokens, first_round, rule):
    """The method token by token: if one more token for everybody does not fit, score and drop; then all grow."""
    live, length, decoded, read = n, 0, 0, 0
    while length < max_tokens:
        if live * (length + 1) > n * first_round and sr.keep_count(live, alpha, rule) < live:
            read += live * length
            live = sr.keep_count(live, alpha, rule)
        decoded, length = decoded + live, length + 1
    return live, decoded, read + live * length


def check_schedule(schedule):
    for plan in itertools.product((1, 2, 7, 64), (0.0, 0.3, 0.5, 0.9), (9, 256), (1, 8), RULES):
        got = schedule(*plan)
        assert (got.survivors, got.decode_tokens, got.reward_tokens(reuse=False)) == walk(*plan)


def late(n, alpha, max_tokens, first_round, rule):
    """Broken twin: drops one round too late."""
    plan = sr.schedule(n, alpha, max_tokens, first_round, rule)
    return sr.Schedule(tuple(sr.Round(r.start, r.end, before.live)
                             for r, before in zip(plan.rounds, (plan.rounds[0], *plan.rounds), strict=False)))


def test_the_schedule_is_the_method_token_by_token():
    check_schedule(sr.schedule)
    with pytest.raises(AssertionError):
        check_schedule(late)


@examples
@given(plans)
def test_the_schedule_keeps_its_books(plan):
    n, alpha, max_tokens, first_round, rule = plan
    got = sr.schedule(n, alpha, max_tokens, first_round, rule)
    assert (got.width, got.length) == (n, max_tokens) and got.rounds[0].start == 0
    for now, later in itertools.pairwise(got.rounds):
        assert now.end == later.start and now.live > later.live
    stays = [r.live * r.end <= n * first_round or r.end == r.start + 1 for r in got.rounds[:-1]]
    assert all(r.end > r.start for r in got.rounds) and all(stays)
    assert got.decode_tokens == got.survivors * max_tokens + got.dropped_tokens
    assert got.decode_tokens <= got.best_of_n_tokens == n * max_tokens
    assert got.target_tokens(9) + n == got.reward_tokens(9) == 9 + got.decode_tokens
    assert got.reward_tokens(9, reuse=False) == sum(r.live * (9 + r.end) for r in got.rounds)


def test_nothing_is_dropped_at_alpha_0():
    for plan in (sr.schedule(8, 0.0, 100, 10), sr.schedule_at(8, 0.0, 100, [10, 20]),
                 sr.continuous_schedule(8, 0.0, 100, 10)):
        assert (plan.survivors, plan.cost_ratio, plan.decode_tokens) == (8, 1, 800)


def test_fixed_decision_times():
    plan = sr.schedule_at(10, 0.5, 50, [10, 20, 60])
    assert [(r.start, r.end, r.live) for r in plan.rounds] == [(0, 10, 10), (10, 20, 5), (20, 50, 3)]
    assert (plan.decode_tokens, plan.dropped_tokens, plan.peak_tokens) == (240, 90, 150)


# Closed forms


def check_closed_form(closed_form):
    """C (1 + alpha K) against the rounds one by one, where the number of decisions K is whole."""
    for n, alpha, first_round, decisions in itertools.product((64.0, 100.0), (0.1, 0.5, 0.75), (8.0, 32.0), range(4)):
        length = first_round / (1 - alpha) ** decisions
        plan = sr.continuous_schedule(n, alpha, length, first_round)
        assert len(plan.rounds) == decisions + 1
        assert closed_form(n, alpha, length, first_round) == pytest.approx(plan.decode_tokens, rel=EXACT)
        assert plan.peak_tokens == pytest.approx(n * first_round, rel=EXACT)
        for k, r in enumerate(plan.rounds):
            assert r.end == pytest.approx(first_round / (1 - alpha) ** k, rel=EXACT)
            assert r.live == pytest.approx(n * (1 - alpha) ** k, rel=EXACT)


def test_the_closed_form_at_whole_decisions():
    check_closed_form(sr.closed_form_tokens)
    with pytest.raises(AssertionError):  # broken twin: a full memory decoded in each round
        check_closed_form(lambda n, alpha, length, first: n * first * (1 + math.log(length / first)))


@examples
@given(st.floats(0.01, 0.9), st.floats(1, 30))
def test_the_closed_form_is_the_chord(alpha, stretch):
    exact = sr.continuous_schedule(1000, alpha, 32 * stretch, 32).decode_tokens
    assert exact <= sr.closed_form_tokens(1000, alpha, 32 * stretch, 32) * (1 + 1e-9)


def test_the_card_of_speculative_rejection():
    plan = sr.schedule(64, 0.5, 256, 32)
    assert [(r.end, r.live) for r in plan.rounds] == [(32, 64), (64, 32), (128, 16), (256, 8)]
    assert plan.decode_tokens == sr.closed_form_tokens(64, 0.5, 256, 32) == 32 * 64 * (1 + 0.5 * 3)
    assert plan.cost_ratio == (1 + 0.5 * 3) * 32 / 256
    assert plan.matched_width == 8 and plan.peak_tokens == 2048


def test_small_drops_tend_to_a_full_memory_all_the_time():
    limit = 2048 * (1 + math.log(8))
    assert sr.closed_form_tokens(64, 1e-9, 256, 32) == pytest.approx(limit, rel=1e-6)
    assert sr.continuous_schedule(64, 0.001, 256, 32).decode_tokens == pytest.approx(limit, rel=1e-3)


# Rounding


def check_keep_count(keep_count):
    for n, tenths in itertools.product(range(1, 60), range(10)):
        alpha, share = tenths / 10, (10 - tenths) * Decimal(n) / 10
        assert keep_count(n, alpha, "ceil") == share.to_integral_value(ROUND_CEILING)
        assert keep_count(n, alpha, "round") == max(1, share.to_integral_value(ROUND_HALF_EVEN))
        scores = np.arange(n) * 1.0
        assert keep_count(n, alpha, "quantile") == (scores >= np.quantile(scores, alpha) - 1e-9).sum()


def test_the_three_roundings():
    check_keep_count(sr.keep_count)
    assert (sr.keep_count(1, 0.5, "round"), sr.keep_count(10, 0.9), sr.keep_count(10, 0.7)) == (1, 1, 3)


def test_floating_point_roundings_are_caught():
    plain = {"ceil": lambda n, a: math.ceil((1 - a) * n), "round": lambda n, a: round((1 - a) * n),
             "quantile": lambda n, a: n - math.ceil(a * (n - 1))}
    with pytest.raises(AssertionError):
        check_keep_count(lambda n, alpha, rule: plain[rule](n, alpha))


# What comes out


def check_limits(scored_by_reward, blind):
    """One decision among 3 candidates, 2 kept: the law of the answer, from every outcome."""
    for seed in range(4):
        prefixes, _, ends = brute.prefix_table(seed)
        rewards_by_prefix = [np.full(2, float(reward)) for reward in np.random.default_rng(seed).permutation(2)]
        told = [(probs, rewards) for (probs, _), rewards in zip(ends, rewards_by_prefix, strict=True)]
        probs, rewards = brute.flat(prefixes, told)
        law = np.concatenate(brute.two_stage(prefixes, [r[0] for r in rewards_by_prefix], told, 3, 2, 1))
        level = finite_by_level(law, rewards)
        assert level == pytest.approx(finite_by_level(scored_by_reward(probs, rewards, 3), rewards), abs=EXACT)
        probs, rewards = brute.flat(prefixes, ends)
        law = np.concatenate(brute.two_stage(prefixes, [0.0] * 2, ends, 3, 2, 1))
        assert law == pytest.approx(blind(probs, rewards, 2), abs=EXACT)


def finite_by_level(law, rewards):
    return brute.by_level(np.asarray(law), rewards)


def test_scores_that_know_the_reward_give_best_of_width_and_blind_ones_best_of_survivors():
    check_limits(best_of_n.sequence_law, best_of_n.sequence_law)
    with pytest.raises(AssertionError):
        check_limits(lambda p, r, n: best_of_n.sequence_law(p, r, n - 1), best_of_n.sequence_law)
    with pytest.raises(AssertionError):
        check_limits(best_of_n.sequence_law, lambda p, r, n: best_of_n.sequence_law(p, r, n + 1))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_scores_the_kl_stays_below_best_of_width(seed):
    prefixes, scores, ends = brute.prefix_table(seed)
    probs, _ = brute.flat(prefixes, ends)
    for keep in (1, 2, 3):
        law = np.concatenate(brute.two_stage(prefixes, scores, ends, 3, keep, 1))
        assert brute.kl(law, probs) <= best_of_n.kl_bound(3) + EXACT


@pytest.mark.parametrize(("call", "needed"), [
    (lambda: sr.schedule(0, 0.5, 10, 5), "n of at least 1"),
    (lambda: sr.schedule(4, 1.0, 10, 5), "alpha"),
    (lambda: sr.schedule(4, 0.5, 10, 20), "first_round between 1 and max_tokens = 10"),
    (lambda: sr.schedule(4, 0.5, 10, 2.5), "whole number"),
    (lambda: sr.schedule_at(4, 0.5, 10, [5, 3]), "ascending"),
    (lambda: sr.continuous_schedule(4, 1e-6, 10, 5), "at least 0.001"),
    (lambda: sr.closed_form_tokens(4, 0.0, 10, 5), "alpha above 0"),
    (lambda: sr.closed_form_tokens(4, 0.5, 100, 5), "n \\* first_round"),
    (lambda: sr.keep_count(0, 0.5), "whole number"),
])
def test_numbers_out_of_range(call, needed):
    with pytest.raises(OutOfRange, match=needed):
        call()
