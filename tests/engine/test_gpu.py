"""On an NVIDIA GPU: RAMIFY_TEST_GPU=1 pytest -m gpu. What the interpreter shows elsewhere, for real."""

import os
from dataclasses import replace

import pytest
import torch
from test_paged_attention import CONFIG, WINDOWED, Texts

import ramify
from ramify.cache import KVStore
from ramify.engine.batch import flatten
from ramify.engine.device import DeviceReader, attention_of
from ramify.engine.padded import PaddedAttention
from ramify.search import best_of_n, sample

READY = "RAMIFY_TEST_GPU" in os.environ and torch.cuda.is_available()
pytestmark = [pytest.mark.gpu,
              pytest.mark.skipif(not READY, reason="set RAMIFY_TEST_GPU=1 on a machine with an NVIDIA GPU")]
QUESTION = "Tom has 3 bags with 6 apples each. He eats 2 apples. How many are left?"


@pytest.mark.parametrize("config, cap", [(CONFIG, None), (WINDOWED, None), (CONFIG, 2.0)],
                         ids=["full", "window", "cap"])
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-4), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize("kept", [None, torch.int8], ids=str)
def test_kernels_read_what_torch_reads(config, cap, dtype, close, kept):
    texts = Texts(config)
    texts.config = replace(texts.config, attention_softcap=cap)
    rows = texts.mixed()
    ours, plain = (KVStore(2, 200, 16, 2, 16, kept or dtype, "cuda") for _ in range(2))
    slots = torch.arange(200 * 16)
    for layer in range(2):
        ours.write(layer, slots, *torch.randn(2, len(slots), 2, 16, device="cuda", dtype=dtype))
    plain.kv.copy_(ours.kv)
    q, k, v = (torch.randn(len(flatten(rows)[0]), heads, 16, device="cuda", dtype=dtype) for heads in (4, 2, 2))
    for layer in range(2):
        found = attention_of(texts.config, ours, rows, dtype)(layer, q, k, v)
        wanted = PaddedAttention(texts.config, plain, rows)(layer, q, k, v)
        torch.testing.assert_close(found, wanted, atol=close, rtol=close)
    assert torch.equal(ours.kv, plain.kv)


@pytest.mark.parametrize("executor, kept", [("torch", None), ("compiled", None), ("torch", "int8"),
                                            ("compiled", "int8")])
@pytest.mark.parametrize("method, options", [
    (sample, {"n": 16, "temperature": 0}), (sample, {"n": 16}), (best_of_n, {"n": 8})], ids=["greedy", "n", "judged"])
def test_texts_are_those_of_the_cpu(executor, kept, method, options):
    found = []
    for device in ("cuda", "cpu"):
        llm = ramify.load("mini-math", device=device, executor=executor if device == "cuda" else "torch", kv_dtype=kept)
        result = llm.generate([QUESTION] * 3, method=method, max_tokens=48, **options)
        found.append([row.token_ids for each in result for row in each.candidates])
        if device == "cuda":
            reader = llm.engine.loop.target.read
            assert isinstance(reader, DeviceReader) and reader.recordings
    same = [a == b for one, other in zip(*found, strict=True) for a, b in zip(one, other, strict=False)]
    assert sum(same) / len(same) > 0.97  # a text that rounding turns goes on differently


@pytest.mark.parametrize("draft", ["mini-math-draft", "suffix"])
def test_drafts_on_the_gpu_change_no_text(draft):
    plain, drafted = (ramify.load("mini-math", device="cuda", reward=None, draft=each) for each in (None, draft))
    found = [llm.generate(QUESTION, method=sample, n=8, max_tokens=48, **options).candidates
             for llm, options in ((plain, {}), (drafted, {"verifier": "coupled"}))]
    same = [a.token_ids == b.token_ids for a, b in zip(*found, strict=True)]
    assert sum(same) >= 6


@pytest.mark.parametrize("executor", ["int8", "int8-weights"])
def test_bytes_on_the_gpu_are_bytes_on_the_cpu(executor):
    found = [ramify.load("mini-math", device=device, reward=None, executor=executor).generate(
        QUESTION, method=sample, n=1, temperature=0, max_tokens=24).text for device in ("cuda", "cpu")]
    assert found[0][:24] == found[1][:24]


@pytest.mark.parametrize("kept", [None, "int8"])
def test_a_model_in_halves_on_the_last_gpu(kept):
    """The current one stays the first."""
    device = f"cuda:{torch.cuda.device_count() - 1}"
    llm = ramify.load("mini-math", device=device, dtype="bfloat16", reward=None, kv_dtype=kept)
    result = llm.generate(QUESTION, method=sample, n=8, max_tokens=48, ignore_eos=True)
    reader = llm.engine.loop.target.read
    assert isinstance(reader, DeviceReader) and reader.recordings and str(reader.store.kv.device) == device
    assert torch.cuda.current_device() == 0 and all(row.tokens == 48 for row in result.candidates)
