from decimal import Decimal, getcontext

import numpy as np
import pytest

from ramify.theory import cost
from ramify.theory.checks import OutOfRange
from ramify.theory.law import binomial_law, empirical_law, finite_law
from theory.brute import EXACT


def test_levels_are_merged_sorted_and_possible():
    law = finite_law([2.0, -1.0, 2.0, 5.0], [0.2, 0.5, 0.3, 0.0])
    assert law.values_L.tolist() == [-1.0, 2.0]
    assert law.probs_L == pytest.approx([0.5, 0.5], abs=EXACT)
    assert law.mean == pytest.approx(0.5, abs=EXACT) and law.top == pytest.approx(0.5, abs=EXACT)
    assert law.below_L == pytest.approx([0.0, 0.5], abs=EXACT)


def log_cdf_errors(log_upto_L, probs):
    """Relative errors against 60 decimal digits."""
    getcontext().prec = 60
    upto = np.cumsum([Decimal(float(p)) for p in probs])
    exact = [float((u / upto[-1]).ln()) for u in upto[:-1]]
    return [abs(got / want - 1) for got, want in zip(log_upto_L, exact, strict=False)]


def test_the_log_cdf_keeps_its_digits_at_both_ends():
    probs = np.array([1e-200, 1e-9, 0.7, 0.3 - 2e-9, 1e-9, 1e-30])
    law = finite_law(np.arange(6), probs)
    assert max(log_cdf_errors(law.log_upto_L, probs)) < 1e-12
    plain = np.log(np.minimum(np.cumsum(law.probs_L), 1.0))  # the broken twin: no digits left near 1
    assert max(log_cdf_errors(plain, probs)) > 0.01


def test_an_empirical_law_counts():
    law = empirical_law([1.0, 3.0, 1.0, 2.0])
    assert law.probs_L == pytest.approx([0.5, 0.25, 0.25], abs=EXACT)


def test_the_binomial_law_is_the_sum_of_tokens():
    law = finite_law([0, 1], [0.7, 0.3])
    probs = law.probs_L
    for _ in range(6):
        probs = np.convolve(probs, law.probs_L)
    assert binomial_law(7, 0.3).probs_L == pytest.approx(probs, abs=EXACT)
    assert binomial_law(7, 0.3).values_L == pytest.approx(np.arange(8) / 7, abs=EXACT)


@pytest.mark.parametrize(("values", "probs", "needed"), [
    ([0, 1], [0.5], "as many values as probabilities"),
    ([0, np.nan], [0.5, 0.5], "finite rewards"),
    ([0, 1], [1.5, -0.5], "probabilities of 0 or more"),
    ([0, 1], [0.5, np.nan], "probabilities of 0 or more"),
    ([0, 1], [0.5, 0.4], "sum to 1"),
    ([], [], "at least one"),
])
def test_what_is_no_law_is_refused(values, probs, needed):
    with pytest.raises(OutOfRange, match=needed) as caught:
        finite_law(values, probs)
    assert str(caught.value).startswith("needed ") and len(caught.value.args) == 3


def test_flops_add_up_over_roles():
    tokens = cost.best_of_n_tokens(8, 100, 20)
    assert tokens == {"target": 812, "reward": 820}
    assert cost.best_of_n_tokens(8, 100, 20, reuse=False) == {"target": 812, "reward": 960}
    assert cost.flops(tokens, {"target": 3.0, "reward": 5.0}) == 2 * (812 * 3 + 820 * 5)
    assert cost.flops({"target": 4, "draft": 0}, {"target": 3.0}) == 24
    with pytest.raises(OutOfRange, match="reward model"):
        cost.flops(tokens, {"target": 3.0})
