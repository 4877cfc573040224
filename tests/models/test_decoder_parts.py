"""The parts of the decoder by themselves: projections, attention, and the closed form of its cost."""

import pytest
import torch
import torch.nn.functional as F
from helpers_hf import SIZES, random_tokens
from torch.utils.flop_counter import FlopCounterMode

from ramify.models import Decoder, DenseAttention, attention, parse_config, visible
from ramify.models.linear import Linear, MklProduct, Packers, packable

GENERATOR = torch.Generator().manual_seed(0)
needs_packing = pytest.mark.skipif(not packable(torch.empty(1)), reason="this PyTorch has no MKL")


def random(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=GENERATOR, dtype=dtype)


def linear(outputs=96, inputs=64, bias=True):
    module = Linear(inputs, outputs, bias).requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(random(*parameter.shape))
    return module


def packing_error(module, *shape):
    """Largest difference of a packed projection from F.linear, for an input of this shape."""
    x, weight, bias = random(*shape), module.weight.clone(), module.bias
    module.pack(MklProduct)
    return float((module(x) - F.linear(x, weight, bias)).abs().max())


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 64, 128, 129, 400])
def test_a_packed_projection_is_the_same(rows, bias):
    assert packing_error(linear(bias=bias), rows, 64) <= 1e-4


@needs_packing
def test_packing_takes_any_leading_shape():
    assert packing_error(linear(), 3, 7, 64) <= 1e-4
    module = linear()
    module.pack(MklProduct)
    assert module(random(0, 64)).shape == (0, 96)
    x = random(64, 9)
    assert torch.equal(module(x.T), module(x.T.contiguous()))


@needs_packing
def test_packing_keeps_one_copy():
    module = linear()
    module.pack(MklProduct)
    assert module.weight.untyped_storage().nbytes() == 4
    assert [name for name, _ in module.named_parameters()] == ["bias"]


@needs_packing
def test_the_check_sees_a_wrong_weight():
    module = linear()
    module.weight[0, 0] += 0.01
    reference = linear()
    weight, x = module.weight.clone(), random(16, 64)
    reference.weight.copy_(weight)
    reference.weight[0, 0] -= 0.01
    reference.pack(MklProduct)
    assert (reference(x) - F.linear(x, weight, reference.bias)).abs().max() > 1e-4


def test_only_float32_on_a_cpu_is_packed():
    assert not packable(torch.empty(1, dtype=torch.float64))
    assert not packable(torch.empty(1, device="meta"))


def by_hand(q_RQHd, k_RCGd, v_RCGd, mask_RQC, scale, softcap):
    """Attention by its definition, one query head at a time."""
    out = torch.empty_like(q_RQHd)
    shared = q_RQHd.shape[2] // k_RCGd.shape[2]
    for head in range(q_RQHd.shape[2]):
        k, v = k_RCGd[:, :, head // shared], v_RCGd[:, :, head // shared]
        scores = torch.einsum("rqd,rcd->rqc", q_RQHd[:, :, head], k) * scale
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        out[:, :, head] = scores.masked_fill(~mask_RQC, -torch.inf).softmax(-1) @ v
    return out


def attention_inputs(queries, heads, groups):
    keys = 11
    positions = torch.stack([torch.arange(keys - queries - row, keys - row) for row in range(3)])
    mask = torch.stack([visible(row, torch.arange(keys), 6) for row in positions])
    shapes = ((3, queries, heads, 8), (3, keys, groups, 8), (3, keys, groups, 8))
    return (*(random(*shape, dtype=torch.float64) for shape in shapes), mask)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("queries", "heads", "groups"), [(1, 6, 2), (1, 3, 3), (4, 6, 2), (4, 2, 2), (5, 4, 1)])
def test_attention_is_its_definition(queries, heads, groups, softcap):
    inputs = attention_inputs(queries, heads, groups)
    assert (attention(*inputs, 0.3, softcap) - by_hand(*inputs, 0.3, softcap)).abs().max() <= 1e-12


@pytest.mark.parametrize("queries", [1, 4])
def test_the_definition_sees_heads_in_another_order(queries):
    q, k, v, mask = attention_inputs(queries, 6, 2)
    swapped = q.unflatten(2, (2, 3)).transpose(2, 3).flatten(2, 3)
    expected = by_hand(swapped, k, v, mask, 0.3, None).unflatten(2, (3, 2)).transpose(2, 3).flatten(2, 3)
    assert (attention(q, k, v, mask, 0.3) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("queries", [1, 3])
def test_a_query_that_sees_nothing_stays_finite(queries, softcap):
    q, k, v, mask = attention_inputs(queries, 4, 2)
    mask[0] = False
    assert attention(q, k, v, mask, 0.3, softcap).isfinite().all()


def test_visible_by_hand():
    positions = torch.arange(4)
    assert visible(positions, positions, None).int().tolist() == [
        [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1],
    ]  # fmt: skip
    assert visible(positions, positions, 2).int().tolist() == [
        [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1],
    ]  # fmt: skip


def decoder_of(kind, vocabulary=True, **changes):
    decoder = Decoder(parse_config({"model_type": kind, **SIZES, **changes}), vocabulary).requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.copy_(random(*parameter.shape))
    return decoder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocabulary", [True, False])
def test_flops_are_those_that_torch_counts(tied, vocabulary):
    decoder = decoder_of("gemma2", vocabulary, head_dim=16, tie_word_embeddings=tied)
    length = 13
    tokens = random_tokens(length)
    with FlopCounterMode(display=False) as counter:
        hidden = decoder(tokens, torch.arange(length), DenseAttention(decoder.config, [length]))
        if vocabulary:
            decoder.logits(hidden)
    counted = counter.get_total_flops()
    norms = sum(parameter.numel() for name, parameter in decoder.named_parameters() if parameter.dim() == 1)
    # norm weights multiply once per token and torch counts matrix products only; dense attention does masked pairs too
    assert decoder.flops(length, length**2) == counted + 2 * norms * length
    assert decoder.flops(length, length * (length + 1) // 2) < counted


@needs_packing
def test_sizes_do_not_change_with_packing():
    decoder = decoder_of("llama", tie_word_embeddings=True)
    before = decoder.num_parameters, decoder.flops(3, 6), decoder.dtype
    assert before[0] == sum(parameter.numel() for parameter in decoder.parameters())
    decoder.fill(dict(decoder.named_parameters()), Packers(MklProduct))
    assert (decoder.num_parameters, decoder.flops(3, 6), decoder.dtype) == before


@needs_packing
@pytest.mark.parametrize("tied", [True, False])
def test_a_packed_decoder_is_the_same(tied):
    decoder = decoder_of("llama", tie_word_embeddings=tied)
    tokens, positions = random_tokens(20), torch.arange(20)
    attend = DenseAttention(decoder.config, [20])
    before = decoder.logits(decoder(tokens, positions, attend))
    decoder.fill(dict(decoder.named_parameters()), Packers(MklProduct))
    after = decoder.logits(decoder(tokens, positions, attend))
    assert (before - after).abs().max() <= 1e-4 * before.abs().max()


def test_a_trunk_without_vocabulary_has_no_logits():
    decoder = decoder_of("llama", vocabulary=False, tie_word_embeddings=True)
    with pytest.raises(AssertionError):
        decoder.logits(torch.zeros(1, 64))
