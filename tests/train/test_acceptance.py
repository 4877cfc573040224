"""The acceptance head learns min(1, q/p), from the newest token too, and comes back from its folder."""

import math

import pytest
import torch
from helpers_hf import save_llama

from ramify.models import AcceptanceHead, load_model
from ramify.train.acceptance import acceptance_loss, drafted, save_acceptance, train_acceptance
from ramify.train.loop import LoopConfig

SIZE = 16


@pytest.fixture
def pair(make_model):
    """A draft, and a target with other opinions."""
    draft, target = make_model(seed=2).eval(), make_model(seed=1).eval()
    for model in (draft, target):
        torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
        torch.nn.init.normal_(model.model.norm.weight)
    return draft, target


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@torch.inference_mode()
def law(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)


def test_labels_are_the_chance_of_acceptance_in_the_samples_own_context(pair, rows):
    draft, target = pair
    seen = drafted(draft, target, rows, 0.0, seeded())
    embeddings = draft.model.embed_tokens.weight
    tokens = [int((embeddings == row).all(-1).nonzero()) for row in seen.embedded_ND]
    places = [row.ids[:end] for row in rows for end in range(row.prompt, len(row.ids))]
    assert len(tokens) == len(places) == len(seen.hidden_ND)
    at = list(zip(places, tokens, strict=True))
    ratios = [float(law(target, ids)[token] / law(draft, ids)[token]) for ids, token in at]
    assert seen.accepted_N.tolist() == pytest.approx([min(1.0, ratio) for ratio in ratios], abs=1e-5)
    assert seen.accepted_N.tolist() != pytest.approx([min(1.0, 1 / ratio) for ratio in ratios], abs=1e-2)  # twin: p/q


def test_hidden_states_are_of_what_was_drafted_before(pair, rows):
    """The first token's state is that of the prompt; later ones have read the drafted tokens and never the newest."""
    draft, target = pair
    seen = drafted(draft, target, rows[:1], 0.0, seeded())
    embeddings = draft.model.embed_tokens.weight
    tokens = [int((embeddings == row).all(-1).nonzero()) for row in seen.embedded_ND]
    ids = rows[0].ids[: rows[0].prompt] + tokens
    with torch.inference_mode():
        states = draft.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    assert torch.allclose(seen.hidden_ND, states[rows[0].prompt - 1 : -1], atol=1e-5)
    assert not torch.allclose(seen.hidden_ND, states[rows[0].prompt :], atol=1e-2)  # twin: one token late


def test_mixing_keeps_the_samples_own_tokens_and_leaves_their_places_out(pair, rows):
    tokens = sum(len(row.ids) - row.prompt for row in rows)
    counts = [len(drafted(*pair, rows, 0.5, seeded(seed)).accepted_N) for seed in range(30)]
    assert sum(counts) / len(counts) == pytest.approx(tokens / 2, rel=0.1)
    assert len(drafted(*pair, rows, 1.0, seeded()).accepted_N) == 0


def test_loss_by_hand_and_what_minimises_it():
    odds_N, accepted_N = torch.tensor([0.3, -1.2]), torch.tensor([0.9, 0.25])
    said = [1 / (1 + math.exp(-odds)) for odds in odds_N.tolist()]
    terms = [-a * math.log(s) - 6 * (1 - a) * math.log(1 - s) for s, a in zip(said, (0.9, 0.25), strict=True)]
    assert acceptance_loss(odds_N, accepted_N).item() == pytest.approx(sum(terms) / (0.9 + 0.6 + 0.25 + 4.5), rel=1e-6)
    best = torch.tensor([math.log(0.9 / (6 * 0.1))], requires_grad=True)
    acceptance_loss(best, accepted_N[:1]).backward()
    assert abs(best.grad.item()) < 1e-6
    swapped = torch.tensor([math.log(6 * 0.9 / 0.1)], requires_grad=True)  # twin: the accept side weighs more
    acceptance_loss(swapped, accepted_N[:1]).backward()
    assert abs(swapped.grad.item()) > 0.1


class Blind(AcceptanceHead):
    """Broken twin: it does not see the newest token, as published."""

    def forward(self, hidden_KD, embedded_KD, chance_K):
        return super().forward(hidden_KD, torch.zeros_like(embedded_KD), torch.ones_like(chance_K))


def missed(kind, pair, rows, run):
    """How far a trained head is from the labels of fresh drafts, on average."""
    torch.manual_seed(0)
    head = kind(SIZE, 3)
    config = LoopConfig(steps=60, other_lr=0.02, warmup=3)
    train_acceptance(head, *pair, lambda step: rows, config, run, mixing=0.15, reject_weight=1.0)
    seen = drafted(*pair, rows, 0.15, seeded(10_000))
    with torch.inference_mode():
        return (head(*seen[:3]).sigmoid() - seen.accepted_N).abs().mean().item()


def test_it_learns_and_needs_the_newest_token(pair, rows, tmp_path):
    before = [weight.clone() for model in pair for weight in model.parameters()]
    seeing, blind = missed(AcceptanceHead, pair, rows, tmp_path / "a"), missed(Blind, pair, rows, tmp_path / "b")
    assert seeing < 0.75 * blind
    after = [weight for model in pair for weight in model.parameters()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))  # frozen


def test_there_and_back(tmp_path):
    folder, head = save_llama(tmp_path / "draft"), AcceptanceHead(SIZE, 2)
    save_acceptance(head, folder)
    given = (*torch.randn(2, 4, SIZE), torch.rand(4))
    with torch.inference_mode():
        assert torch.allclose(load_model(folder).acceptance(*given), head(*given), atol=5e-3)
