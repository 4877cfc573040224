"""Drawing straight from logits: the same tokens and log-probabilities as by way of probabilities."""

import numpy as np
import pytest
import torch

from ramify.models.kernels import draw as kernel
from ramify.sampling.draws import invert_cdf

SIZES = [1, 5, 255, 256, 257, 4099]
RATE = 1e-3  # of draws that rounding may move to a neighbour: a uniform number falls so close to a border


def rows_of(size, rows=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits_RV = 4 * torch.randn(rows, size, generator=generator)
    return logits_RV, torch.rand(rows, generator=generator, dtype=torch.float64).numpy()


def draw(logits_RV, temperature, uniforms_R):
    """One of every row."""
    return kernel.draw(logits_RV, temperature, uniforms_R, np.arange(1, len(logits_RV) + 1))


def by_probabilities(logits_RV, temperature, uniforms_R):
    scaled_RV = (logits_RV.double() - logits_RV.double().amax(-1, keepdim=True)) / temperature
    return invert_cdf(scaled_RV.softmax(-1), uniforms_R)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_tokens_are_those_of_the_inverted_sum_of_probabilities(size, temperature):
    logits_RV, uniforms_R = rows_of(size)
    tokens_R, logprobs_R = draw(logits_RV.numpy(), temperature, uniforms_R)
    differ = (torch.from_numpy(tokens_R) != by_probabilities(logits_RV, temperature, uniforms_R)).double().mean()
    assert differ <= RATE
    expected_RV = logits_RV.double().log_softmax(-1)
    assert torch.allclose(torch.from_numpy(logprobs_R).double(),
                          expected_RV.gather(-1, torch.from_numpy(tokens_R)[:, None])[:, 0], atol=2e-6, rtol=0)


def test_another_temperature_is_caught():
    logits_RV, uniforms_R = rows_of(257)
    tokens_R, _ = draw(logits_RV.numpy(), 1.1, uniforms_R)
    assert (torch.from_numpy(tokens_R) != by_probabilities(logits_RV, 1.0, uniforms_R)).double().mean() > RATE


@pytest.mark.parametrize("size", SIZES)
def test_temperature_0_takes_the_first_of_the_likeliest(size):
    logits_RV, uniforms_R = rows_of(size)
    logits_RV = logits_RV.round()  # so that many are equal
    tokens_R, _ = draw(logits_RV.numpy(), 0.0, uniforms_R)
    assert tokens_R.tolist() == [row.index(max(row)) for row in logits_RV.tolist()]


@pytest.mark.parametrize("uniform", [0.0, 0.5, np.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("temperature", [1e-9, 1.0, 50.0])
def test_what_is_impossible_is_never_drawn(uniform, temperature):
    logits_RV = torch.full((3, 600), -torch.inf)
    logits_RV[0, 300:302] = 0.0
    logits_RV[1, 0] = 5.0
    logits_RV[2, 599] = -3.0
    tokens_R, _ = draw(logits_RV.numpy(), temperature, np.full(3, uniform))
    assert tokens_R.tolist() == [300 if uniform < 0.5 else 301, 0, 599]


def test_threads_do_not_change_what_is_drawn():
    logits_RV, uniforms_R = rows_of(4099, 64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = draw(logits_RV.numpy(), 0.9, uniforms_R)
        torch.set_num_threads(3)
        together = draw(logits_RV.numpy(), 0.9, uniforms_R)
    finally:
        torch.set_num_threads(before)
    assert logits_RV.numel() > kernel.ALONE
    assert np.array_equal(alone[0], together[0]) and np.array_equal(alone[1], together[1])


@pytest.mark.parametrize("temperature", [0.0, 0.9, 1.0])
def test_draws_of_one_row_are_those_of_as_many_equal_rows(temperature):
    logits_RV, uniforms_N = rows_of(4099, 40)
    places = torch.arange(40) // 5
    ends_R = np.array([5, 10, 15, 20, 25, 30, 35, 40])
    together = kernel.draw(logits_RV[:8].numpy(), temperature, uniforms_N, ends_R)
    apart = draw(logits_RV[places].numpy(), temperature, uniforms_N)
    assert np.array_equal(together[0], apart[0]) and np.array_equal(together[1], apart[1])
    ends_R[0] = 1  # four draws go to the wrong row
    assert not np.array_equal(kernel.draw(logits_RV[:8].numpy(), temperature, uniforms_N, ends_R)[0], apart[0])
