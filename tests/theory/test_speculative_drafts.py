import itertools
import math

import numpy as np
import pytest

from ramify.theory import speculative as spec
from ramify.theory import speculative_drafts as drafts
from ramify.theory.checks import OutOfRange
from theory import chains
from theory.brute import EXACT
from theory.chains import P, Q

# Chains


def accepted(p, q, length, passes):
    """E[accepted] and the law of accepted prefixes, over all drafts; `passes` gives P[accepted = 0..length]."""
    total = 0.0
    for drawn in itertools.product(range(3), repeat=length):
        rows = [(p(drawn[:i]), q(drawn[:i])) for i in range(length + 1)]
        chance = math.prod(rows[i][0][x] for i, x in enumerate(drawn))
        total += chance * sum(n * share for n, share in enumerate(passes(drawn, rows)))
    return total


def tokenwise(drawn, rows):
    chances = [min(1.0, q[x] / p[x]) for x, (p, q) in zip(drawn, rows, strict=False)] + [0.0]
    return [math.prod(chances[:n]) * (1 - chances[n]) for n in range(len(chances))]


def block_tests(drawn, rows):
    """The chance that the test at each place passes."""
    ratio, tests = 1.0, []
    for x, (p, q) in zip(drawn, rows, strict=False):
        rest = np.maximum(ratio * q - p, 0).sum()
        tests.append(rest / (rest + 1 - ratio) if rest else 0.0)
        ratio = min(1.0, ratio * q[x] / p[x])
    return [1.0, *tests[1:], ratio]


def block(drawn, rows):
    """The last place whose test passes, whatever the tests before it."""
    tests = block_tests(drawn, rows)
    return [tests[n] * math.prod(1 - test for test in tests[n + 1:]) for n in range(len(tests))]


def first_failure(drawn, rows):
    """Broken twin of block verification: acceptance taken to be contiguous."""
    tests = [*block_tests(drawn, rows), 0.0]
    return [math.prod(tests[:n + 1]) * (1 - tests[n + 1]) for n in range(len(tests) - 1)]


def check_chain(formula, passes):
    for seed, length in ((0, 1), (1, 2), (2, 3)):
        p, q = chains.table(seed), chains.table(seed + 20)
        assert formula(p, q, length) == pytest.approx(accepted(p, q, length, passes), abs=EXACT)


def test_accepted_by_both_rules():
    check_chain(drafts.accepted_tokenwise, tokenwise)
    check_chain(drafts.accepted_block, block)
    for formula, passes in ((drafts.accepted_tokenwise, block), (drafts.accepted_block, first_failure)):
        with pytest.raises(AssertionError):
            check_chain(formula, passes)


@pytest.mark.parametrize(("length", "token", "blockwise"), [(2, 1.19, 1.25), (3, 1.533, 1.695), (4, 1.7731, 2.0635)])
def test_chains_of_the_card(length, token, blockwise):
    tables = (lambda prefix: P, lambda prefix: Q)
    assert drafts.accepted_tokenwise(*tables, length) == pytest.approx(token, abs=EXACT)
    assert drafts.accepted_tokenwise_chain(P, Q, length) == pytest.approx(token, abs=EXACT)
    assert drafts.accepted_block(*tables, length) == pytest.approx(blockwise, abs=EXACT)
    assert drafts.accepted_block_chain(P, Q, length) == pytest.approx(blockwise, abs=EXACT)


def test_block_never_accepts_less():
    for p, q in chains.pairs(10, 4, 0.3):
        values = [(drafts.accepted_tokenwise_chain(p, q, n), drafts.accepted_block_chain(p, q, n)) for n in (1, 2, 6)]
        assert values[0][0] == pytest.approx(values[0][1], abs=EXACT)
        assert all(token <= blockwise + EXACT for token, blockwise in values)
        assert values[1][1] == pytest.approx(drafts.accepted_block(lambda _, p=p: p, lambda _, q=q: q, 2), abs=1e-11)


# Several drafts


@pytest.mark.parametrize(("k", "naive", "recursive", "sequential", "without", "bound"), [
    (1, 0.29, 0.7, 0.7, 0.7, 0.7), (2, 0.483, 0.76, 0.791355287, 0.82, 0.86), (3, 0.6161, 0.808, None, 1.0, 0.988)])
def test_acceptances_of_the_card(k, naive, recursive, sequential, without, bound):
    assert drafts.naive_acceptance(P, Q, k) == pytest.approx(naive, abs=EXACT)
    assert drafts.recursive_acceptance(P, Q, k) == pytest.approx(recursive, abs=EXACT)
    assert drafts.without_replacement_acceptance(P, Q, k) == pytest.approx(without, abs=EXACT)
    assert drafts.iid_bound(P, Q, k) == pytest.approx(bound, abs=EXACT)
    if sequential:
        assert drafts.k_sequential(P, Q, k)[1] == pytest.approx(sequential, abs=1e-9)
    if k == 2:
        assert drafts.k_sequential(P, Q, k)[0] == pytest.approx(1.456776, abs=1e-6)


def iid(p, k):
    for drawn in itertools.product(range(len(p)), repeat=k):
        yield drawn, math.prod(p[x] for x in drawn)


def siblings(p, k):
    """Ordered draws without replacement and their chances."""
    for drawn in itertools.permutations(range(len(p)), k):
        yield drawn, math.prod(p[x] / (1 - sum(p[y] for y in drawn[:i])) for i, x in enumerate(drawn))


def played(p, q, drawn_chances, removed=False):
    """(law, acceptance) of recursive rejection, outcome by outcome."""
    law, total = np.zeros(len(q)), 0.0
    for drawn, chance in drawn_chances:
        taken, left, last = chains.draw_with(p, q, drawn, removed)
        for x, share in taken:
            law[x] += chance * share
        law += chance * left * last
        total += chance * (1 - left)
    return law, total


def check_recursive(recursive, without):
    for p, q in chains.pairs(10):
        for k in (1, 2, 3):
            law, total = played(p, q, iid(p, k))
            assert law == pytest.approx(q, abs=EXACT) and recursive(p, q, k) == pytest.approx(total, abs=EXACT)
            law, total = played(p, q, siblings(p, k), removed=True)
            assert law == pytest.approx(q, abs=EXACT) and without(p, q, k) == pytest.approx(total, abs=EXACT)


def test_recursive_rejection():
    check_recursive(drafts.recursive_acceptance, drafts.without_replacement_acceptance)
    with pytest.raises(AssertionError):  # broken twin: as if siblings were independent
        check_recursive(drafts.recursive_acceptance, drafts.recursive_acceptance)
    with pytest.raises(AssertionError):  # broken twin: every draft tested against the first target
        check_recursive(lambda p, q, k: 1 - spec.tv(p, q) ** k, drafts.without_replacement_acceptance)


def check_sequential(select):
    for p, q in chains.pairs(10):
        for k in (1, 2, 4):
            rho, total = select(p, q, k)
            assert 1 <= rho <= k
            beta = np.minimum(p, q / rho).sum()
            rest = q - np.minimum(p, q / rho) * (1 - (1 - beta) ** k) / beta  # what the residual has to add
            assert (rest >= -1e-9).all() and rest.sum() == pytest.approx(1 - total, abs=1e-9)
            first = sum(chance * (1 - math.prod(1 - min(1, q[x] / (rho * p[x])) for x in drawn))
                        for drawn, chance in iid(p, k))
            assert first == pytest.approx(total, abs=1e-9)


def test_k_sequential():
    check_sequential(drafts.k_sequential)
    with pytest.raises(AssertionError):  # broken twin: rho = 1 accepts more than the target has
        check_sequential(lambda p, q, k: (1.0, 1 - spec.tv(p, q) ** k))


def test_the_bound_is_over_all_sets():
    for p, q in [*chains.pairs(20, 6), ((0.6, 0.4, 0), (0.2, 0.3, 0.5)), ((1, 0), (0, 1))]:
        for k in (1, 2, 5):
            sets = itertools.product((0, 1), repeat=len(p))
            least = min(np.dot(q, held) + 1 - np.dot(p, held) ** k for held in sets)
            assert drafts.iid_bound(p, q, k) == pytest.approx(least, abs=EXACT)


def test_their_order():
    """Independent drafts below their bound, siblings above independent drafts."""
    gains = []
    for p, q in chains.pairs(30):
        for k in (2, 3):
            recursive, (_, sequential) = drafts.recursive_acceptance(p, q, k), drafts.k_sequential(p, q, k)
            bound, without = drafts.iid_bound(p, q, k), drafts.without_replacement_acceptance(p, q, k)
            assert spec.acceptance(p, q) - EXACT <= recursive <= sequential + EXACT <= bound + 2 * EXACT
            assert max(drafts.naive_acceptance(p, q, k), recursive) <= bound + EXACT and recursive <= without + EXACT
            gains.append(without - bound)
    assert max(gains) > 0.05  # siblings may beat every independent scheme


def test_edges():
    assert drafts.k_sequential((1, 0), (0, 1), 3)[1] == 0
    assert drafts.without_replacement_acceptance((1, 0), (0.3, 0.7), 5) == pytest.approx(0.3)
    assert drafts.without_replacement_acceptance(P, Q, 7) == pytest.approx(1, abs=EXACT)
    with pytest.raises(OutOfRange, match="orders of the drafts"):
        drafts.without_replacement_acceptance(np.full(200, 1 / 200), np.full(200, 1 / 200), 4)
    with pytest.raises(OutOfRange, match="length to be"):
        drafts.accepted_block_chain(P, Q, 0)
