"""Distillation brings the draft closer, whatever the loss and whoever wrote the texts."""

import pytest
import torch

from ramify.errors import OptionError
from ramify.train.distill import answer_logits, own_answers, train_draft
from ramify.train.divergence import LOSSES, total_variation
from ramify.train.loop import LoopConfig

SHORT = LoopConfig(steps=2, warmup=1)


@pytest.fixture
def pair(make_model):
    """A draft, and a target with strong opinions."""
    draft, target = make_model(), make_model(seed=1)
    torch.nn.init.normal_(target.model.embed_tokens.weight, std=1.0)
    return draft, target.eval()


def acceptance(draft, target, rows):
    with torch.inference_mode():
        return 1 - total_variation(answer_logits(draft, rows), answer_logits(target, rows)).mean().item()


@pytest.mark.parametrize(("loss", "on_policy"), [*((name, 0.0) for name in LOSSES), ("forward_kl", 0.5)])
def test_draft_comes_closer(pair, rows, tmp_path, loss, on_policy):
    before = acceptance(*pair, rows)
    config = LoopConfig(steps=60, warmup=3)
    train_draft(*pair, lambda step: rows, config, tmp_path, loss=loss, on_policy=on_policy)
    assert 1 - acceptance(*pair, rows) < 0.7 * (1 - before)


def test_the_wrong_way_round_is_caught(pair, rows, tmp_path, monkeypatch):
    """A broken twin that maximises its loss."""
    before = acceptance(*pair, rows)
    monkeypatch.setitem(LOSSES, "tv", lambda p, q: -total_variation(p, q))
    train_draft(*pair, lambda step: rows, LoopConfig(steps=30, warmup=3), tmp_path, loss="tv")
    assert acceptance(*pair, rows) < before


def test_answer_logits_are_those_before_each_answer_token(make_model, rows):
    model = make_model().eval()
    with torch.inference_mode():
        found = answer_logits(model, rows)
        whole = model(input_ids=torch.tensor([row.ids for row in rows])).logits[:, rows[0].prompt - 1 : -1]
    assert torch.allclose(found, whole.flatten(0, 1), atol=1e-6)


def test_own_answers_follow_the_prompts_and_the_draft(pair, rows):
    draft, target = pair
    found = own_answers(draft, rows, 0)
    assert [row.ids[: row.prompt] for row in found] == [row.ids[: row.prompt] for row in rows]
    assert all(row.prompt < len(row.ids) <= len(rows[0].ids) for row in found)
    assert found == own_answers(draft, rows, 0)
    assert found != own_answers(draft, rows, 1) and found != own_answers(target, rows, 0)
    assert own_answers(draft, [], 0) == []


def test_on_policy_contexts_are_the_drafts_own(pair, rows, tmp_path, monkeypatch):
    """A share of every batch is rewritten, other rows each time, and both models read the same texts."""
    read = []
    monkeypatch.setattr("ramify.train.distill.answer_logits",
                        lambda model, given: read.append([row.ids for row in given]) or answer_logits(model, given))
    train_draft(*pair, lambda step: rows, SHORT, tmp_path, on_policy=0.5)
    by_target, by_draft, *later = read
    assert by_target == by_draft and later[0] == later[1] != by_draft
    changed = [at for at, row in enumerate(rows) if by_draft[at] != row.ids]
    assert 0 < len(changed) <= len(rows) / 2


def test_wrong_options(pair, rows, tmp_path):
    with pytest.raises(OptionError, match=r"tvd\+\+"):
        train_draft(*pair, lambda step: rows, SHORT, tmp_path, loss="kl")
    with pytest.raises(OptionError, match="on_policy"):
        train_draft(*pair, lambda step: rows, SHORT, tmp_path, on_policy=1.5)
