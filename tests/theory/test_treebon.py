import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.theory import best_of_n, treebon
from ramify.theory.checks import OutOfRange
from theory import brute
from theory.brute import EXACT, examples

trees = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(5, 40)).map(
    lambda t: (t[0] * t[2], *t[1:]))  # n a multiple of children


def walk(n, layers, children, max_tokens, prompt):
    """The method node by node: tokens of the target, of one scorer (forked, re-read) and of the reward model."""
    lengths, grown, target, forked, reread, parents = [0] * n, 0, prompt, 0, 0, []
    while lengths[0] < max_tokens:
        if lengths[0] > 0:
            forked = forked or prompt
            forked += grown
            reread += sum(prompt + length for length in lengths)
            survivors = lengths[: n // children]
            parents.append(len(survivors))
            lengths = [length for length in survivors for _ in range(children)]
            target += len(survivors)  # their last tokens
        grown = sum(min(math.ceil(max_tokens / layers), max_tokens - length) for length in lengths)
        lengths = [min(length + math.ceil(max_tokens / layers), max_tokens) for length in lengths]
        target += grown - len(lengths)
    return target, 2 * forked, 2 * reread, prompt + sum(lengths), sum(prompt + length for length in lengths), parents


def check_tokens(build):
    for n, layers, children, max_tokens in ((1, 1, 1, 7), (8, 4, 2, 32), (16, 4, 4, 30), (6, 3, 6, 10), (7, 3, 3, 9),
                                            (8, 4, 2, 9), (8, 20, 2, 9)):
        tree = build(n, layers, children, max_tokens)
        got = (tree.target_tokens(5), tree.scorer_tokens(5), tree.scorer_tokens(5, reuse=False),
               tree.reward_tokens(5), tree.reward_tokens(5, reuse=False),
               [layer.parents for layer in tree.layers[1:]])
        assert got == walk(n, layers, children, max_tokens, 5)


def grows_without_pruning(n, layers, children, max_tokens):
    """Broken twin: every candidate of a layer has children."""
    right = treebon.tree(n, layers, children, max_tokens)
    return treebon.Tree(tuple(treebon.Layer(layer.start, layer.end, n * children**i, layer.parents)
                              for i, layer in enumerate(right.layers)))


def test_tokens_node_by_node():
    check_tokens(treebon.tree)
    with pytest.raises(AssertionError):
        check_tokens(grows_without_pruning)


@examples
@given(trees)
def test_the_tree_keeps_its_books(plan):
    n, layers, _, max_tokens = plan
    tree = treebon.tree(*plan)
    assert tree.decode_tokens == n * max_tokens and (tree.width, tree.length) == (n, max_tokens)
    assert tree.reward_tokens_forked(3) <= tree.reward_tokens(3) <= tree.reward_tokens(3, reuse=False)
    if max_tokens % layers == 0:  # the card: 2 n L (layers-1)/layers forked, n L (layers-1) re-read
        assert tree.scorer_tokens() * layers == 2 * n * max_tokens * (layers - 1)
        assert tree.scorer_tokens(reuse=False) == n * max_tokens * (layers - 1)


def ancestry(n, layers, children, max_tokens):
    """Tokens of all nodes above or at a leaf when survivors come from different parents, as far as they can."""
    piece, nodes = math.ceil(max_tokens / layers), [((i,), 0) for i in range(n)]
    for start in range(0, max_tokens, piece):
        nodes = [(path, min(start + piece, max_tokens)) for path, _ in nodes]
        if nodes[0][1] < max_tokens:
            by_parent = sorted(nodes, key=lambda node: (node[0][-1], node[0]))
            nodes = [((*path, child), end) for path, end in by_parent[: n // children] for child in range(children)]
    above = {path[:depth] for path, _ in nodes for depth in range(1, len(path) + 1)}
    return sum(min(piece, max_tokens - piece * (len(path) - 1)) for path in above)


def check_forked_reward(forked):
    for plan in ((8, 4, 2, 32), (16, 4, 4, 30), (6, 1, 3, 10), (8, 3, 8, 12), (7, 3, 3, 9)):
        assert forked(treebon.tree(*plan), 5) == 5 + ancestry(*plan)


def test_a_forked_reward_cache_reads_each_node_once():
    check_forked_reward(treebon.Tree.reward_tokens_forked)
    with pytest.raises(AssertionError):  # broken twin: every answer read whole
        check_forked_reward(treebon.Tree.reward_tokens)


def test_one_layer_scores_nothing():
    tree = treebon.tree(8, 1, 2, 32)
    assert tree.scorer_tokens(100) == tree.scorer_tokens(100, reuse=False) == 0
    assert tree.reward_tokens_forked(10) == tree.reward_tokens(10)


# The law


def check_one_survivor(law):
    for seed in range(6):
        prefixes, scores, ends = brute.prefix_table(seed, prefixes=3)
        scores[0] = scores[1]  # a tie
        for n, children in ((1, 1), (2, 2), (3, 3), (3, 2), (2, 4)):
            got = np.concatenate(law(prefixes, scores, ends, n, children))
            exact = np.concatenate(brute.two_stage(prefixes, scores, ends, n, 1, children))
            assert got == pytest.approx(exact, abs=EXACT)


def plain_best_of_n(prefixes, scores, ends, n, children):
    """Broken twin: Best-of-n over whole answers, as if the tree changed nothing."""
    return [best_of_n.sequence_law(*brute.flat(prefixes, ends), n)]


def test_the_law_with_one_survivor():
    check_one_survivor(treebon.one_survivor_law)
    with pytest.raises(AssertionError):
        check_one_survivor(plain_best_of_n)


@pytest.mark.parametrize("seed", range(4))
def test_one_child_each_is_best_of_n(seed):
    prefixes, scores, ends = brute.prefix_table(seed)
    law = np.concatenate(brute.two_stage(prefixes, scores, ends, 3, 3, 1))
    assert law == pytest.approx(best_of_n.sequence_law(*brute.flat(prefixes, ends), 3), abs=EXACT)


def check_kl_bound(kl_bound):
    """On random tables, and on one made to go as far as two layers can: rare good prefixes with rare good ends."""
    rare = ([0.9, 0.1], [0.0, 1.0], [([0.9, 0.1], np.array([0.0, 1.0])), ([0.9, 0.1], np.array([2.0, 3.0]))])
    for table in (rare, *(brute.prefix_table(seed) for seed in range(4))):
        probs, _ = brute.flat(table[0], table[2])
        for n, children in ((2, 1), (2, 2), (3, 3), (3, 2), (4, 2), (4, 1)):
            law = np.concatenate(brute.two_stage(*table, n, n // children, children))
            assert brute.kl(law, probs) <= kl_bound(n, 2, children) + EXACT


def test_the_kl_bound():
    check_kl_bound(treebon.kl_bound)
    with pytest.raises(AssertionError):  # broken twin: the bound of Best-of-n
        check_kl_bound(lambda n, layers, children: best_of_n.kl_bound(n))


def test_the_kl_bound_at_its_limits():
    assert treebon.kl_bound(8, 1, 4) == treebon.kl_bound(8, 5, 1) == best_of_n.kl_bound(8)
    assert treebon.kl_bound(8, 3, 8) == pytest.approx(3 * best_of_n.kl_bound(8), abs=EXACT)
    assert treebon.kl_bound(8, 3, 2) == pytest.approx(math.log(8 * 2 * 2), abs=EXACT)


@pytest.mark.parametrize(("call", "needed"), [
    (lambda: treebon.tree(8, 2, 9, 10), "at most n = 8 children"),
    (lambda: treebon.tree(0, 2, 1, 10), "whole number"),
    (lambda: treebon.tree(4, 2, 2, 0), "whole number"),
    (lambda: treebon.kl_bound(8, 2, 0), "whole number"),
    (lambda: treebon.one_survivor_law([1.0], [0.0], [], 2, 2), "ends for each of the 1"),
])
def test_numbers_out_of_range(call, needed):
    with pytest.raises(OutOfRange, match=needed):
        call()
