"""Distillation brings the draft closer, and its losses are what they say."""

import pytest
import torch

from ramify.train.distill import answer_logits, forward_kl, total_variation, train_draft
from ramify.train.loop import LoopConfig


def random_laws():
    torch.manual_seed(0)
    return torch.randn(2, 20, 6, dtype=torch.float64).log_softmax(-1)


def test_total_variation_is_the_chance_of_rejection():
    logp, logq = random_laws()
    accepted = torch.minimum(logp.exp(), logq.exp()).sum(-1)
    assert torch.allclose(total_variation(logp, logq), 1 - accepted, atol=1e-12)


def test_forward_kl_weighs_by_the_target_and_the_reverse_twin_differs():
    logp, logq = random_laws()
    reference = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logq), torch.distributions.Categorical(logits=logp)
    )
    assert torch.allclose(forward_kl(logp, logq), reference, atol=1e-12)
    assert not torch.allclose(forward_kl(logq, logp), reference, atol=1e-3)


@pytest.mark.parametrize("loss", [forward_kl, total_variation])
def test_draft_comes_closer(make_model, rows, tmp_path, loss):
    draft, target = make_model(), make_model(seed=1)
    torch.nn.init.normal_(target.model.embed_tokens.weight, std=1.0)

    def distance():
        with torch.inference_mode():
            laws = [answer_logits(model, rows).log_softmax(-1) for model in (draft, target)]
            return loss(*laws).mean().item()

    before = distance()
    train_draft(draft, target.eval(), lambda step: rows, LoopConfig(steps=60, warmup=3), tmp_path, loss=loss)
    assert distance() < 0.6 * before


def test_answer_logits_are_those_before_each_answer_token(make_model, rows):
    model = make_model().eval()
    with torch.inference_mode():
        found = answer_logits(model, rows)
        whole = model(input_ids=torch.tensor([row.ids for row in rows])).logits[:, rows[0].prompt - 1 : -1]
    assert torch.allclose(found, whole.flatten(0, 1), atol=1e-6)
