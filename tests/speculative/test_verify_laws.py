"""Lossless rules: the complete law of a round, continued by the target, is the target's; broken twins' are not."""

import pytest
import torch
from spec_cases import CHAIN_RULES, KEY, TREE_RULES, Pair, independent_tree, sparse

from ramify.exact import chi_square, enumerate_law
from ramify.sampling.draws import ACCEPT, Key, KeyedDraws, mix
from ramify.speculative import (
    Proposal,
    Verdict,
    verify_block,
    verify_coupled,
    verify_k_sequential,
    verify_lossy,
    verify_priced,
    verify_recursive,
    verify_token,
    verify_traversal,
)
from ramify.speculative import verify as top_down
from ramify.speculative import verify_joint as joint
from ramify.speculative.residual import leftover

DENSE, WIDE = Pair(1), sparse(2)
EXACT = 1e-9


def unpriced(proposal, q_NV, draws, key):
    return verify_priced(proposal, q_NV, draws, key, reward_NV=torch.rand(q_NV.shape), delta=0.0)


@pytest.mark.parametrize("rule", [verify_token, verify_block, verify_recursive, verify_traversal,
                                  verify_k_sequential, verify_coupled, verify_lossy, unpriced])
@pytest.mark.parametrize("pair", [DENSE, WIDE, Pair(3, zeros=0)])
@pytest.mark.parametrize("branching", [(), (1,), (1, 1)])
def test_a_chain_keeps_the_targets_law(rule, pair, branching):
    assert pair.error(rule, "independent", branching) < EXACT


@pytest.mark.parametrize("rule", [verify_token, verify_block, verify_traversal])
def test_a_longer_chain_keeps_it_too(rule):
    assert DENSE.error(rule, "independent", (1, 1, 1)) < EXACT


@pytest.mark.parametrize("rule", [verify_recursive, verify_traversal, verify_k_sequential, verify_coupled])
@pytest.mark.parametrize(("pair", "branching"), [(DENSE, (2, 1)), (WIDE, (3,)), (Pair(5, 2), (2, 2))])
def test_independent_siblings(rule, pair, branching):
    assert pair.error(rule, "independent", branching) < EXACT


@pytest.mark.parametrize("rule", [verify_recursive, verify_traversal, verify_coupled])
@pytest.mark.parametrize("scheme", ["without_replacement", "fixed", "mixed"])
@pytest.mark.parametrize(("pair", "branching"), [(DENSE, (2, 1)), (DENSE, (2, 2)), (WIDE, (2, 1))])
def test_other_siblings(rule, scheme, pair, branching):
    assert pair.error(rule, scheme, branching) < EXACT


@pytest.mark.parametrize("rule", [verify_recursive, verify_traversal])
@pytest.mark.parametrize("scheme", ["without_replacement", "fixed"])
@pytest.mark.parametrize("pair", [DENSE, WIDE])
def test_three_siblings(rule, scheme, pair):
    assert pair.error(rule, scheme, (3,)) < EXACT


@pytest.mark.parametrize("rule", [verify_token, verify_block])
def test_a_chain_chosen_without_chance(rule):
    assert DENSE.error(rule, "fixed", (1, 1)) < EXACT


@pytest.mark.parametrize("rule", [verify_token, verify_block, verify_recursive, verify_traversal, verify_k_sequential])
def test_a_draft_with_nothing_in_common(rule):
    pair = Pair(vocabulary=4, p=lambda path: (0.5, 0.5, 0, 0), q=lambda path: (0, 0, 0.3, 0.7))
    assert pair.error(rule, "independent", (1, 1)) < EXACT
    assert pair.accepted(rule, "independent", (1, 1)) == 0


@pytest.mark.parametrize("rule", [verify_token, verify_block, verify_recursive, verify_traversal, verify_k_sequential])
def test_a_perfect_draft_is_kept_whole(rule):
    pair = Pair(vocabulary=3, p=DENSE.q, q=DENSE.q)
    assert pair.error(rule, "independent", (1, 1)) < EXACT
    assert pair.accepted(rule, "independent", (1, 1)) == pytest.approx(2)


# Broken twins: each differs from the rule at one place, and its law is wrong.

def ignoring_earlier_siblings(monkeypatch):
    monkeypatch.setattr(Proposal, "drawn_from", lambda self, node, turn, like_V: self.p_NV[node + 1].double())


def residual_is_the_target(monkeypatch):
    for module in (top_down, joint):
        monkeypatch.setattr(module, "leftover", lambda q_V, p_V, share=1.0: (q_V, leftover(q_V, p_V, share)[1]))


def residual_not_normalised(monkeypatch):
    def raw(q_V, p_V, share=1.0):
        rest_V, mass = leftover(q_V, p_V, share)
        return rest_V * mass, mass

    for module in (top_down, joint):
        monkeypatch.setattr(module, "leftover", raw)


def residual_of_the_whole_target(monkeypatch):
    monkeypatch.setattr(joint, "leftover", lambda q_V, p_V, share=1.0: leftover(q_V, p_V))


def share_as_it_was(monkeypatch):
    monkeypatch.setattr(joint, "still_fits", lambda mass, share: share)


def always_one_divisor(monkeypatch):
    monkeypatch.setattr(top_down, "k_sequential_rho", lambda q_V, p_V, count: 1.0)


def temperature_forgotten_in_the_ratio(monkeypatch):
    plain = Proposal.drawn_from

    def hotter(self, node, turn, like_V):
        p_V = plain(self, node, turn, like_V) ** 0.5
        return p_V / p_V.sum()

    monkeypatch.setattr(Proposal, "drawn_from", hotter)


def raw_bonus(monkeypatch):
    plain = top_down.follow_up
    for module in (top_down, joint):
        monkeypatch.setattr(module, "follow_up", lambda q_V, draws, key: plain((q_V > 0) * q_V**0.5, draws, key))


CHAIN, LEVEL, TREE = ("independent", (1, 1)), ("without_replacement", (2,)), ("without_replacement", (2, 1))


@pytest.mark.parametrize(("rule", "broken", "draft"), [
    (verify_token, residual_is_the_target, CHAIN),
    (verify_token, temperature_forgotten_in_the_ratio, CHAIN),
    (verify_token, raw_bonus, CHAIN),
    (verify_block, residual_is_the_target, CHAIN),
    (verify_block, residual_of_the_whole_target, CHAIN),
    (verify_block, share_as_it_was, CHAIN),
    (verify_block, raw_bonus, CHAIN),
    (verify_recursive, ignoring_earlier_siblings, LEVEL),
    (verify_recursive, residual_is_the_target, LEVEL),
    (verify_recursive, residual_not_normalised, LEVEL),
    (verify_recursive, residual_is_the_target, ("independent", (2,))),
    (verify_recursive, residual_is_the_target, ("fixed", (2, 1))),
    (verify_k_sequential, always_one_divisor, ("independent", (2,))),
    (verify_traversal, ignoring_earlier_siblings, TREE),
    (verify_traversal, residual_not_normalised, TREE),
    (verify_traversal, residual_of_the_whole_target, TREE),
    (verify_traversal, share_as_it_was, TREE),
    (verify_traversal, share_as_it_was, ("mixed", (2, 1))),
])
def test_the_check_catches_a_broken_rule(rule, broken, draft, monkeypatch):
    pair = Pair(3, zeros=0)
    broken(monkeypatch)
    assert pair.error(rule, *draft) > 1e-3


def stopped_at_the_first_failure(proposal, q_NV, draws, key):
    """Block verification with the tests of its lengths in order, as one engine shipped it."""
    lengths = []

    class Watched:
        categorical = draws.categorical

        def bernoulli(self, probability, key):
            lengths.append((key, probability))
            return False

    verify_block(proposal, q_NV, Watched(), key)  # all lengths fail here: their probabilities, longest first
    length = 0
    for test, probability in reversed(lengths):
        if not draws.bernoulli(probability, test):
            break
        length += 1
    proposal = Proposal(proposal.tokens, proposal.parents, proposal.p_NV)
    residual = [q_NV[length], *([] if length == len(proposal) else [proposal.drawn_from(length - 1, 0, q_NV)])]
    last_V = residual[0] if length == len(proposal) else leftover(*residual)[0]
    return Verdict(list(range(length)), top_down.follow_up(last_V, draws, key._replace(position=99)), 0)


def sample_and_match_with_a_residual(proposal, q_NV, draws, key):
    """Draws that do not match are dealt with as if they had been rejected."""
    verdict = verify_coupled(proposal, q_NV, draws, key)
    if not verdict.rejections:
        return verdict
    end = verdict.path[-1] if verdict.path else -1
    left_V, _ = leftover(q_NV[end + 1], proposal.p_NV[end + 1].double())
    return Verdict(verdict.path, top_down.follow_up(left_V, draws, key), 1)


@pytest.mark.parametrize("broken", [stopped_at_the_first_failure, sample_and_match_with_a_residual])
def test_the_check_catches_a_rule_that_was_misread(broken):
    assert Pair(3, zeros=0).error(broken, "independent", (1, 1)) > 1e-3


def test_equality_with_a_sampled_token_is_not_the_greedy_rule():
    assert DENSE.error(top_down.verify_greedy, "independent", (1, 1)) > 1e-3


# What a drafter may decide, and what it may not.

def grown_at_will(source):
    """The first child grows if the second is token 0, which is drawn unless the first is 1; p of each as drawn."""
    p = [DENSE.next_p([()])[0]]
    first, second = source.categorical(torch.stack([p[0], p[0]]), [Key(60, 0), Key(60, 1)])
    tokens, parents = [first], [-1]
    rows = torch.zeros(4, 3, dtype=torch.float64)
    rows[0] = p[0]
    if first != 1:
        tokens, parents = [first, second], [-1, -1]
        if second == 0:
            rows[1] = DENSE.next_p([(first,)])[0]
            [third] = source.categorical(rows[1][None], [Key(60, 2)])
            tokens, parents = [first, second, third], [-1, -1, 0]
    return Proposal(tokens, parents, rows[: len(tokens) + 1])


def second_sibling_by_the_first_ones_child(source):
    rows = torch.zeros(4, 3, dtype=torch.float64)
    rows[0] = DENSE.next_p([()])[0]
    [first] = source.categorical(rows[0][None], [Key(60, 0)])
    rows[1] = DENSE.next_p([(first,)])[0]
    [below] = source.categorical(rows[1][None], [Key(60, 1)])
    if below != 0:
        return Proposal([first, below], [-1, 0], rows[:3])
    [second] = source.categorical(rows[0][None], [Key(60, 2)])
    return Proposal([first, below, second], [-1, 0, -1], rows)


def unlikely_tokens_left_out(source):
    proposal = independent_tree(DENSE.next_p, (2, 1), source, KEY)
    p_V = proposal.p_NV[0]
    if p_V[proposal.tokens[1]] == p_V.max():
        return proposal
    return Proposal([proposal.tokens[0], proposal.tokens[2]], [-1, 0], proposal.p_NV[:2])


def error_of(drafted, rule):
    def run(source):
        proposal = drafted(source)
        return (tuple(rule(proposal, DENSE.q_NV(proposal), source, KEY).text(proposal)),)

    return DENSE.error_of(enumerate_law(run), 3)


@pytest.mark.parametrize("rule", TREE_RULES)
@pytest.mark.parametrize("drafted", [grown_at_will, second_sibling_by_the_first_ones_child])
def test_what_grows_may_depend_on_anything_drawn_before(rule, drafted):
    assert error_of(drafted, TREE_RULES[rule]) < EXACT


@pytest.mark.parametrize("rule", TREE_RULES)
def test_a_drawn_token_must_not_be_left_out_for_what_it_is(rule):
    assert error_of(unlikely_tokens_left_out, TREE_RULES[rule]) > 1e-4


# Rounds after one another.

def decode(pair, rule, source, length, stream=7):
    """Rounds of two drafted tokens until `length` tokens are there."""
    text = ()
    while len(text) < length:
        key = Key(stream, len(text))
        start = text
        proposal = independent_tree(lambda paths, start=start: pair.next_p([(*start, *path) for path in paths]),
                                    (1, 1), source, key)
        shifted = Pair(vocabulary=pair.vocabulary, q=lambda path, start=start: pair.q((*start, *path)), p=pair.p)
        text += tuple(rule(proposal, shifted.q_NV(proposal), source, key).text(proposal))
    return text[:length]


@pytest.mark.parametrize("rule", [*CHAIN_RULES.values(), verify_token, verify_coupled])
def test_rounds_never_share_a_number(rule):
    """The enumerator raises if two draws of a text have one key."""
    pair = Pair(4, vocabulary=2)
    law = enumerate_law(lambda source: decode(pair, rule, source, 3))
    assert pair.error_of({(text,): mass for text, mass in law.items()}, 3) < EXACT


def test_keyed_numbers_have_the_enumerated_law():
    counts = {}
    for seed in range(400):
        text = decode(DENSE, verify_traversal, KeyedDraws(), 2, stream=mix(seed))
        counts[text] = counts.get(text, 0) + 1
    assert chi_square(counts, DENSE.text_law(2)) > 1e-3


def test_numbers_shared_between_draft_and_verdict_are_caught():
    def run(source):
        proposal = independent_tree(DENSE.next_p, (1,), source, KEY)
        source.bernoulli(0.5, KEY._replace(purpose=ACCEPT).part(0))
        verify_token(proposal, DENSE.q_NV(proposal), source, KEY)

    with pytest.raises(AssertionError, match="drawn from twice"):
        enumerate_law(run)


def test_coupled_text_is_that_of_plain_draws():
    """Token for token, whatever was drafted; float32 rows as an engine has them."""
    draws, agreed = KeyedDraws(), 0
    for seed in range(60):
        stream, text, plain = mix(seed, 1), [], []
        for position in range(6):
            row_RV = torch.tensor([DENSE.q(tuple(plain))], dtype=torch.float32)
            plain += draws.categorical(row_RV, [Key(stream, position)])
        while len(text) < 6:
            key, start = Key(stream, len(text)), tuple(text)
            proposal = independent_tree(
                lambda paths, start=start: DENSE.next_p([(*start, *path) for path in paths]), (2, 1), draws, key)
            shifted = Pair(p=DENSE.p, q=lambda path, start=start: DENSE.q((*start, *path)))
            verdict = verify_coupled(proposal, shifted.q_NV(proposal).float(), draws, key)
            text += verdict.text(proposal)
            agreed += len(verdict.path)
        assert text[:6] == plain
    assert agreed > 60


def test_coupled_with_keys_of_its_own_is_another_text():
    def texts(shift):
        def rule(proposal, q_NV, draws, key):
            return verify_coupled(proposal, q_NV, draws, key._replace(position=key.position + shift))

        return [decode(DENSE, rule, KeyedDraws(), 6, stream=mix(seed)) for seed in range(5)]

    assert texts(0) != texts(100)
