"""Keyed random numbers: uniform, independent of company, and never an impossible outcome."""

from itertools import permutations

import numpy as np
import pytest
import torch

from ramify.exact import chi_square, enumerate_law
from ramify.sampling import draws
from ramify.sampling.draws import CHOICE, FEW, TOKEN, Key, KeyedDraws, invert_cdf, mix, uniform, uniforms

SOURCE = KeyedDraws()
CELLS = 64


def spread(keys):
    """p-value of the keys' numbers against the uniform law on `CELLS` cells."""
    counts = {}
    for key in keys:
        cell = int(uniform(key) * CELLS)
        counts[cell] = counts.get(cell, 0) + 1
    return chi_square(counts, dict.fromkeys(range(CELLS), 1 / CELLS))


KEYS = {
    "positions": lambda: (Key(mix(0), position) for position in range(6400)),
    "streams of neighbouring seeds": lambda: (Key(mix(seed), 0) for seed in range(6400)),
    "siblings": lambda: (Key(mix(mix(7), turn + 1), 5) for turn in range(6400)),
    "purposes and positions": lambda: (Key(mix(1), at // 5, at % 5) for at in range(6400)),
    "parts": lambda: (Key(mix(1), 3).part(turn) for turn in range(6400)),
    "rewinds": lambda: (Key(stream, 2) for stream in rewinds(6400)),
}


def rewinds(count):
    stream = mix(0)
    for _ in range(count):
        stream = mix(stream, -1)
        yield stream


@pytest.mark.parametrize("name", KEYS)
def test_numbers_are_uniform(name):
    assert spread(KEYS[name]()) > 1e-3


def test_the_check_catches_numbers_that_are_not_uniform(monkeypatch):
    monkeypatch.setattr(draws, "mix", lambda stream, position, purpose: position**2 << 38)
    assert spread(KEYS["positions"]()) < 1e-9


@pytest.mark.parametrize("pairs", [
    lambda: ((Key(mix(0), at), Key(mix(0), at + 1)) for at in range(6400)),  # along a sequence
    lambda: ((Key(mix(0, turn), 4), Key(mix(0, turn + 1), 4)) for turn in range(6400)),  # between siblings
    lambda: ((Key(mix(seed), 1), Key(mix(mix(seed), 1), 1)) for seed in range(6400)),  # parent and child
    lambda: ((Key(mix(seed), 1), Key(mix(seed + 1), 1)) for seed in range(6400)),  # between seeds
    lambda: ((Key(mix(seed), 1), Key(mix(seed), 1, CHOICE)) for seed in range(6400)),  # between purposes
])
def test_neighbouring_numbers_are_independent(pairs):
    counts = {}
    for left, right in pairs():
        cell = int(uniform(left) * 8), int(uniform(right) * 8)
        counts[cell] = counts.get(cell, 0) + 1
    assert chi_square(counts, {(i, j): 1 / 64 for i in range(8) for j in range(8)}) > 1e-3


def test_keys_name_their_numbers_apart():
    keys = [Key(mix(seed, turn), position, purpose) for seed in range(10) for turn in range(10)
            for position in range(20) for purpose in range(5)]
    assert len({uniform(key) for key in keys}) == len(keys) == 10_000


def test_numbers_of_many_keys_at_once_are_those_of_each():
    keys = [Key(mix(seed), position, purpose) for seed in range(5) for position in (0, 7, 2**40)
            for purpose in (0, 1004)]
    keys.append(Key(2**64 - 1, 0))
    assert uniforms(keys).tolist() == [uniform(key) for key in keys]
    assert len(keys) > FEW and uniforms(keys[:3]).tolist() == [uniform(key) for key in keys[:3]]


def test_a_draw_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    probs_RV, keys = torch.rand(40, 17), [Key(mix(row), 3) for row in range(40)]
    together = SOURCE.categorical(probs_RV, keys)
    assert [SOURCE.categorical(probs_RV[row : row + 1], keys[row : row + 1])[0] for row in range(40)] == together
    order = torch.randperm(40).tolist()
    shuffled = SOURCE.categorical(probs_RV[order], [keys[row] for row in order])
    assert shuffled == [together[row] for row in order]


def test_rounding_of_the_probabilities_rarely_changes_a_draw():
    torch.manual_seed(0)
    logits_RV, keys = torch.randn(2000, 50, dtype=torch.float64), [Key(mix(row), 0) for row in range(2000)]
    exact = SOURCE.categorical(logits_RV.softmax(-1), keys)
    single = SOURCE.categorical(logits_RV.float().softmax(-1), keys)
    assert sum(a != b for a, b in zip(exact, single, strict=True)) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("probs", [
    [0.0, 0.3, 0.0, 0.7, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1e-30, 0.0], [1e-8, 0.0, 1.0, 0.0],
    [3.0, 0.0, 5.0],
])
@pytest.mark.parametrize("u", [0.0, 2.0**-53, 0.3, 0.5, 1 - 2.0**-24, 1 - 2.0**-25, 1 - 2.0**-53])
def test_an_impossible_outcome_is_never_drawn(probs, u, dtype):
    [pick] = invert_cdf(torch.tensor([probs], dtype=dtype), np.array([u])).tolist()
    assert probs[pick] > 0


def test_zeros_are_skipped_at_the_edges_of_the_cells():
    """u * total equal to a cumulative sum belongs to the next possible outcome."""
    probs = torch.tensor([[0.5, 0.0, 0.25, 0.25]], dtype=torch.float64)
    uniforms = [0.0, 0.499, 0.5, 0.749, 0.75, 1 - 2**-53]
    assert [invert_cdf(probs, np.array([u])).item() for u in uniforms] == [0, 0, 2, 2, 3, 3]


def naive(probs_RV, uniforms_R):
    """The broken twin: left of the edge, no guard at the end."""
    cdf_RV = probs_RV.cumsum(-1)
    return torch.searchsorted(cdf_RV, torch.from_numpy(uniforms_R).to(cdf_RV)[:, None] * cdf_RV[:, -1:])[:, 0]


def test_the_naive_inverse_draws_an_impossible_outcome():
    assert naive(torch.tensor([[0.0, 1.0]]), np.array([0.0])).item() == 0
    with pytest.raises(AssertionError):
        assert [0.0, 1.0][naive(torch.tensor([[0.0, 1.0]]), np.array([0.0])).item()] > 0


def test_categorical_follows_its_distribution():
    weights = torch.tensor([1.0, 0.0, 2.0, 5.0])  # not normalised
    picks = SOURCE.categorical(weights.repeat(4000, 1), [Key(mix(3), at) for at in range(4000)])
    assert chi_square({at: picks.count(at) for at in set(picks)}, {0: 1 / 8, 1: 0.0, 2: 2 / 8, 3: 5 / 8}) > 1e-3
    assert chi_square({at: picks.count(at) for at in set(picks)}, {0: 2 / 8, 1: 0.0, 2: 1 / 8, 3: 5 / 8}) < 1e-9


def test_bernoulli_follows_its_probability():
    keys = [Key(mix(4), at) for at in range(4000)]
    hits = sum(SOURCE.bernoulli(0.3, key) for key in keys)
    assert chi_square({True: hits, False: 4000 - hits}, {True: 0.3, False: 0.7}) > 1e-3
    assert not any(SOURCE.bernoulli(0.0, key) for key in keys)
    assert all(SOURCE.bernoulli(1.0, key) for key in keys)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000, 2**40 + 1])
def test_uniform_index_stays_in_range_at_the_extremes(count, monkeypatch):
    for u in (0.0, 0.5, 1 - 2.0**-53):
        monkeypatch.setattr(draws, "uniform", lambda key, u=u: u)
        assert 0 <= SOURCE.uniform_index(count, Key(0, 0)) < count


def test_uniform_index_is_uniform():
    picks = [SOURCE.uniform_index(3, Key(mix(5), at, CHOICE)) for at in range(3000)]
    assert chi_square({at: picks.count(at) for at in range(3)}, dict.fromkeys(range(3), 1 / 3)) > 1e-3


def sequential(weights, count):
    """The law of draws without replacement, by hand."""
    law = {}
    for order in permutations(range(len(weights)), count):
        mass, left = 1.0, sum(weights)
        for pick in order:
            mass, left = mass * weights[pick] / left, left - weights[pick]
        if mass > 0:
            law[order] = mass
    return law


WEIGHTS = [0.1, 0.0, 0.5, 0.4]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_without_replacement_has_its_law(count):
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    law = enumerate_law(lambda source: tuple(source.without_replacement(weights, count, Key(0, 0))))
    assert law == pytest.approx(sequential(WEIGHTS, count), abs=1e-12)


def test_keyed_draws_without_replacement_follow_the_same_law():
    picks, weights = {}, torch.tensor(WEIGHTS)
    for at in range(4000):
        order = tuple(SOURCE.without_replacement(weights, 2, Key(mix(6), at)))
        picks[order] = picks.get(order, 0) + 1
    assert chi_square(picks, sequential(WEIGHTS, 2)) > 1e-3
    with_replacement = {(a, b): WEIGHTS[a] * WEIGHTS[b] for a in range(4) for b in range(4)}
    assert chi_square(picks, with_replacement) < 1e-9
    assert weights.tolist() == torch.tensor(WEIGHTS).tolist()  # the caller's tensor is untouched


def test_parts_of_a_draw_meet_no_key_of_a_child():
    """A decision made of several draws must not borrow the streams of the candidate's children."""
    key = Key(mix(0), 5, TOKEN)
    children = {Key(mix(key.stream, turn + 1), 5, purpose) for turn in range(20) for purpose in range(5)}
    assert children.isdisjoint(key.part(turn) for turn in range(20))
    assert len({key.part(turn) for turn in range(20)} | {key}) == 21
