"""All layers in one call of compiled code equal the decoder in torch, and transformers, on ragged paged batches."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from helpers_hf import random_tokens, save_reference

from ramify.cache import BlockPool, BlockTable, KVStore
from ramify.engine.batch import Row
from ramify.engine.padded import PaddedAttention
from ramify.engine.paged import PagedAttention
from ramify.errors import OptionError
from ramify.models import DenseAttention, load_model
from ramify.models.kernels import fused, patience
from ramify.models.kernels.fused import covered
from ramify.models.kernels.products import BYTES

TOLERANCE = 1e-4
KINDS = ["llama", "llama-tied-bias", "llama3", "mistral", "qwen2", "qwen2-window", "qwen3", "smollm3", "phi3",
         "phi3-partial"]
ELSEWHERE = ["llama-wide-heads", "olmo2", "gemma2", "gpt2"]  # heads of 24, norms and activations without kernels
LENGTHS = [23, 1, 40, 16]


@dataclass
class Paged:
    """Texts that are read bit by bit, all of them in every step, over one paged cache."""

    decoder: object
    texts: list
    dtype: torch.dtype = torch.float32
    attention: type = PagedAttention

    def __post_init__(self):
        config = self.decoder.config
        pool = BlockPool(64, 16)
        self.store = KVStore(config.num_layers, 64, 16, config.num_kv_heads, config.head_dim, self.dtype)
        self.contexts = [SimpleNamespace(table=BlockTable(pool)) for _ in self.texts]
        self.hidden = [[] for _ in self.texts]

    def step(self, counts):
        """Read the next `counts` tokens of every text."""
        rows, ids, positions = [], [], []
        for context, text, count in zip(self.contexts, self.texts, counts, strict=True):
            start = context.table.length
            count = min(count, len(text) - start)
            if count:
                slots, _ = context.table.append(count)
                rows.append(Row(context, text[start : start + count].tolist(), start, slots))
                ids.append(text[start : start + count])
                positions.append(torch.arange(start, start + count))
        attend = self.attention(self.decoder.config, self.store, rows)
        hidden = self.decoder(torch.cat(ids), torch.cat(positions), attend)
        for row, part in zip(rows, hidden.split([len(row.ids) for row in rows]), strict=True):
            self.hidden[self.contexts.index(row.context)].append(part)

    def logits(self, *steps):
        """Of all tokens of all texts, read in steps of these sizes and then to their ends."""
        with torch.inference_mode():
            for counts in (*steps, LENGTHS):
                self.step(counts)
            return self.decoder.logits(torch.cat([torch.cat(parts) for parts in self.hidden]))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """variant -> (folder, transformers' model)"""
    built = {}

    def build(variant):
        if variant not in built:
            folder = tmp_path_factory.mktemp(variant)
            built[variant] = folder, save_reference(variant, folder)
        return built[variant]

    return build


def texts():
    return [random_tokens(length, seed=length) for length in LENGTHS]


def dense(decoder):
    """Logits of the texts by the decoder in torch, operator by operator."""
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    with torch.inference_mode():
        hidden = decoder(torch.cat(texts()), positions, DenseAttention(decoder.config, LENGTHS))
        return decoder.logits(hidden)


@pytest.fixture(params=[1, 2], ids=["alone", "together"])
def threads(request, monkeypatch):
    monkeypatch.setattr("ramify.models.kernels.fused.ALONE", 0)  # or one thread would do all of these
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("variant", KINDS)
def test_one_call_equals_torch_and_transformers(variant, folders, threads):
    folder, model = folders(variant)
    decoder = load_model(folder, executor="compiled").decoder
    assert decoder.fused is not None
    logits = Paged(decoder, texts()).logits([9, 1, 16, 5], [1, 1, 1, 1])
    with torch.inference_mode():
        expected = torch.cat([model(text[None], use_cache=False).logits[0] for text in texts()])
    assert expected.abs().max() > 0.5
    assert (logits - expected).abs().max() <= TOLERANCE
    assert (logits - dense(load_model(folder, executor="torch").decoder)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("variant", ["llama", "qwen3"])
def test_the_comparison_sees_a_wrong_detail(variant, folders):
    folder, _ = folders(variant)
    decoder = load_model(folder, executor="compiled").decoder
    decoder.fused.weights = decoder.fused.weights._replace(eps=0.01)
    wrong = Paged(decoder, texts()).logits()
    assert (wrong - dense(load_model(folder, executor="torch").decoder)).abs().max() > TOLERANCE


def test_packed_projections_work_without_pages(folders):
    folder, _ = folders("llama-tied-bias")
    compiled, plain = (load_model(folder, executor=name).decoder for name in ("compiled", "torch"))
    assert (dense(compiled) - dense(plain)).abs().max() <= TOLERANCE


@pytest.mark.skipif(not BYTES, reason="this processor has no sums of byte products")
@pytest.mark.parametrize("variant", KINDS)
def test_bytes_equal_their_simulation(variant, folders, threads, monkeypatch):
    """Up to inputs that fall on the other side of a rounding: the bytes themselves are compared in test_packed."""
    folder, _ = folders(variant)
    decoder = load_model(folder, executor="int8").decoder
    monkeypatch.setattr("ramify.models.kernels.products.BYTES", False)
    simulation = load_model(folder, executor="int8").decoder
    assert decoder.fused is not None
    assert simulation.fused is None
    logits, expected = Paged(decoder, texts()).logits([9, 1, 16, 5]), dense(simulation)
    exact = dense(load_model(folder, executor="torch").decoder)
    assert (logits - expected).abs().mean() <= 0.1 * (logits - exact).abs().mean()
    assert (logits - exact).abs().mean() <= 0.05 * exact.abs().max()


@pytest.mark.parametrize("executor", ["int8-weights", "int4-weights"])
@pytest.mark.parametrize("variant", ["llama-tied-bias", "qwen3"])
def test_rounded_weights_run_alike_in_one_call(variant, executor, folders, threads):
    folder, _ = folders(variant)
    decoder = load_model(folder, executor=executor).decoder
    assert (Paged(decoder, texts()).logits([9, 1, 16, 5]) - dense(decoder)).abs().max() <= TOLERANCE
    exact = dense(load_model(folder, executor="torch").decoder)
    assert (dense(decoder) - exact).abs().max() > TOLERANCE, "rounding must show"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("variant", ["llama-tied-bias", "qwen2-window"])
def test_rounded_caches_are_read_alike_in_one_call(variant, dtype, folders, threads):
    """Up to numbers that fall on the other side of a rounding."""
    folder, _ = folders(variant)
    decoder, plain = (load_model(folder, executor=name).decoder for name in ("compiled", "torch"))
    steps, exact = ([9, 1, 16, 5], [1, 1, 1, 1]), dense(plain)
    logits, expected = (Paged(one, texts(), dtype, kind).logits(*steps)
                        for one, kind in ((decoder, PagedAttention), (plain, PaddedAttention)))
    assert (logits - expected).abs().mean() <= 0.1 * (logits - exact).abs().mean()
    assert 0 < (logits - exact).abs().mean() <= 0.05 * exact.abs().max()


def test_who_waits_for_code_for_another_cache_is_told(folders, monkeypatch):
    seen, ready = [], fused.ready
    monkeypatch.setattr(fused, "ready", lambda *args: seen.append(patience._waiting) or ready(*args))
    folder, _ = folders("llama")
    paged = Paged(load_model(folder, executor="compiled").decoder, texts(), torch.int8)
    seen.clear()
    paged.logits([9, 1, 16, 5])
    assert seen == [True] and not patience._waiting


@pytest.mark.parametrize("variant", ELSEWHERE)
def test_other_models_run_in_torch(variant, folders):
    folder, _ = folders(variant)
    decoder = load_model(folder, executor="auto").decoder
    assert not covered(decoder.config)
    assert decoder.executor == "torch"
    assert decoder.fused is None


def test_unknown_executors_are_refused(folders):
    folder, _ = folders("llama")
    with pytest.raises(OptionError, match="auto, torch, compiled, int8, int8-weights, int4-weights"):
        load_model(folder, executor="fast")


@pytest.mark.parametrize("executor", ["compiled", "int8"])
def test_executors_need_their_dtype(executor, folders):
    folder, _ = folders("llama")
    with pytest.raises(OptionError, match="executor=torch"):
        load_model(folder, executor=executor, dtype="float64")


def test_a_model_without_kernels_is_refused_by_name(folders):
    folder, _ = folders("gpt2")
    with pytest.raises(OptionError, match="gpt2"):
        load_model(folder, executor="compiled")
