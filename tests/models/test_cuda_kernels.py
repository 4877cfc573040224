"""What surrounds attention on a GPU, in Triton's interpreter: products with bytes, and whole forwards."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from ramify.cache import KVStore
from ramify.errors import OptionError
from ramify.models import executors
from ramify.models.config import parse_config
from ramify.models.decoder import Decoder
from ramify.models.kernels.attention_plan import Rows
from ramify.models.kernels.cuda.forward import DeviceForward, covered
from ramify.models.kernels.cuda.linear import Bytes, ByteWeights
from ramify.models.kernels.cuda.plan import DevicePages, HostStep, unpacked
from ramify.models.linear import ByteProduct, Packers, quantise


def problem(rows, inputs, outputs, dtype=torch.float32):
    source = torch.Generator().manual_seed(rows)
    x, weight, bias = (torch.randn(shape, generator=source).to(dtype)
                       for shape in ((rows, inputs), (outputs, inputs), (outputs,)))
    return x, weight, bias


SIZES = [(1, 48, 33), (3, 130, 20), (70, 64, 70)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("biased", [True, False])
def test_byte_weights_are_rounded_weights(sizes, biased):
    x, weight, bias = problem(*sizes)
    codes, scales = quantise(weight)
    found = ByteWeights(weight, bias if biased else None, 1)
    wanted = torch.nn.functional.linear(x, codes * scales, bias if biased else None)
    torch.testing.assert_close(found(x), wanted, atol=1e-4, rtol=1e-5)
    assert found.nbytes == weight.numel() + 4 * len(weight)
    ids = torch.tensor([[1, 0]])
    torch.testing.assert_close(found.rows(ids), (codes * scales)[ids])


@pytest.mark.parametrize("sizes", SIZES)
def test_bytes_are_products_of_bytes(sizes):
    x, weight, bias = problem(*sizes)
    x[-1] = 0
    x[0, :4] = torch.tensor([x[0].abs().max() * part / 127 for part in (0.5, 1.5, -2.5, 3.5)])  # halves go to even
    torch.testing.assert_close(Bytes(weight, bias, 1)(x), ByteProduct(weight, bias, 1)(x), atol=1e-5, rtol=1e-5)


def test_products_in_halves_are_near():
    x, weight, bias = problem(3, 64, 32, torch.float16)
    codes, scales = quantise(weight.float())
    wanted = torch.nn.functional.linear(x.float(), codes * scales, bias.float())
    torch.testing.assert_close(ByteWeights(weight, bias, 1)(x).float(), wanted, atol=2e-2, rtol=2e-3)


def test_a_scale_that_is_wrong_is_caught():
    x, weight, bias = problem(*SIZES[0])
    found = Bytes(weight, bias, 1)
    found.scales_O[0] *= 1.01
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found(x), ByteProduct(weight, bias, 1)(x), atol=1e-5, rtol=1e-5)


# Whole forwards ----------------------------------------------------------------------------------------------------


LLAMA = {"model_type": "llama", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 12, "intermediate_size": 40, "max_position_embeddings": 128}
CONFIGS = {
    "llama": LLAMA,
    "qwen3": LLAMA | {"model_type": "qwen3", "rope_parameters": {"rope_theta": 1e4}},
    "window": LLAMA | {"model_type": "mistral", "sliding_window": 3},
    "partial": LLAMA | {"partial_rotary_factor": 0.5},
}


def model(name):
    config = parse_config(CONFIGS[name])
    assert covered(config)
    source = torch.Generator().manual_seed(1)
    decoder = Decoder(config).requires_grad_(False)
    for path, parameter in decoder.named_parameters():
        parameter.copy_(("norm" in path or "_in." in path) + 0.3 * torch.randn(parameter.shape, generator=source))
    return decoder


def forwards(decoder, together, kernels=None, kept=torch.float32):
    """hidden states of two chunks of two texts, by kernels and by torch over the same store."""
    from ramify.engine.device import DeviceAttention

    config, found = decoder.config, []
    store = KVStore(2, 8, 8, 2, 12, kept, together=together)
    windows = config.distinct_windows
    for starts, count in (([0, 0], 5), ([5, 5], 1)):
        rows = Rows(torch.tensor([0, 1, 2, 3]).numpy(), *(torch.tensor(x).numpy() for x in (
            [2, 4], starts, [count, count], starts, [0, 0], [], [])))
        positions = [start + at for start in starts for at in range(count)]
        slots = [16 * (at // count) + position for at, position in enumerate(positions)]
        step = HostStep([3 * at % 40 for at in range(2 * count)], positions, slots,
                        rows._replace(depths_D=rows.depths_D.astype(int), sees_S=rows.sees_S.astype("uint8")),
                        windows, 4, 2, 8)
        sent = unpacked(torch.from_numpy(step.packed(step.sizes)), step.sizes, windows)
        plain = decoder(sent.ids_T, sent.positions_T, DeviceAttention(config, store, sent))
        kept = store.kv.clone()
        store.kv.zero_() if not starts[0] else None
        pages = DevicePages(sent, store.kv, 8, together)
        fused = (kernels or DeviceForward(decoder))(sent.ids_T, sent.positions_T, pages)
        found.append(((plain, kept), (fused, store.kv.clone())))
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_a_forward_by_kernels_is_the_decoders(name):
    for (plain, kept), (fused, written) in forwards(model(name), 8 if name == "llama" else 1):
        torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(written, kept, atol=1e-5, rtol=1e-4)


def in_bytes(decoder, kernels=None):
    """Where one number of a key lies between two bytes, either may be written."""
    for (plain, kept), (fused, written) in forwards(decoder, 1, kernels, torch.int8):
        torch.testing.assert_close(fused, plain, atol=5e-3, rtol=1e-3)
        assert (kept != written).float().mean() < 0.01


def test_a_forward_over_bytes_is_the_decoders():
    in_bytes(model("qwen3"))


def test_bytes_that_are_not_turned_are_caught():
    decoder = model("llama")
    decoder.inv_freq = 0 * decoder.inv_freq
    with pytest.raises(AssertionError):
        in_bytes(model("llama"), DeviceForward(decoder))


def test_a_forward_that_turns_the_wrong_way_is_caught():
    decoder = model("llama")
    decoder.inv_freq = 1.1 * decoder.inv_freq
    with pytest.raises(AssertionError):
        for (plain, _), (fused, _) in forwards(model("llama"), 1, DeviceForward(decoder)):
            torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-4)


# Which executors there are on a GPU --------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted, got", [("auto", "compiled"), ("torch", "torch"), ("compiled", "compiled"),
                                         ("int8", "int8"), ("int8-weights", "int8-weights")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_executors_of_a_gpu(wanted, got, dtype):
    table = SimpleNamespace(device=torch.device("cuda"), dtype=dtype)
    assert executors._chosen(parse_config(LLAMA), table, False, wanted) == got
    packers = executors._packers(got, False)
    assert (packers and packers.projections) == {"int8": Bytes, "int8-weights": ByteWeights}.get(got)


def test_executors_that_a_gpu_does_not_have():
    table = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    with pytest.raises(OptionError, match="int4"):
        executors._chosen(parse_config(LLAMA), table, False, "int4-weights")
    double = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float64)
    assert executors._chosen(parse_config(LLAMA), double, False, "auto") == "torch"
    with pytest.raises(OptionError, match="float64"):
        executors._chosen(parse_config(LLAMA), double, False, "int8")
    layer_norms = parse_config({"model_type": "gpt2", "vocab_size": 40, "n_embd": 32, "n_layer": 1, "n_head": 2,
                                "n_positions": 16})
    assert executors._chosen(layer_norms, table, False, "auto") == "torch"
    with pytest.raises(OptionError, match="kernels"):
        executors._chosen(layer_norms, table, False, "compiled")


@pytest.mark.parametrize("packer", [Bytes, ByteWeights])
def test_a_tied_table_in_bytes_is_looked_up_and_multiplied(packer):
    decoder, plain = (model("llama") for _ in range(2))
    weights = dict(decoder.named_parameters())
    decoder.config = plain.config = replace(plain.config, tie_embeddings=True)
    decoder.fill({name: weight.detach() for name, weight in weights.items()}, Packers(packer, packer))
    ids, x = torch.tensor([3, 17], dtype=torch.int32), torch.randn(2, 32)
    codes, scales = quantise(plain.embed.weight)
    torch.testing.assert_close(decoder.embed(ids), (codes * scales)[ids.long()])
    wanted = ByteProduct(plain.embed.weight, None, 1)(x) if packer is Bytes else x @ (codes * scales).T
    torch.testing.assert_close(decoder.embed.product(x), wanted, atol=1e-4, rtol=1e-4)
