"""Every loss against its definition and its own finite differences, on 5 tokens in float64."""

import math

import pytest
import torch

from ramify.train.divergence import LOSSES, forward_kl, negative_log_acceptance, total_variation, tvd_plus_plus

STEP = 1e-6


def laws(cases=20, tokens=5):
    """Logits of drafts and targets, far from normalised."""
    torch.manual_seed(0)
    return 2 * torch.randn(2, cases, tokens, dtype=torch.float64) + 7


def gradient(loss, p_NV, q_NV):
    p_NV = p_NV.clone().requires_grad_()
    loss(p_NV, q_NV).sum().backward()
    return p_NV.grad


def differences(loss, p_NV, q_NV):
    """The gradient again, from values alone."""
    columns = []
    for step_V in STEP * torch.eye(p_NV.shape[-1], dtype=p_NV.dtype):
        columns.append((loss(p_NV + step_V, q_NV) - loss(p_NV - step_V, q_NV)) / (2 * STEP))
    return torch.stack(columns, -1)


def reference(name, p, q):
    """The definitions, token by token."""
    m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    def kl(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))
    overlap = sum(map(min, p, q))
    mu = sum(x for x, y in zip(p, q, strict=True) if y > x)
    return {"forward_kl": kl(q, p), "reverse_kl": kl(p, q), "jsd": (kl(p, m) + kl(q, m)) / 2, "tv": 1 - overlap,
            "tvd++": (1 - overlap) / math.sqrt(mu * (1 - mu)), "log_acceptance": -math.log(overlap)}[name]


@pytest.mark.parametrize("name", list(LOSSES))
def test_values(name):
    p_NV, q_NV = laws()
    by_hand = [reference(name, p, q) for p, q in zip(p_NV.softmax(-1).tolist(), q_NV.softmax(-1).tolist(), strict=True)]
    assert LOSSES[name](p_NV, q_NV).tolist() == pytest.approx(by_hand, abs=1e-12)
    others = [other for other in LOSSES if other != name]
    for other in others:  # twins: no two losses are the same
        assert LOSSES[other](p_NV, q_NV).tolist() != pytest.approx(by_hand, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "tvd++"])
def test_gradients_are_finite_differences(name):
    p_NV, q_NV = laws()
    numeric = differences(LOSSES[name], p_NV, q_NV)
    assert torch.allclose(gradient(LOSSES[name], p_NV, q_NV), numeric, atol=1e-7)
    twin = gradient(lambda p, q: LOSSES[name](q, p), p_NV, q_NV)  # broken twin: p and q exchanged
    symmetric = name in ("jsd", "tv", "log_acceptance")
    assert torch.allclose(twin, numeric, atol=1e-3) == symmetric


def policy_gradient(p_NV, q_NV, advantage):
    """grad E_{x ~ p}[-A(x)] with A held constant: sum_x p(x) grad log p(x) (-A(x))."""
    def surrogate(p_NV, q_NV):
        p, q = p_NV.softmax(-1).detach(), q_NV.softmax(-1)
        return -(p * advantage((q > p).double(), p) * p_NV.log_softmax(-1)).sum(-1)
    return gradient(surrogate, p_NV, q_NV)


def deviation(r, p):
    mu = (p * r).sum(-1, keepdim=True)
    return (p * (r - mu) ** 2).sum(-1, keepdim=True).sqrt()


def test_tv_is_a_policy_gradient_and_its_baseline_does_not_matter():
    p_NV, q_NV = laws()
    found = gradient(total_variation, p_NV, q_NV)
    assert torch.allclose(found, policy_gradient(p_NV, q_NV, lambda r, p: r), atol=1e-12)
    assert torch.allclose(found, policy_gradient(p_NV, q_NV, lambda r, p: r - (p * r).sum(-1, True)), atol=1e-12)
    assert not torch.allclose(found, policy_gradient(p_NV, q_NV, lambda r, p: 1 - r), atol=1e-3)  # twin


def test_tvd_plus_plus_is_the_normalised_advantage_and_tv_over_sigma():
    p_NV, q_NV = laws()
    found = gradient(tvd_plus_plus, p_NV, q_NV)
    paper = policy_gradient(p_NV, q_NV, lambda r, p: (r - (p * r).sum(-1, True)) / deviation(r, p))
    assert torch.allclose(found, paper, atol=1e-12)
    p, q = p_NV.softmax(-1), q_NV.softmax(-1)
    sigma = deviation((q > p).double(), p)
    numeric = differences(total_variation, p_NV, q_NV)
    assert torch.allclose(found, numeric / sigma, atol=1e-6)
    assert not torch.allclose(found, numeric / sigma**2, atol=1e-3)  # twin: the variance
    assert not torch.allclose(differences(tvd_plus_plus, p_NV, q_NV), numeric / sigma, atol=1e-3)  # twin: sigma moves


def test_log_acceptance_is_the_gradient_of_tv_over_acceptance():
    p_NV, q_NV = laws()
    acceptance = 1 - total_variation(p_NV, q_NV)[:, None]
    numeric = differences(total_variation, p_NV, q_NV)
    assert torch.allclose(gradient(negative_log_acceptance, p_NV, q_NV), numeric / acceptance, atol=1e-6)
    assert not torch.allclose(gradient(total_variation, p_NV, q_NV), numeric / acceptance, atol=1e-3)


@pytest.mark.parametrize("name", list(LOSSES))
def test_nothing_to_learn_from_an_equal(name):
    p_NV, other = laws()
    assert LOSSES[name](p_NV, p_NV - 3).abs().max() < 1e-9  # the same law from other logits
    assert gradient(LOSSES[name], p_NV, p_NV.clone()).abs().max() < 1e-9
    assert LOSSES[name](p_NV, other).min() > 1e-3


def test_tokens_that_a_side_never_gives():
    never = torch.tensor([0.0, 0.0, -torch.inf], dtype=torch.float64)
    full = torch.zeros(3, dtype=torch.float64)
    assert forward_kl(full, never).item() == pytest.approx(math.log(1.5))
    assert forward_kl(never, full).item() == math.inf
    assert total_variation(full, never).item() == pytest.approx(1 / 3)
    assert negative_log_acceptance(full, never).item() == pytest.approx(math.log(1.5))
    assert gradient(forward_kl, full[None], never[None]).isfinite().all()


def test_hardly_any_overlap_still_teaches():
    """Where the draft misses what the target does, plain TV has no slope; TVD++ has, within its clamp."""
    p_NV, q_NV = torch.tensor([[9.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 9.0]], dtype=torch.float64)
    plain, scaled = (gradient(loss, p_NV, q_NV).norm() for loss in (total_variation, tvd_plus_plus))
    assert plain < 1e-3 and scaled > 50 * plain
