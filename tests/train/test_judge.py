"""The judge's start: a look one token back, the trunk's surprise as a target, and replaced tokens as examples."""

import json
import random

import pytest
import torch

from ramify.train.data import Row, pad
from ramify.train.judge import LEAST, look_back, replaced, rescale_stream, surprise, train_judge
from ramify.train.loop import LoopConfig
from ramify.train.models import new_llama, reward_from_policy
from ramify.train.reward import Judged, prefix_loss, prefix_mask

ROWS = [Judged([0, 3, a, 9, b, 1], 2, b > 5, 0) for a in range(3, 9) for b in range(3, 9)]


@pytest.fixture
def pair():
    """A policy and a judge on it with one new layer."""
    torch.manual_seed(0)
    policy = new_llama(12, hidden=32, inner=48, layers=2, heads=2, kv_heads=1, context=32, bos=0, eos=1, pad=2)
    torch.nn.init.normal_(policy.model.embed_tokens.weight)
    policy.requires_grad_(False)
    return policy, reward_from_policy(policy, extra_layers=1, frozen=True)


def attention(model, layer):
    """Probabilities [rows, heads, T, T] with which `layer` looks at each place."""
    model.config._attn_implementation = "eager"
    ids = pad([row.ids for row in ROWS], fill=0)
    with torch.inference_mode():
        return model.model(input_ids=ids, output_attentions=True, use_cache=False).attentions[layer]


def looks_back(model):
    found = attention(model, 2)[:, :, 1:, :].diagonal(0, 2, 3)[:, :, 1:5]  # from places 2 to 5 to the one before
    return found.min().item()


def test_new_layer_looks_at_the_token_before(pair):
    policy, model = pair
    assert looks_back(model) < 0.5  # the twin: as it was initialised
    look_back(model, policy, 2, ROWS)
    assert looks_back(model) > 0.8


def test_surprise_is_the_policy_s_own_log_probability(pair):
    policy, model = pair
    ids = pad([row.ids for row in ROWS], fill=0)
    with torch.inference_mode():
        hidden = model.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[2]
        found = surprise(policy, hidden, ids, ROWS)
        law = policy(input_ids=ids).logits.log_softmax(-1)
    for row, (first, least) in zip(ROWS, found.unbind(-1) and found.transpose(1, 2), strict=True):
        own = [0.0, 0.0] + [max(LEAST, law[ROWS.index(row), t - 1, row.ids[t]].item()) for t in range(2, 6)]
        assert first.tolist() == pytest.approx(own, abs=1e-4)
        assert least.tolist() == pytest.approx([min(own[: t + 1]) for t in range(6)], abs=1e-4)


def test_replaced_rows_say_how_far_they_are_sound():
    row, rng = Row([0, 5, 3, 4, 9, 3, 1], 2), random.Random(0)
    seen = [replaced(row, [{3, 4, 5}, {8, 9}], 0.5, rng) for _ in range(200)]
    for found in seen:
        assert found.ids[: found.sound] == row.ids[: found.sound]
        assert found.correct == (found.ids == row.ids) == (found.sound == len(row.ids))
        assert found.correct or found.ids[found.sound] != row.ids[found.sound]
        assert found.ids[:2] == [0, 5] and found.ids[6] == 1
        assert {found.ids[2], found.ids[3], found.ids[5]} <= {3, 4, 5} and found.ids[4] in {8, 9}
    assert len({tuple(found.ids) for found in seen}) > 20
    assert replaced(row, [{3, 4, 5}], 0.0, rng).ids == row.ids


def test_sound_prefixes_are_labelled_right():
    score_BT = torch.tensor([[9.0, 5.0, 5.0, -5.0, -5.0]])
    half, unknown = Judged([0, 3, 4, 5, 1], 2, False, 0, 3), Judged([0, 3, 4, 5, 1], 2, False, 0)
    assert prefix_mask([half], 5).tolist() == [[False, True, True, True, True]]
    assert prefix_loss(score_BT, [half]).item() < 0.01 < 2 < prefix_loss(score_BT, [unknown]).item()


def test_training_lowers_both_losses_and_leaves_the_trunk_alone(pair, tmp_path):
    policy, model = pair
    look_back(model, policy, 2, ROWS)
    old = {name: weight.clone() for name, weight in model.model.layers[:2].state_dict().items()}
    config = LoopConfig(steps=100, other_lr=0.01, warmup=3, log_every=1)
    train_judge(model, policy, lambda step: ROWS, config, tmp_path)
    first, *_, last = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert last["final"] < 0.7 * first["final"] and last["surprise"] < 0.5 * first["surprise"]
    assert all(torch.equal(weight, old[name]) for name, weight in model.model.layers[:2].state_dict().items())


def test_rescaling_changes_the_stream_and_nothing_the_policy_says(pair):
    policy, model = pair
    ids, seen = pad([row.ids for row in ROWS], fill=0), prefix_mask(ROWS, 6)

    def stream():
        with torch.inference_mode():
            hidden = model.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[2]
            return hidden[seen].square().mean().sqrt().item(), policy.lm_head(policy.model.norm(hidden))

    model.model.embed_tokens.weight.data.mul_(5.0)
    for layer in model.model.layers[:2]:
        layer.self_attn.o_proj.weight.data.mul_(5.0)
        layer.mlp.down_proj.weight.data.mul_(5.0)
    before = stream()
    rescale_stream(model, 2, ROWS)
    after = stream()
    assert before[0] > 2 and after[0] == pytest.approx(1.0, rel=1e-4)
    assert torch.allclose(before[1], after[1], atol=1e-3)
