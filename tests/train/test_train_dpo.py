"""DPO raises the margin; the entanglement diagnostic predicts what a small step really does."""

import pytest
import torch

from ramify.train.data import Row
from ramify.train.dpo import Pair, answer_logprobs, entanglement, pair_entanglement, train_dpo
from ramify.train.loop import LoopConfig

STEP = 1e-4


def logprob_grad(logits, token):
    """Gradient of log softmax(logits)[token]."""
    return torch.nn.functional.one_hot(torch.tensor(token), len(logits)) - logits.softmax(0)


def real_change(logits, w, l, d_w, d_l):  # noqa: E741
    """What a small real step does to both log-probabilities, divided by the size of the step."""
    moved = logits + STEP * (d_w * logprob_grad(logits, w) - d_l * logprob_grad(logits, l))
    change = (moved.log_softmax(0) - logits.log_softmax(0)) / STEP
    return change[w].item(), change[l].item()


def norm_twice(g_w, g_l, d_w, d_l):
    """Broken twin: takes the chosen norm where the rejected one belongs, as a published script did."""
    inner, w = float(g_w @ g_l), float(g_w @ g_w)
    return d_w * w - d_l * inner, d_w * inner - d_l * w


def random_cases():
    torch.manual_seed(0)
    for _ in range(50):
        logits = 2 * torch.randn(4, dtype=torch.float64)
        yield logits, 0, 1, *torch.rand(2).add(0.05).tolist()


def test_first_order_changes_match_a_real_step():
    for logits, w, l, d_w, d_l in random_cases():  # noqa: E741
        found = entanglement(logprob_grad(logits, w), logprob_grad(logits, l), d_w, d_l)
        real = real_change(logits, w, l, d_w, d_l)
        assert (found.chosen_change, found.rejected_change) == pytest.approx(real, abs=1e-3)
        p = logits.softmax(0)
        assert found.inner == pytest.approx(float(-p[w] - p[l] + (p**2).sum()))


def test_the_twin_with_one_norm_twice_is_caught():
    off = [
        norm_twice(logprob_grad(logits, w), logprob_grad(logits, l), d_w, d_l)
        != pytest.approx(real_change(logits, w, l, d_w, d_l), abs=1e-3)
        for logits, w, l, d_w, d_l in random_cases()  # noqa: E741
    ]
    assert sum(off) > 40


@pytest.mark.parametrize(
    ("g_w", "g_l", "d_w", "d_l", "regime"),
    [([1, 0], [0, 1], 1, 1, "good"), ([2, 0], [1, 0.5], 1, 1, "both up"), ([1, 0.5], [2, 0], 1, 1, "both down"),
     ([1, 0], [0.9, 0.1], 0.5, 1, "both down"), ([1, 0], [0.9, 0.1], 2, 1, "both up")],
)  # fmt: skip
def test_regimes(g_w, g_l, d_w, d_l, regime):
    found = entanglement(torch.tensor(g_w, dtype=torch.float64), torch.tensor(g_l, dtype=torch.float64), d_w, d_l)
    assert found.regime == regime


def test_chosen_down_with_rejected_up_never_happens():
    torch.manual_seed(1)
    for _ in range(2000):
        g_w, g_l = torch.randn(2, 3, dtype=torch.float64)
        d_w, d_l = torch.rand(2).tolist()
        assert entanglement(g_w, g_l, d_w, d_l).regime != "impossible"


def pairs():
    return [Pair(Row([0, a, a, 1], 2), Row([0, a, 3 + (a + 1) % 8, 1], 2)) for a in range(3, 11)]


def test_training_raises_the_margin(make_model, tmp_path):
    model, given = make_model(), pairs()
    with torch.no_grad():
        before = answer_logprobs(model, [p.chosen for p in given]) - answer_logprobs(model, [p.rejected for p in given])
    train_dpo(model, lambda step: given, LoopConfig(steps=30, warmup=3), tmp_path, beta=0.5)
    with torch.no_grad():
        after = answer_logprobs(model, [p.chosen for p in given]) - answer_logprobs(model, [p.rejected for p in given])
    assert (after > before + 1).all()


def test_diagnostic_of_a_model_matches_autograd(make_model):
    found = pair_entanglement(make_model(), pairs()[0])
    assert found.chosen_square > 0 and found.rejected_square > 0 and abs(found.cosine) <= 1 + 1e-6


def test_answer_logprobs_ignore_padding(make_model):
    model = make_model()
    short, long = Row([0, 3, 4, 1], 2), Row([0, 3, 4, 5, 6, 7, 1], 2)
    with torch.no_grad():
        alone, together = answer_logprobs(model, [short]), answer_logprobs(model, [short, long])
    assert together[0].item() == pytest.approx(alone[0].item(), rel=1e-5)
