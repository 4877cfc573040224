"""The acceptance head: its formula, and its folder."""

import json
import math

import pytest
import torch
from helpers_hf import edited, save_llama
from safetensors.torch import save_file

from ramify.errors import ModelError
from ramify.models import AcceptanceHead, load_model

SIZE, LAYERS = 16, 3


def random_head(seed=0):
    torch.manual_seed(seed)
    return AcceptanceHead(SIZE, LAYERS).double().requires_grad_(False)


def by_hand(head, hidden, embedded, chance, layer_of=lambda n: n):
    """The formula in plain numbers; `layer_of` tells which matrix a layer uses."""
    def affine(linear, x):
        return [sum(w * v for w, v in zip(row, x, strict=True)) + bias
                for row, bias in zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)]

    x = affine(head.join, [*hidden, *embedded, math.log(chance)])
    for n in range(LAYERS):
        x = [v + y / (1 + math.exp(-y)) for v, y in zip(x, affine(head.layers[layer_of(n)], x), strict=True)]
    return affine(head.out, x)[0]


def test_the_formula_and_a_twin_with_shared_layers():
    head = random_head()
    hidden, embedded = torch.randn(2, 5, SIZE, dtype=torch.float64)
    chance = torch.rand(5, dtype=torch.float64)
    found = head(hidden, embedded, chance).tolist()
    rows = list(zip(hidden.tolist(), embedded.tolist(), chance.tolist(), strict=True))
    assert found == pytest.approx([by_hand(head, *row) for row in rows], abs=1e-9)
    assert found != pytest.approx([by_hand(head, *row, layer_of=lambda n: 0) for row in rows], abs=1e-3)


def test_the_newest_token_counts():
    head, hidden = random_head(), torch.randn(1, SIZE, dtype=torch.float64)
    one, other = torch.randn(2, 1, SIZE, dtype=torch.float64)
    half, all_ = torch.tensor([0.5]), torch.tensor([1.0])
    assert (head(hidden, one, half) - head(hidden, other, half)).abs() > 1e-3
    assert (head(hidden, one, half) - head(hidden, one, all_)).abs() > 1e-3


@pytest.fixture
def folder(tmp_path):
    """A model with a head."""
    plain = save_llama(tmp_path / "plain")
    whole = edited(plain, tmp_path / "whole", ramify={"acceptance_head": {"layers": LAYERS}})
    save_file(random_head().half().state_dict(), whole / "acceptance_head.safetensors")
    return whole


def test_a_folder_with_a_head(folder):
    model = load_model(folder)
    hidden, embedded = torch.randn(2, 4, SIZE)
    given = hidden, embedded, torch.rand(4)
    assert torch.allclose(model.acceptance(*given), random_head().half().float()(*given), atol=1e-5)
    assert not any(weight.requires_grad for weight in model.acceptance.parameters())
    assert load_model(folder.parent / "plain").acceptance is None


@pytest.mark.parametrize(("name", "change"), [
    ("acceptance_head.safetensors", lambda path: path.unlink()),
    ("acceptance_head.safetensors", lambda path: path.write_bytes(path.read_bytes()[:99])),
    ("acceptance_head.safetensors", lambda path: save_file(AcceptanceHead(SIZE, 2).state_dict(), path)),
    ("acceptance_head.safetensors", lambda path: save_file(AcceptanceHead(8, LAYERS).state_dict(), path)),
    ("config.json", lambda path: path.write_text(path.read_text().replace('"layers"', '"depth"'))),
    ("config.json", lambda path: path.write_text(json.dumps({**json.loads(path.read_text()),
                                                             "ramify": {"acceptance_head": 3}})))])
def test_a_head_that_does_not_fit(folder, name, change):
    change(folder / name)
    with pytest.raises(ModelError, match=r"acceptance_head\.safetensors"):
        load_model(folder)
