import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.theory import speculative as spec
from ramify.theory.checks import OutOfRange
from theory import chains
from theory.brute import EXACT, examples
from theory.chains import P, Q


def always(probs):
    return lambda prefix: probs


# One position


def test_the_pair_to_check_by_hand():
    assert spec.tv(P, Q) == pytest.approx(0.3, abs=EXACT) and spec.acceptance(P, Q) == pytest.approx(0.7, abs=EXACT)
    assert spec.residual(P, Q) == pytest.approx([0, 0, 1], abs=EXACT)
    assert spec.residual(Q, Q) == pytest.approx(Q)
    failed, last = spec.all_rejected(P, Q, 2)
    assert failed == pytest.approx(0.24, abs=EXACT) and last == pytest.approx([0, 0, 1], abs=EXACT)
    assert spec.all_rejected(P, P, 2)[0] == 0


def check_lower_bound(least):
    """No rule whose output has the target's law rejects less often than `least`, and the ordinary one ties."""
    rng = np.random.default_rng(0)
    for p, q in chains.pairs(20):
        ordinary = np.minimum(1, q / p)
        for accept in (ordinary, *(ordinary * rng.uniform(size=len(p)) ** 0.2 for _ in range(20))):
            rest = q - accept * p  # what a residual has to add
            assert (rest >= -EXACT).all()
            assert rest.sum() >= least(p, q) - EXACT
        assert least(p, q) == pytest.approx(p @ (1 - ordinary), abs=EXACT)


def test_nothing_lossless_rejects_less():
    check_lower_bound(spec.tv)
    with pytest.raises(AssertionError):  # broken twin: the chance to sample and match
        check_lower_bound(lambda p, q: 1 - p @ q)


# A whole answer


def check_rejections(rejections):
    for seed, tokens in ((0, 1), (1, 3), (2, 4)):
        p, q = chains.table(seed), chains.table(seed + 10)
        law, expected = chains.batch(p, q, tokens, 1)
        assert law == pytest.approx(chains.text_law(q, tokens, 3), abs=EXACT)
        assert rejections(p, q, tokens) == pytest.approx(expected, abs=EXACT)


def test_expected_rejections():
    check_rejections(spec.expected_rejections)
    with pytest.raises(AssertionError):  # broken twin: prefixes under the draft; tv is symmetric, the prefix law not
        check_rejections(lambda p, q, tokens: spec.expected_rejections(q, p, tokens))


def check_batch(rejections):
    p, q = chains.table(3), chains.table(4)
    for drafts in (1, 2, 3, 5):
        law, expected = chains.batch(p, q, 4 if drafts < 5 else 3, drafts)
        assert law == pytest.approx(chains.text_law(q, 4 if drafts < 5 else 3, 3), abs=EXACT)
        assert rejections(p, q, 4 if drafts < 5 else 3, drafts) == pytest.approx(expected, abs=EXACT)


def every_position_fresh(p, q, tokens, drafts):
    """Broken twin: M drafts at every position, not only after a rejection."""
    return sum(mass * spec.all_rejected(p(prefix), q(prefix), drafts)[0] for n in range(tokens)
               for prefix, mass in chains.text_law(q, n, 3).items())


def test_batch_rejections():
    check_batch(spec.expected_rejections_batch)
    with pytest.raises(AssertionError):
        check_batch(every_position_fresh)


def test_one_draft_is_no_batch():
    p, q = chains.table(5, 4), chains.table(6, 4)
    assert spec.expected_rejections_batch(p, q, 4, 1) == pytest.approx(spec.expected_rejections(p, q, 4), abs=EXACT)


@pytest.mark.parametrize("drafts", [1, 2, 3, math.inf])
def test_chains_in_closed_form(drafts):
    """The same as the recursion over prefixes; also where the target has a token that is never drafted."""
    for p, q in [*chains.pairs(3, 3), ((0.6, 0.4, 0.0), (0.3, 0.5, 0.2)), ((1, 0), (0, 1)), (Q, Q)]:
        for tokens in (1, 2, 5):
            expected = spec.expected_rejections_batch(always(p), always(q), tokens, drafts)
            assert spec.chain_rejections(p, q, tokens, drafts) == pytest.approx(expected, abs=EXACT)


def test_more_drafts_gain_less_and_less():
    assert spec.chain_rejections(P, Q, 50) == pytest.approx(15.0, abs=EXACT)
    assert spec.chain_rejections(P, Q, 50, 2) == pytest.approx(14.11036, abs=5e-6)
    by_drafts = [spec.chain_rejections(P, Q, 50, drafts) for drafts in range(1, 40)]
    limit = spec.chain_rejections(P, Q, 50, math.inf)
    assert (np.diff(by_drafts) < 0).all() and min(by_drafts) > limit > 11
    assert by_drafts[-1] == pytest.approx(limit, abs=0.01)


def test_the_tilted_target():
    p, q = chains.table(7), chains.table(8)
    weights = chains.table(9)
    for tokens in (1, 3):
        _, expected = chains.batch(p, lambda prefix: q(prefix) * weights(prefix) / (q(prefix) @ weights(prefix)),
                                   tokens, 1)
        assert spec.tilted_rejections(p, q, weights, tokens) == pytest.approx(expected, abs=EXACT)
        assert expected != pytest.approx(spec.expected_rejections(p, q, tokens), abs=1e-3)  # the untilted twin
    assert spec.tilted_rejections(p, q, always([7, 7, 7]), 3) == pytest.approx(spec.expected_rejections(p, q, 3))
    for p_V, q_V in chains.pairs(20):  # the price of guidance at one position
        t_V = spec.tilted(q_V, [1, 2, 3, 4])
        assert abs(spec.tv(p_V, t_V) - spec.tv(p_V, q_V)) <= spec.tv(q_V, t_V) + EXACT


# Quality against acceleration


def test_pareto_points_of_the_card():
    for epsilon, point in ((0, (0.3, 0)), (0.05, (0.25, 0.05)), (0.1, (0.2, 0.1)), (0.2, (0.1, 0.2)), (0.3, (0, 0.3))):
        assert spec.pareto_point(P, Q, spec.epsilon_rule(P, Q, epsilon)) == pytest.approx(point, abs=EXACT)
    assert spec.pareto_line(P, Q, [0, 0.1, 0.3, 0.9]) == pytest.approx([0.3, 0.2, 0, 0], abs=EXACT)


RULES = [lambda p, q: spec.epsilon_rule(p, q, 0.03), lambda p, q: spec.epsilon_rule(p, q, 0.3),
         lambda p, q: spec.lenience_rule(p, q, 0.8), lambda p, q: spec.lenience_rule(p, q, 0.2),
         lambda p, q: np.maximum(np.minimum(1, q / p), np.linspace(0, 1, len(p)))]


def check_line(law):
    """P[reject] + tv(output, target) = tv(draft, target), whatever over-acceptance."""
    for p, q in chains.pairs(30):
        for rule in RULES:
            accept = rule(p, q)
            rejection, loss = spec.pareto_point(p, q, accept)
            assert rejection + loss == pytest.approx(spec.tv(p, q), abs=EXACT)
            assert rejection == pytest.approx(p @ (1 - accept), abs=EXACT)
            assert spec.pareto_line(p, q, loss) == pytest.approx(rejection, abs=EXACT)
            assert spec.tv(law(p, q, accept), q) == pytest.approx(loss, abs=EXACT)


def test_over_acceptance_stays_on_a_line():
    check_line(spec.lossy_law)
    with pytest.raises(AssertionError):  # broken twin: redraw from the target itself
        check_line(lambda p, q, accept: accept * p + (p @ (1 - accept)) * q)


def test_the_target_is_a_worse_residual():
    accept = spec.epsilon_rule(P, Q, 0.05)
    assert spec.tv(spec.lossy_law(P, Q, accept), Q) == pytest.approx(0.05, abs=EXACT)
    assert spec.tv(accept * np.array(P) + 0.25 * np.array(Q), Q) == pytest.approx(0.175, abs=EXACT)


def test_accepting_less_is_dominated():
    accept = 0.9 * spec.epsilon_rule(P, Q, 0)
    rejection, loss = spec.pareto_point(P, Q, accept)
    assert loss == 0 and rejection > spec.tv(P, Q)
    with pytest.raises(OutOfRange, match="accepts at least"):
        spec.lossy_law(P, Q, accept)


@examples
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_no_rule_is_below_the_line(accept):
    rejection, loss = spec.pareto_point(P, Q, accept)
    assert rejection + loss >= spec.tv(P, Q) - EXACT


@pytest.mark.parametrize(("call", "said"), [
    (lambda: spec.tv([0.5, 0.5], [1.0]), "over the same tokens; got 2 and 1"),
    (lambda: spec.tv([0.5, 0.6], [1.0, 0]), "sum to 1"),
    (lambda: spec.all_rejected(P, Q, 0), "drafts to be a whole number"),
    (lambda: spec.chain_rejections(P, Q, 0), "tokens to be a whole number"),
    (lambda: spec.epsilon_rule(P, Q, -0.1), "epsilon of 0 or more"),
    (lambda: spec.lenience_rule(P, Q, 0), "lenience above 0"),
    (lambda: spec.pareto_point(P, Q, [1, 2, 1]), "chances of acceptance"),
    (lambda: spec.tilted(Q, [1, 1]), "a weight for each of the 3 tokens"),
    (lambda: spec.tilted([1, 0, 0], [0, 1, 1]), "not all 0 on the target"),
])
def test_mistakes(call, said):
    with pytest.raises(OutOfRange) as error:
        call()
    assert said in str(error.value)
