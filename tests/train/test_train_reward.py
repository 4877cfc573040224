"""Reward training: scores at every prefix learn the chance of ending right."""

import math

import pytest
import torch

from ramify.train.loop import LoopConfig
from ramify.train.models import reward_from_policy
from ramify.train.reward import Judged, final_scores, pair_loss, prefix_loss, scores, train_reward


def answers():
    """Prompt [0, 3]; token 4 is followed by right and wrong equally, then 5 is right and 6 is wrong."""
    return [Judged([0, 3, 4, 5, 1], 2, True, 0), Judged([0, 3, 4, 6, 1], 2, False, 0),
            Judged([0, 3, 7, 5, 1], 2, True, 0), Judged([0, 3, 7, 6, 5, 1], 2, False, 0)]  # fmt: skip


def test_prefix_scores_become_the_chance_of_ending_right(make_model, tmp_path):
    model = reward_from_policy(make_model())
    rows = answers()
    config = LoopConfig(steps=80, matrix_lr=0.01, other_lr=0.01, warmup=3)
    train_reward(model, lambda step: rows, config, tmp_path)
    with torch.inference_mode():
        score_BT = scores(model, rows)
    undecided, decided = score_BT[:, 1:3], final_scores(score_BT, rows)
    assert undecided.sigmoid().sub(0.5).abs().max() < 0.15
    assert decided[[0, 2]].min() > 2 and decided[[1, 3]].max() < -2


def test_prefix_loss_by_hand_and_a_twin_that_ignores_the_prompt():
    rows = answers()[:1]
    score_BT = torch.tensor([[9.0, 0.0, 1.0, 2.0, 3.0]])
    by_hand = sum(math.log1p(math.exp(-s)) for s in (0.0, 1.0, 2.0, 3.0)) / 4
    assert prefix_loss(score_BT, rows).item() == pytest.approx(by_hand, rel=1e-6)
    twin = torch.nn.functional.softplus(-score_BT).mean().item()
    assert twin != pytest.approx(by_hand, rel=1e-2)


def test_pair_loss_pairs_within_one_prompt_only():
    rows = [*answers()[:2], Judged([0, 5, 1], 2, False, 1)]
    score_B = torch.tensor([1.0, -1.0, 50.0])
    assert pair_loss(score_B, rows).item() == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-6)
    assert pair_loss(score_B[1:], rows[1:]).item() == 0.0


def test_same_model_under_transformers_pooling(make_model):
    model = reward_from_policy(make_model()).eval()
    torch.nn.init.normal_(model.score.weight)
    rows = answers()[:2]
    with torch.inference_mode():
        ours = final_scores(scores(model, rows), rows)
        theirs = model(input_ids=torch.tensor([row.ids for row in rows])).logits[:, 0]
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_new_layers_start_as_the_identity_and_alone_learn(make_model, tmp_path):
    policy, rows = make_model(), answers()
    ids = torch.tensor([rows[0].ids])
    model = reward_from_policy(policy, extra_layers=1, frozen=True)
    with torch.inference_mode():
        before = [m.model(input_ids=ids).last_hidden_state for m in (policy, model)]
    assert torch.equal(*before)
    config = LoopConfig(steps=10, matrix_lr=0.01, other_lr=0.01, warmup=3)
    train_reward(model, lambda step: rows, config, tmp_path)
    old = policy.model.state_dict()
    changed = {name for name, weight in model.model.state_dict().items()
               if name not in old or not torch.equal(weight, old[name])}  # fmt: skip
    assert changed and all(name.startswith(("layers.2.", "norm.")) for name in changed)
