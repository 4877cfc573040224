"""Any-subset speculation: the law of the joint in any order, and never more calls than blanks."""

import importlib
from itertools import permutations, product
from pathlib import Path

import pytest
import torch

from ramify.exact import distance, enumerate_law
from ramify.sampling.draws import Key, KeyedDraws
from ramify.speculative import verify_block, verify_token
from ramify.speculative.any_order import Joint, fill, fill_in_turn
from ramify.speculative.verify import Verdict

KEY = Key(7, 0)


def random_joint(seed, size, vocabulary, power=1.0, zeros=0.0):
    generator = torch.Generator().manual_seed(seed)
    mass = torch.rand([vocabulary] * size, generator=generator, dtype=torch.float64) ** power
    mass *= torch.rand(mass.shape, generator=generator) >= zeros
    return Joint(mass + 1e-30)


def stated(joint, tokens, order, known):
    """The joint law given the known tokens."""
    at = tuple(tokens[axis] if axis in order[:known] else slice(None) for axis in range(len(order)))
    left = joint.mass[at] / joint.mass[at].sum()
    blanks = sorted(order[known:])
    law = {}
    for values in product(range(joint.mass.shape[0]), repeat=len(blanks)):
        text = list(tokens)
        for place, value in zip(blanks, values, strict=True):
            text[place] = value
        law[tuple(text)] = float(left[values])
    return law


def laws(model, tokens, order, known, rule=fill, **options):
    """(law of the texts, expected calls, most calls)."""
    law = enumerate_law(lambda source: (lambda done: (tuple(done.tokens), done.calls))(
        rule(model, tokens, order, known, source, KEY, **options)))
    texts = {}
    for (text, _), mass in law.items():
        texts[text] = texts.get(text, 0.0) + mass
    return texts, sum(mass * calls for (_, calls), mass in law.items()), max(calls for _, calls in law)


@pytest.mark.parametrize("verify", [verify_token, verify_block])
@pytest.mark.parametrize("length", [1, 2, 3, 9])
@pytest.mark.parametrize("shape", [(4, 2), (3, 3)], ids=str)
def test_the_law_is_the_joint_in_every_order(shape, length, verify):
    joint, tokens = random_joint(length, *shape, power=2.0), [1] * shape[0]
    for turn, order in enumerate(permutations(range(shape[0]))):
        known = turn % shape[0]
        law, calls, most = laws(joint, tokens, order, known, length=length, verify=verify)
        assert distance(law, stated(joint, tokens, order, known)) < 1e-9
        assert calls - 1e-9 <= most <= shape[0] - known


def test_zeros_are_never_written():
    joint = random_joint(3, 4, 2, zeros=0.4)
    law, _, most = laws(joint, [0] * 4, [2, 0, 3, 1], 0, length=3)
    assert distance(law, stated(joint, [0] * 4, [2, 0, 3, 1], 0)) < 1e-9 and most <= 4


def test_in_turn_takes_a_call_per_blank_and_has_the_same_law():
    joint = random_joint(5, 4, 2)
    law, calls, most = laws(joint, [1, 0, 0, 0], [0, 3, 1, 2], 1, rule=fill_in_turn)
    assert distance(law, stated(joint, [1, 0, 0, 0], [0, 3, 1, 2], 1)) < 1e-9
    assert calls == pytest.approx(3) and most == 3


def test_independent_blanks_take_two_calls():
    one = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    joint = Joint(torch.einsum("a,b,c,d->abcd", one, one, one, one))
    assert laws(joint, [0] * 4, [3, 1, 0, 2], 0, length=3)[1:] == (pytest.approx(2), 2)
    assert laws(joint, [0] * 4, [3, 1, 0, 2], 0, length=1)[1:] == (pytest.approx(4), 4)


def test_blocks_keep_more_than_tokens():
    saved = 0.0
    for seed in range(6):
        joint = random_joint(seed, 5, 2, power=3.0)
        by_token, by_block = (laws(joint, [0] * 5, range(5), 0, length=4, verify=verify)[1]
                              for verify in (verify_token, verify_block))
        assert by_block <= by_token + 1e-12 < 5
        saved += by_token - by_block
    assert saved > 1e-3


# Broken twins -------------------------------------------------------------------------------------------------------


def error_of(model, joint, **options):
    law, *_ = laws(model, [0] * 4, range(4), 0, length=3, **options)
    return distance(law, stated(joint, [0] * 4, range(4), 0))


def test_to_let_every_draft_stand_is_caught():
    def trusting(proposal, q_NV, draws, key):
        honest = verify_token(proposal, q_NV, draws, key)
        return Verdict(list(range(len(proposal))), honest.token, 0)

    joint = random_joint(1, 4, 2, power=3.0)
    assert error_of(joint, joint) < 1e-9 and error_of(joint, joint, verify=trusting) > 1e-3


def test_a_wrong_residual_is_caught(monkeypatch):
    monkeypatch.setattr("ramify.speculative.verify.leftover", lambda q_V, p_V, share=1.0: (q_V, 1.0))
    joint = random_joint(1, 4, 2, power=3.0)
    assert error_of(joint, joint) > 1e-3


def test_a_model_of_two_minds_is_caught():
    """Another temperature in the parallel pass than in the density pass: the first token is then of the wrong law."""
    joint = random_joint(1, 4, 2, power=3.0)

    def torn(tokens, order, seen):
        rows = joint(tokens, order, seen)
        return rows**2 / (rows**2).sum(-1, keepdim=True) if len(set(seen)) < len(seen) else rows

    assert error_of(torn, joint) > 1e-3


@pytest.mark.parametrize("options", [
    {"order": [0, 1, 1]}, {"order": [0, 1]}, {"known": 4}, {"known": -1}, {"length": 0}], ids=str)
def test_what_makes_no_sense_is_refused(options):
    asked = {"order": [0, 1, 2], "known": 0, "length": 2, **options}
    with pytest.raises(ValueError, match="needed"):
        fill(random_joint(0, 3, 2), [0, 0, 0], draws=KeyedDraws(), key=KEY, **asked)


# A transformer ------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_stream(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("any_order_model")


def test_a_transformer_follows_its_own_conditionals(two_stream):
    """Its law is the product of what it says in turn; one of random weights depends on the order."""
    torch.manual_seed(0)
    model = two_stream.TwoStream(3, 4, width=8, layers=2, heads=2).double()
    for weight in model.parameters():
        weight.data *= 3
    order = [2, 0, 3, 1]
    law, calls, most = laws(model, [0] * 4, order, 1, length=3)
    in_turn, *_ = laws(model, [0] * 4, order, 1, rule=fill_in_turn)
    assert distance(law, in_turn) < 1e-9 and calls < most == 3
    other, *_ = laws(model, [0] * 4, [2, 3, 0, 1], 1, length=3)
    assert distance(other, in_turn) > 1e-3


def test_a_transformer_looks_at_nothing_it_is_not_given(two_stream):
    torch.manual_seed(0)
    model = two_stream.TwoStream(5, 6, width=8, layers=2, heads=2).double()
    order, seen = [3, 1, 5, 0, 2, 4], [2, 2, 3, 4]
    rows = [model([*tokens], order, seen) for tokens in product([0, 4], repeat=6) if (tokens[3], tokens[1]) == (4, 0)]
    assert all(torch.equal(each[:2], rows[0][:2]) for each in rows)
    assert not all(torch.equal(each[2], rows[0][2]) for each in rows)
