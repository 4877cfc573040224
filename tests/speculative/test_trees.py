"""Drafting: the law of the drafted tokens, one draft pass per level, and rows that say what was drawn from."""

import math
from collections import Counter, defaultdict

import pytest
import torch
from spec_cases import (
    KEY,
    Pair,
    independent_tree,
    likely_tree,
    sparse,
    stochastic_beam,
    without_replacement_tree,
)

from ramify.errors import OptionError
from ramify.exact import chi_square, distance, enumerate_law
from ramify.sampling.draws import Key, KeyedDraws, mix
from ramify.speculative import verify_recursive, verify_traversal
from ramify.speculative.trees import (
    given_maximum,
    grow_beam,
    grow_independent,
    grow_likely,
    grow_without_replacement,
    gumbel,
)

PAIR = Pair(3, zeros=0)
DRAWN = {"independent": independent_tree, "without_replacement": without_replacement_tree}


class Counted:
    """A draft that remembers its calls."""

    def __init__(self, pair):
        self.pair, self.calls = pair, []

    def __call__(self, paths):
        self.calls.append(list(paths))
        return self.pair.next_p(paths)


def paths_of(proposal):
    """Paths of the root and of every node."""
    return [(), *proposal.paths]


def grow(name, next_p, draws=None, key=KEY):
    draws = draws or KeyedDraws()
    return {"independent": lambda: independent_tree(next_p, (3, 2, 1), draws, key),
            "without_replacement": lambda: without_replacement_tree(next_p, (3, 2, 1), draws, key),
            "beam": lambda: stochastic_beam(next_p, 3, 3, gumbel(key)),
            "likely": lambda: likely_tree(next_p, 3, 3, 50)}[name]()


@pytest.mark.parametrize("name", ["independent", "without_replacement", "beam", "likely"])
def test_a_level_costs_one_draft_pass(name):
    draft = Counted(PAIR)
    proposal = grow(name, draft)
    assert len(draft.calls) == 3
    assert draft.calls[0] == [()]
    assert [len(path) for call in draft.calls for path in call] == sorted(len(p) for call in draft.calls for p in call)
    assert max(proposal.depths) == 3


@pytest.mark.parametrize("name", ["independent", "without_replacement", "beam"])
def test_rows_are_those_that_children_were_drawn_from(name):
    proposal = grow(name, sparse(2).next_p)
    for node, path in enumerate(paths_of(proposal), -1):
        if proposal.children(node):
            assert proposal.p_NV[node + 1].tolist() == sparse(2).next_p([path])[0].tolist()


@pytest.mark.parametrize("name", ["independent", "without_replacement", "beam", "likely"])
def test_a_row_of_zeros_ends_a_path(name):
    """Token 2 ends the text."""
    def next_p(paths):
        return torch.stack([torch.zeros(3) if 2 in path else torch.tensor([0.2, 0.2, 0.6]) for path in paths])

    proposal = grow(name, next_p)
    assert 2 in proposal.tokens
    assert all(not proposal.children(node) for node, token in enumerate(proposal.tokens) if token == 2)


@pytest.mark.parametrize("name", ["independent", "without_replacement", "beam", "likely"])
def test_a_draft_with_nothing_to_say_proposes_nothing(name):
    assert len(grow(name, lambda paths: torch.zeros(len(paths), 3))) == 0


def test_no_branching_proposes_nothing():
    assert len(independent_tree(PAIR.next_p, (), KeyedDraws(), KEY)) == 0


def test_a_caller_may_run_the_draft_itself():
    """Trees of different kinds, answered level by level from one pass."""
    growths = [grow_independent((2, 1), KeyedDraws(), KEY), grow_without_replacement((2, 1), KeyedDraws(), KEY),
               grow_beam(2, 2, gumbel(KEY)), grow_likely(2, 2, 3)]
    wanted, done = [next(growth) for growth in growths], []
    assert wanted == [[()]] * 4
    wanted = [growth.send(PAIR.next_p(paths)) for growth, paths in zip(growths, wanted, strict=True)]
    for growth, paths in zip(growths, wanted, strict=True):
        with pytest.raises(StopIteration) as stop:
            growth.send(PAIR.next_p(paths))
        done.append(paths_of(stop.value.value))
    assert done == [paths_of(tree) for tree in (
        independent_tree(PAIR.next_p, (2, 1), KeyedDraws(), KEY),
        without_replacement_tree(PAIR.next_p, (2, 1), KeyedDraws(), KEY),
        stochastic_beam(PAIR.next_p, 2, 2, gumbel(KEY)), likely_tree(PAIR.next_p, 2, 2, 3))]


@pytest.mark.parametrize(("tree", "branching", "tokens"), [
    ("independent", (1, 1, 1), 3), ("independent", (2, 2), 6), ("without_replacement", (2, 2), 6),
    ("without_replacement", (5, 1), 6),  # only three tokens are there to draw
])
def test_sizes(tree, branching, tokens):
    assert len(DRAWN[tree](PAIR.next_p, branching, KeyedDraws(), KEY)) == tokens


def test_children_beyond_the_support_are_not_drawn():
    def next_p(paths):
        return torch.tensor([[0.5, 0.0, 0.5, 0.0]]).expand(len(paths), -1)

    proposal = without_replacement_tree(next_p, (3, 3), KeyedDraws(), KEY)
    assert [len(proposal.children(node)) for node in range(-1, len(proposal))] == [2, 2, 2, 0, 0, 0, 0]
    assert set(proposal.tokens) == {0, 2}


def stated(pair, branching, replaced):
    """The law of the tokens of a tree, in plain Python: level by level, sibling by sibling."""
    law = {((),): 1.0}  # a tree as the tuple of its nodes' paths
    for depth, width in enumerate(branching):
        for node in range(max(len(tree) for tree in law)):
            for turn in range(width):
                grown = defaultdict(float)
                for tree, mass in law.items():
                    if node >= len(tree) or len(tree[node]) != depth:
                        grown[tree] += mass
                        continue
                    left = [0.0 if not replaced and (*tree[node], token) in tree[len(tree) - turn:] else p
                            for token, p in enumerate(pair.p(tree[node]))]
                    for token, p in enumerate(left):
                        if p > 0:
                            grown[(*tree, (*tree[node], token))] += mass * p / sum(left)
                law = dict(grown)
    return law


@pytest.mark.parametrize(("tree", "branching"), [("independent", (2, 1)), ("without_replacement", (2, 1)),
                                                 ("without_replacement", (3,)), ("independent", (1, 1, 1))])
def test_the_law_of_a_tree(tree, branching):
    law = enumerate_law(lambda source: tuple(paths_of(DRAWN[tree](PAIR.next_p, branching, source, KEY))))
    assert distance(law, stated(PAIR, branching, tree == "independent")) < 1e-9
    assert distance(law, stated(Pair(4, zeros=0), branching, tree == "independent")) > 1e-3  # the broken twin


def test_the_two_laws_differ():
    laws = [stated(PAIR, (2,), replaced) for replaced in (True, False)]
    assert distance(*laws) > 1e-3


# Stochastic beams: drawn by Gumbel noise, which cannot be enumerated.

def exact_given_maximum(perturbed, maximum):
    top = max(perturbed)
    return [-math.log(math.exp(-maximum) - math.exp(-top) + math.exp(-value)) for value in perturbed]


def test_conditioning_on_the_maximum_is_the_written_formula():
    for seed in range(20):
        perturbed_V = 3 * torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        maximum = float(torch.randn(1, generator=torch.Generator().manual_seed(seed + 99)))
        assert given_maximum(perturbed_V, maximum).tolist() == pytest.approx(
            exact_given_maximum(perturbed_V.tolist(), maximum), abs=1e-9)


def test_conditioning_on_the_maximum_neither_overflows_nor_reorders():
    perturbed_V = torch.tensor([-2000.0, 3.0, 3.0 - 1e-12, -float("inf"), 1.0], dtype=torch.float64)
    for maximum in (-1500.0, 0.0, 900.0):
        given_V = given_maximum(perturbed_V, maximum)
        assert float(given_V.max()) == maximum
        assert given_V[3] == -float("inf")
        assert not given_V.isnan().any()
        assert given_V.argsort(descending=True, stable=True).tolist()[0] == 1
        assert given_V[1] >= given_V[2] >= given_V[4] >= given_V[0]


def test_gumbel_noise_is_gumbel_and_keyed():
    noise = gumbel(KEY)
    values = noise(0, 4000)
    shares = Counter(int(4 * math.exp(-math.exp(-value))) for value in values.tolist())
    assert chi_square(shares, dict.fromkeys(range(4), 0.25)) > 1e-3
    assert torch.equal(values, gumbel(KEY)(0, 4000))
    others = [noise(1, 4000), noise(-1, 4000), gumbel(Key(8, 3))(0, 4000), gumbel(Key(7, 4))(0, 4000)]
    assert not any(torch.equal(values, other) for other in others)


def test_a_beam_keeps_the_greatest_perturbed_nodes_by_hand():
    """Noise that says what happens: token 2 far ahead of token 0 at the root, then two equal children under it."""
    def noise(node, count):
        return torch.tensor({-1: [1.0, -9.0, 5.0]}.get(node, [9.0, 9.0, 9.0]), dtype=torch.float64)

    def next_p(paths):
        return torch.tensor([[0.2, 0.3, 0.5]]).expand(len(paths), -1)

    proposal = stochastic_beam(next_p, 2, 2, noise)
    assert proposal.tokens[:2] == [2, 0]
    assert proposal.parents == [-1, -1, 0, 0]
    assert proposal.tokens[2:] == [2, 1]  # equal noise: in order of probability
    assert proposal.scheme == "without_replacement"


def test_a_lucky_child_does_not_overtake_a_luckier_parent():
    """The best child of each node has its parent's value, whatever its own noise."""
    def noise(node, count):
        return torch.tensor({-1: [1.0, -9.0, 5.0], 1: [50.0, 0.0, 0.0]}.get(node, [0.0] * 3), dtype=torch.float64)

    def next_p(paths):
        return torch.tensor([[0.2, 0.3, 0.5]]).expand(len(paths), -1)

    assert paths_of(stochastic_beam(next_p, 2, 2, noise))[1:] == [(2,), (0,), (2, 2), (0, 0)]


def beams(width, depth, pair=PAIR, noise=gumbel):
    return [stochastic_beam(pair.next_p, width, depth, noise(Key(mix(seed, 9), 0))) for seed in range(300)]


def without_replacement_law(chances, count):
    law = {((), 1.0)}
    for _ in range(count):
        law = {((*picked, one), mass * chance / (1 - sum(chances[other] for other in picked)))
               for picked, mass in law for one, chance in chances.items() if one not in picked}
    return dict(law)


def flat(key):
    """The broken twin: uniform noise is not Gumbel noise."""
    return lambda node, count: torch.rand(count, generator=torch.Generator().manual_seed(mix(*key.part(node + 1)) >> 1),
                                          dtype=torch.float64)


def test_the_paths_of_a_beam_are_a_draw_without_replacement():
    """The last level, best first, has the law of paths of its length drawn one after the other."""
    chances = {(a, b): PAIR.p(())[a] * PAIR.p((a,))[b] for a in range(3) for b in range(3)}
    law = without_replacement_law(chances, 2)

    def last_levels(noise):
        trees = [paths_of(proposal) for proposal in beams(2, 2, noise=noise)]
        return Counter(tuple(path for path in tree if len(path) == 2) for tree in trees)

    assert chi_square(last_levels(gumbel), law) > 1e-3
    assert chi_square(last_levels(flat), law) < 1e-6


def test_a_beam_is_verified_without_loss():
    """Who grows was decided by comparing branches, and still the text is the target's."""
    pair, drafts = Pair(12, zeros=0), beams(3, 2, Pair(12, zeros=0))
    for rule in (verify_recursive, verify_traversal):
        counts = Counter(rule(proposal, pair.q_NV(proposal), KeyedDraws(), Key(mix(seed, 9), 0)).text(proposal)[0]
                         for seed, proposal in enumerate(drafts))
        assert chi_square(counts, dict(enumerate(pair.q(())))) > 1e-3
        assert chi_square(counts, dict(enumerate(pair.p(())))) < 1e-3


# Likely trees.

def chance(pair, path):
    return math.prod(pair.p(path[:at])[token] for at, token in enumerate(path))


def test_a_likely_tree_holds_the_likeliest_paths():
    """With room to expand everything, the kept nodes are the best of all paths."""
    pair = Pair(5, vocabulary=3, zeros=0)
    everything = paths_of(likely_tree(pair.next_p, 9, 3, 1000))[1:]
    assert len(everything) == 3 + 9 + 27
    for size in (1, 4, 10):
        kept = paths_of(likely_tree(pair.next_p, 9, 3, size))[1:]
        assert sorted(kept) == sorted(sorted(everything, key=lambda path: -chance(pair, path))[:size])


def test_a_likely_tree_is_narrow_where_it_was_told_to_be():
    pair = Pair(6, vocabulary=4, zeros=0)
    proposal = likely_tree(pair.next_p, 2, 3, 1000)
    levels = [[path for path in paths_of(proposal) if len(path) == depth] for depth in (1, 2, 3)]
    assert [len(level) for level in levels] == [2, 4, 4]
    assert proposal.scheme == "fixed"
    for node in range(-1, len(proposal)):
        chances = [chance(pair, paths_of(proposal)[child + 1]) for child in proposal.children(node)]
        assert chances == sorted(chances, reverse=True)


def test_a_likely_tree_with_ties_is_a_tree():
    def next_p(paths):
        return torch.tensor([[1.0, 0.0]]).expand(len(paths), -1)  # every path of zeros has probability 1

    for size in (1, 2, 3):
        assert likely_tree(next_p, 2, 3, size).parents == list(range(-1, size - 1))


@pytest.mark.parametrize("call", [
    lambda: independent_tree(PAIR.next_p, (2, 0), KeyedDraws(), KEY),
    lambda: without_replacement_tree(PAIR.next_p, (-1,), KeyedDraws(), KEY),
    lambda: stochastic_beam(PAIR.next_p, 0, 1, gumbel(KEY)),
    lambda: stochastic_beam(PAIR.next_p, 1, 0, gumbel(KEY)),
    lambda: likely_tree(PAIR.next_p, 1, 1, 0),
])
def test_shapes_out_of_range(call):
    with pytest.raises(OptionError):
        call()
