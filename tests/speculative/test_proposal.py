"""What a proposal says of itself, and the lies that it refuses to tell."""

import pytest
import torch
from spec_cases import KEY, Pair

from ramify.exact import enumerate_law
from ramify.sampling.draws import KeyedDraws
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
    verify_typical,
)
from ramify.speculative.proposal import normalised

P_NV = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])


def tree(scheme="independent", p_NV=P_NV, **more):
    """Nodes 0 and 1 under the root, 2 and 3 under 1."""
    return Proposal([1, 0, 2, 3], [-1, -1, 1, 1], p_NV, scheme, **more)


def test_a_tree_knows_its_children_paths_and_depths():
    proposal = tree()
    assert len(proposal) == 4
    assert [proposal.children(node) for node in range(-1, 4)] == [[0, 1], [], [2, 3], [], []]
    assert proposal.paths == [(1,), (0,), (0, 2), (0, 3)]
    assert proposal.depths == [1, 1, 2, 2]
    assert not proposal.is_chain


def test_a_chain_is_a_tree_without_siblings():
    proposal = chain([1, 0, 2], P_NV)
    assert proposal.parents == [-1, 0, 1]
    assert proposal.paths == [(1,), (1, 0), (1, 0, 2)]
    assert proposal.depths == [1, 2, 3]
    assert proposal.is_chain
    assert [proposal.children(node) for node in range(-1, 3)] == [[0], [1], [2], []]
    assert not Proposal([0, 1], [-1, -1], P_NV).is_chain
    assert len(chain([1, 0, 2], None, "fixed")) == 3


def test_what_each_sibling_was_drawn_from():
    like_V = torch.zeros(4)
    independent, without, fixed = tree(), tree("without_replacement"), tree("fixed", None)
    for turn in range(2):
        assert independent.drawn_from(-1, turn, like_V).tolist() == pytest.approx([0.5, 0.3, 0.2, 0])
    assert without.drawn_from(-1, 0, like_V).tolist() == pytest.approx([0.5, 0.3, 0.2, 0])
    assert without.drawn_from(-1, 1, like_V).tolist() == pytest.approx([0.5 / 0.7, 0, 0.2 / 0.7, 0])
    assert [fixed.drawn_from(-1, turn, like_V).tolist() for turn in range(2)] == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert independent.drawn_from(-1, 0, like_V).dtype == torch.float64
    assert P_NV[0].tolist() == torch.tensor([0.5, 0.3, 0.2, 0.0]).tolist()  # and p is left as it was


def test_parents_may_differ_in_scheme():
    """Looked up at the root, drawn below: the root's row is not read."""
    p_NV = torch.stack([torch.full((4,), float("nan")), P_NV[1], P_NV[1]])
    proposal = tree(p_NV=p_NV, fixed={-1})
    assert [proposal.scheme_at(node) for node in (-1, 1)] == ["fixed", "independent"]
    assert proposal.drawn_from(-1, 0, torch.zeros(4)).tolist() == [0, 1, 0, 0]
    assert proposal.drawn_from(1, 1, torch.zeros(4)).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(("arguments", "message"), [
    (([0], [-1], None), "were drawn from"),
    (([0], [-1], None, "without_replacement"), "drawn from"),
    (([3], [-1], P_NV), "no mass on nodes"),
    (([0, 1, 3], [-1, 0, 0], torch.tensor([[1.0, 0, 0, 0], [0.0, 1, 0, 0]])), r"no mass on nodes \[2\]"),
    (([0], [-1], torch.full((1, 4), float("nan"))), "no mass"),
    (([1, 1], [-1, -1], P_NV, "without_replacement"), "equal ones under node -1"),
    (([0, 1], [-1], P_NV), "1 parents of 2 tokens"),
    (([0, 1], [1, -1], P_NV), "parent 1 of node 0"),
    (([0, 1], [0, -1], P_NV), "parent 0 of node 0"),
    (([0, 1], [-2, -1], P_NV), "parent -2"),
    (([0, 1, 2], [-1, 0, 1], P_NV[:2]), "at least 3 rows"),
    (([4], [-1], P_NV), "columns"),
    (([-1], [-1], P_NV), "columns"),
])
def test_a_proposal_that_lies_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        Proposal(*arguments)


def test_what_is_no_lie():
    Proposal([1, 1], [-1, -1], P_NV)  # independent siblings may repeat
    Proposal([1, 1], [-1, -1], None, "fixed")  # and so may looked-up ones
    Proposal([0, 1, 2], [-1, 0, 1], P_NV)  # the last node is a leaf: its row may be missing
    Proposal([], [], None)


@pytest.mark.parametrize("rule", [verify_token, verify_block, verify_recursive, verify_traversal, verify_k_sequential,
                                  verify_greedy, verify_lossy, verify_typical, verify_coupled])
def test_an_empty_proposal_is_one_token_of_the_target(rule):
    q_NV = torch.tensor([[0.0, 0.0, 1.0]])
    for empty in (Proposal([], [], None), chain([], torch.ones(0, 3)), chain([], None, "fixed")):
        verdict = rule(empty, q_NV, KeyedDraws(), KEY)
        assert (verdict.path, verdict.token, verdict.rejections) == ([], 2, 0)
        assert verdict.text(empty) == [2]


@pytest.mark.parametrize("rule", [verify_recursive, verify_traversal])
def test_repeated_fixed_siblings_change_nothing(rule):
    pair = Pair(3, zeros=0)

    def text_law(tokens):
        proposal = Proposal(tokens, [-1] * len(tokens), None, "fixed")
        return enumerate_law(lambda draws: tuple(
            rule(proposal, pair.q_NV(proposal), draws, KEY).text(proposal)))

    assert text_law([0, 0, 1]) == pytest.approx(text_law([0, 1]))


def test_weights_become_a_distribution_in_float64():
    probs_V = normalised(torch.tensor([1.0, 3.0]))
    assert probs_V.dtype == torch.float64
    assert probs_V.tolist() == [0.25, 0.75]
    given_V = torch.tensor([1.0, 3.0], dtype=torch.float64)
    normalised(given_V)
    assert given_V.tolist() == [1, 3]


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")], [-1.0, 0.5]])
def test_weights_without_mass_are_an_error(weights):
    with pytest.raises(ValueError, match="a distribution"):
        normalised(torch.tensor(weights))
