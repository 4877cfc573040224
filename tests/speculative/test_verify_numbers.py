"""How much each rule keeps: closed forms, hand-checked numbers, and the order between rules. Greedy, and numerics."""

import pytest
import torch
from spec_cases import (
    FIXTURE_P,
    FIXTURE_Q,
    KEY,
    Pair,
    block_length,
    context_free,
    independent_tree,
    overlap,
    recursive_length,
    sparse,
    token_length,
)

from ramify.exact import distance
from ramify.sampling.draws import Key, KeyedDraws, mix
from ramify.speculative import (
    Proposal,
    chain,
    verify_block,
    verify_coupled,
    verify_greedy,
    verify_k_sequential,
    verify_lossy,
    verify_recursive,
    verify_token,
    verify_traversal,
)
from ramify.speculative.residual import k_sequential_leftover, k_sequential_rho, leftover

FIXTURE = context_free()
PAIRS = [Pair(1), sparse(2), Pair(3, zeros=0)]


@pytest.mark.parametrize(("rule", "scheme", "branching", "accepted"), [
    (verify_token, "independent", (1,), 0.7),
    (verify_token, "independent", (1, 1), 1.19),
    (verify_token, "independent", (1, 1, 1), 1.533),
    (verify_block, "independent", (1,), 0.7),
    (verify_block, "independent", (1, 1), 1.25),
    (verify_block, "independent", (1, 1, 1), 1.695),
    (verify_block, "independent", (1, 1, 1, 1), 2.0635),
    (verify_recursive, "independent", (2,), 0.76),
    (verify_recursive, "independent", (3,), 0.808),
    (verify_recursive, "without_replacement", (2,), 0.82),
    (verify_recursive, "without_replacement", (3,), 1.0),
    (verify_k_sequential, "independent", (1,), 0.7),
    (verify_k_sequential, "independent", (2,), 0.791355),
    (verify_recursive, "fixed", (1,), 0.2),  # the draft's most likely token
    (verify_coupled, "independent", (1,), 0.29),
    (verify_coupled, "independent", (2,), 0.483),
])
def test_the_hand_checked_pair(rule, scheme, branching, accepted):
    assert FIXTURE.accepted(rule, scheme, branching) == pytest.approx(accepted, abs=1e-6)


def test_the_divisor_of_the_hand_checked_pair():
    p_V, q_V = (torch.tensor(row, dtype=torch.float64) for row in (FIXTURE_P, FIXTURE_Q))
    assert k_sequential_rho(q_V, p_V, 2) == pytest.approx(1.456776, abs=1e-6)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("gamma", [1, 2])
def test_token_and_block_keep_what_their_formulas_say(pair, gamma):
    token, block = (pair.accepted(rule, "independent", (1,) * gamma) for rule in (verify_token, verify_block))
    assert token == pytest.approx(token_length(pair, gamma), abs=1e-9)
    assert block == pytest.approx(block_length(pair, gamma), abs=1e-9)
    assert block >= token - 1e-9
    if gamma == 1:
        assert block == pytest.approx(token, abs=1e-9)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("scheme", "branching"), [("independent", (3,)), ("independent", (2, 1)),
                                                   ("without_replacement", (3,)), ("without_replacement", (2, 1))])
def test_traversal_keeps_at_least_what_recursive_rejection_does(pair, scheme, branching):
    recursive, traversal = (pair.accepted(rule, scheme, branching) for rule in (verify_recursive, verify_traversal))
    assert recursive == pytest.approx(recursive_length(pair, branching, scheme), abs=1e-9)
    assert traversal >= recursive - 1e-9
    if len(branching) == 1:
        assert traversal == pytest.approx(recursive, abs=1e-9)


def test_traversal_keeps_more_where_depth_lets_it():
    pair = Pair(3, zeros=0)
    assert pair.accepted(verify_traversal, "without_replacement", (2, 1)) > 1e-3 + pair.accepted(
        verify_recursive, "without_replacement", (2, 1))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("scheme", "branching"), [("independent", (1, 1)), ("fixed", (1, 1))])
def test_traversal_of_a_chain_is_block_verification(pair, scheme, branching):
    laws = [pair.round_law(rule, scheme, branching) for rule in (verify_traversal, verify_block)]
    assert distance(*laws) < 1e-12


def test_block_verification_is_not_the_token_rule():
    """The broken twin of the equality above."""
    assert distance(*(Pair(1).round_law(rule, "independent", (1, 1)) for rule in (verify_block, verify_token))) > 1e-3


@pytest.mark.parametrize("pair", PAIRS)
def test_independent_siblings_stay_below_their_bound(pair):
    """No rule for k i.i.d. tokens accepts more than q(S) + 1 - p(S)^k, whatever the set S."""
    p, q = pair.p(()), pair.q(())
    sets = [[token for token in range(len(p)) if bits >> token & 1] for bits in range(2 ** len(p))]
    bound = min(sum(q[x] for x in some) + 1 - sum(p[x] for x in some) ** 2 for some in sets)
    recursive, together = (pair.accepted(rule, "independent", (2,)) for rule in (verify_recursive, verify_k_sequential))
    assert together <= bound + 1e-9
    assert recursive <= together + 1e-6


@pytest.mark.parametrize("pair", PAIRS)
def test_rejections_of_a_chain_are_the_total_variation_of_what_it_reaches(pair):
    law = pair.round_law(verify_token, "independent", (1, 1))
    reached = {(): 1.0, **{(token,): mass for token, mass in enumerate(overlap(pair, ()))}}
    expected = sum(mass * (1 - sum(overlap(pair, path))) for path, mass in reached.items() if mass > 0)
    assert sum(mass * failed for (*_, failed), mass in law.items()) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rule", [verify_block, verify_traversal, verify_k_sequential, verify_recursive])
def test_rejections_say_whether_anything_fell(rule):
    for (text, length, failed), _ in Pair(1).round_law(rule, "independent", (1, 1)).items():
        assert len(text) == length + 1
        assert failed == (length < 2)


# Greedy.

def one_hot(row):
    return tuple(float(token == max(range(len(row)), key=row.__getitem__)) for token in range(len(row)))


@pytest.mark.parametrize("seed", range(8))
def test_greedy_is_greedy_decoding(seed):
    pair, draws = Pair(seed, vocabulary=4), KeyedDraws()
    proposal = pair.draft("without_replacement", (3, 2, 2), draws, Key(mix(seed), 0))
    verdict = verify_greedy(proposal, pair.q_NV(proposal), None, KEY)
    text, plain = tuple(verdict.text(proposal)), ()
    while len(plain) < len(text):
        plain += (max(range(4), key=pair.q(plain).__getitem__),)
    assert text == plain
    assert verdict.rejections == bool(proposal.children(verdict.path[-1] if verdict.path else -1))
    longest = [path for path in paths(proposal) if path == plain_text(pair, len(path))]
    assert len(verdict.path) == max(map(len, longest), default=0)


def paths(proposal):
    found = [()]
    for parent, token in zip(proposal.parents, proposal.tokens, strict=True):
        found.append((*found[parent + 1], token))
    return found


def plain_text(pair, length):
    text = ()
    while len(text) < length:
        text += (max(range(pair.vocabulary), key=pair.q(text).__getitem__),)
    return text


@pytest.mark.parametrize("rule", [verify_recursive, verify_traversal, verify_k_sequential, verify_coupled,
                                  verify_greedy])
@pytest.mark.parametrize("seed", range(4))
def test_every_rule_is_greedy_at_temperature_zero(rule, seed):
    """One-hot rows of the target leave no chance: all rules give the same text, up to where they stop."""
    pair = Pair(seed, vocabulary=4, q=lambda path: one_hot(Pair(seed, 4).q(path)))
    proposal = pair.draft("independent", (3, 2), KeyedDraws(), Key(mix(seed), 0))
    verdict = rule(proposal, pair.q_NV(proposal), KeyedDraws(), KEY)
    text = tuple(verdict.text(proposal))
    assert text == plain_text(pair, len(text))
    assert len(verdict.path) == len(verify_greedy(proposal, pair.q_NV(proposal), None, KEY).path)


# Numerics.

RULES = [verify_token, verify_block, verify_recursive, verify_traversal, verify_k_sequential, verify_coupled,
         verify_greedy, verify_lossy]


def large(seed, scale, vocabulary=50_000):
    """A target's logits, and rows of a draft that differs by `scale`; float32, as an engine has them."""
    source = torch.Generator().manual_seed(seed)
    logits_V = 3 * torch.randn(vocabulary, generator=source)
    return logits_V.softmax(-1), (logits_V + scale * torch.randn(vocabulary, generator=source)).softmax(-1)


@pytest.mark.parametrize("rule", RULES)
def test_a_large_vocabulary(rule):
    q_V, p_V = large(0, 0.5)
    for seed in range(5):
        key = Key(mix(seed), 0)
        proposal = independent_tree(lambda paths: p_V.expand(len(paths), -1), (1,) * 5, KeyedDraws(), key)
        verdict = rule(proposal, q_V.expand(6, -1), KeyedDraws(), key)
        assert verdict.path == list(range(len(verdict.path)))
        assert 0 <= verdict.token < 50_000


def test_rejections_of_a_large_vocabulary_have_the_rate_of_the_total_variation():
    q_V, p_V = large(1, 1.5)
    expected = float((q_V.double() - p_V.double()).abs().sum()) / 2
    tokens = KeyedDraws().categorical(p_V.expand(400, -1), [Key(mix(seed), 0) for seed in range(400)])
    fell = sum(verify_token(chain([token], p_V[None]), q_V.expand(2, -1), KeyedDraws(), Key(mix(seed), 1)).rejections
               for seed, token in enumerate(tokens))
    assert abs(fell / 400 - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5


class Never(KeyedDraws):
    """Rejects whatever can be rejected at all, however small the chance."""

    def bernoulli(self, probability, key):
        return probability == 1


def test_a_residual_of_rounding_only_falls_back_on_the_target():
    """p and q differ in the last bits: their difference, normalised, would be any law."""
    q_V = torch.tensor([0.25, 0.25, 0.5, 0.0], dtype=torch.float64)
    p_V = q_V * (1 + torch.tensor([3e-16, -3e-16, 0, 0], dtype=torch.float64))
    left_V, mass = leftover(q_V, p_V)
    assert mass == 0
    assert left_V.tolist() == q_V.tolist()
    assert leftover(q_V, q_V.flip(0))[1] == pytest.approx(0.5)


@pytest.mark.parametrize("rule", [verify_token, verify_block, verify_recursive, verify_traversal, verify_k_sequential])
def test_unlucky_rounding_never_gives_a_forbidden_token(rule):
    q_V = torch.tensor([0.3, 0.3, 0.4, 0.0])
    p_V = torch.tensor([0.3 + 3e-8, 0.3, 0.4 - 3e-8, 0.0])
    for token in range(3):
        for seed in range(20):
            verdict = rule(chain([token], p_V[None]), q_V.expand(2, -1), Never(), Key(mix(seed), 0))
            assert verdict.token < 3


@pytest.mark.parametrize("rule", RULES)
def test_a_forbidden_token_is_never_accepted_and_rows_behind_it_are_not_read(rule):
    """A mask leaves nothing after a token that is itself masked: a row without mass, or no numbers at all."""
    p_V, q_V = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.0, 0.5, 0.5])
    for broken in (0.0, float("nan")):
        q_NV = torch.stack([q_V, torch.full((3,), broken), torch.full((3,), broken)])
        for seed in range(20):
            verdict = rule(chain([0, 1], torch.stack([p_V, p_V])), q_NV, KeyedDraws(), Key(mix(seed), 0))
            assert verdict.path == []
            assert verdict.token in (1, 2)


@pytest.mark.parametrize("rule", [verify_token, verify_block, verify_recursive, verify_traversal, verify_k_sequential])
def test_a_target_without_mass_is_an_error(rule):
    with pytest.raises(ValueError, match="sum to 0"):
        rule(chain([0], torch.ones(1, 3)), torch.zeros(2, 3), KeyedDraws(), KEY)


@pytest.mark.parametrize("rule", RULES)
def test_weights_need_not_sum_to_one(rule):
    """float32 rows never quite do: p and q are compared as the laws that they stand for."""
    pair = Pair(3, zeros=0)
    for seed in range(10):
        proposal = pair.draft("independent", (1, 1), KeyedDraws(), Key(mix(seed), 0))
        scaled = Proposal(proposal.tokens, proposal.parents, 4 * proposal.p_NV)
        verdicts = [rule(one, scale * pair.q_NV(proposal), KeyedDraws(), Key(mix(seed), 1))
                    for one, scale in ((proposal, 1), (scaled, 0.5))]
        assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize("rule", RULES)
def test_a_target_of_the_wrong_shape_is_an_error(rule):
    proposal = chain([0, 1], torch.ones(2, 3))
    for shape in ((2, 3), (4, 3), (3, 4)):
        with pytest.raises(ValueError, match="q_NV of 3 rows"):
            rule(proposal, torch.ones(shape), KeyedDraws(), KEY)


@pytest.mark.parametrize("rule", [verify_token, verify_block, verify_lossy])
def test_rules_for_chains_refuse_trees(rule):
    with pytest.raises(ValueError, match="a chain"):
        rule(Proposal([0, 1], [-1, -1], torch.ones(1, 3)), torch.ones(3, 3), KeyedDraws(), KEY)


@pytest.mark.parametrize("scheme", ["without_replacement", "fixed"])
def test_k_sequential_selection_needs_independent_siblings(scheme):
    proposal = Proposal([0, 1], [-1, -1], torch.ones(1, 3), scheme)
    with pytest.raises(ValueError, match="independently"):
        verify_k_sequential(proposal, torch.ones(3, 3), KeyedDraws(), KEY)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_residual_of_k_sequential_selection_is_never_negative(count):
    for seed in range(20):
        pair = Pair(seed, vocabulary=5, zeros=0.3)
        p_V, q_V = (torch.tensor(row(()), dtype=torch.float64) for row in (pair.p, pair.q))
        rho = k_sequential_rho(q_V, p_V, count)
        kept_V = torch.minimum(p_V, q_V / rho)
        beta = float(kept_V.sum())
        rest_V = q_V - kept_V * (1 - (1 - beta) ** count) / max(beta, 1e-300)
        assert float(rest_V.min()) > -1e-12
        assert float(k_sequential_leftover(q_V, p_V, count, rho).sum()) == pytest.approx(1)
