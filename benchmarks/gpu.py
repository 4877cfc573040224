"""One script for a GPU: does everything run and agree there, and how near does it come to what the memory allows?

    python benchmarks/gpu.py            on a machine with an NVIDIA GPU: checks, then times; some minutes
    python benchmarks/gpu.py --tiny     anywhere, in Triton's interpreter, with tiny shapes: only that it runs

Times need CUDA: those of `--tiny` mean nothing and are kept nowhere. Checks: Triton's attention against plain torch on
the device; texts on the device against texts on the CPU; the tests marked `gpu`. Times: a copy (the bandwidth that all
others are compared with); decoding of 64 rows with a random model of 1B shape, alone and through the whole engine, with
weights and a cache in 16 bits and in bytes, beside transformers' `generate` where that is installed; attention of 64
rows that share their first 4,096 positions, with the plan that reads those once and with the one that does not, through
all layers, so that no cache of the GPU holds what is read. Bytes are what has to be read once: weights, and the keys
and values that are seen. Times are medians; on CUDA those of a copy and of recorded kernels are by events, and those of
the engine by the clock.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

if "--tiny" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton decides when it is imported

import torch
from attention_kernels import random_weights, rows_of_search
from common import RESULTS, command, in_words, keep, machine

import ramify
from ramify.cache import BlockPool, KVStore, bytes_per_token
from ramify.engine import Engine
from ramify.engine.batch import Row, Tree
from ramify.engine.device import DeviceReader, Recording, attention_of, host_step, recorder
from ramify.engine.padded import PaddedAttention
from ramify.engine.runner import kv_bytes
from ramify.exact.tabular import Letters
from ramify.models import Model
from ramify.models.config import ModelConfig, parse_config
from ramify.models.decoder import Decoder
from ramify.models.executors import assemble
from ramify.models.kernels.cuda import attention, plan
from ramify.models.kernels.cuda.forward import DeviceForward
from ramify.models.kernels.cuda.linear import Bytes, ByteWeights
from ramify.models.linear import Packers
from ramify.search import sample
from ramify.types import SamplingParams

TINY = "--tiny" in sys.argv
DEVICE = "cpu" if TINY else "cuda"
HALF = "float32" if TINY else "bfloat16"
BLOCK = 16
BYTES = torch.int8  # a cache with a scale per token and head
LLAMA = {"model_type": "llama", "tie_word_embeddings": True, "max_position_embeddings": 8192, "rope_theta": 5e5}
SHAPE = LLAMA | ({"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48} if TINY else
                 {"vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
                  "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192})  # fmt: skip
ROWS, PROMPT, NEW, SHARED = (4, 8, 2, 64) if TINY else (64, 128, 128, 4096)
QUESTION = "Tom has 3 bags with 6 apples each. He eats 2 apples. How many apples does Tom have now?"


class Numbers(Letters):
    """A tokenizer that reads letters, and writes any token as its number."""

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def again(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
    """What stands in for a CUDA graph where there is none."""
    hidden_TD = run()
    return lambda: hidden_TD.copy_(run()), hidden_TD


def on_device(engine: Engine) -> Engine:
    """An engine whose target reads by Triton, also where nothing but the interpreter can."""
    runner = engine.loop.target
    if TINY:
        runner.read = DeviceReader(runner.model.decoder, runner.store, again)
    return engine


def seconds(run: Callable[[], object], repeats: int = 20) -> float:
    """The median time of something on the device."""
    times = []
    for turn in range(3 if TINY else repeats + 3):
        if TINY:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
            continue
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        if turn >= 3:
            times.append(start.elapsed_time(end) / 1000)
    return median(times)


# Checks ------------------------------------------------------------------------------------------------------------


def mixed_rows(pool: BlockPool) -> list[Row]:
    """Rows of every kind: candidates that share a beginning, a chunk, a chain of drafts, and a tree."""
    rows = rows_of_search(pool, 40, 5, 20)
    for at, count in ((0, 30), (1, 4), (2, 4)):
        context = rows[at].context
        start = context.table.length
        slots, _ = context.table.append(count)
        tree = Tree(start, [0, 1, 1, 2], [[0], [0, 1], [0, 2], [0, 1, 3]]) if at == 2 else None
        rows[at] = Row(context, [1] * count, start, slots, tree)
    return rows


def check_attention() -> dict[str, float]:
    """The largest difference between Triton and plain torch, by type, over windows."""
    found = {}
    for dtype in (torch.float32,) if TINY else (torch.float32, torch.float16, torch.bfloat16):
        for kept in (dtype, BYTES):
            worst = 0.0
            for extra in ({}, {"model_type": "mistral", "sliding_window": 24}):
                config, pool = parse_config(SHAPE | extra), BlockPool(64, BLOCK)
                store = KVStore(2, 64, BLOCK, config.num_kv_heads, config.head_dim, kept, DEVICE)
                fill(store)
                rows = mixed_rows(pool)
                tokens = sum(len(row.ids) for row in rows)
                q, k, v = (torch.randn(tokens, heads, config.head_dim, device=DEVICE).to(dtype)
                           for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads))
                fast, plain = attention_of(config, store, rows, dtype), PaddedAttention(config, store, rows)
                worst = max(worst, (fast(1, q, k, v).float() - plain(1, q, k, v).float()).abs().max().item())
            found[name_of(dtype, kept)] = worst
    return found


def fill(store: KVStore) -> None:
    """Noise in every slot."""
    blocks, layers, _, heads, width = store.kv.shape
    slots, head_dim = torch.arange(blocks * BLOCK), width // BLOCK - (4 if store.kv.dtype == BYTES else 0)
    for layer in range(layers):
        store.write(layer, slots, *torch.randn(2, len(slots), heads, head_dim, device=DEVICE))


def name_of(dtype: torch.dtype, kept: torch.dtype | None) -> str:
    """A type of numbers, and that of the cache where it is another one."""
    return in_short(dtype) + ("" if kept in (None, dtype) else ", cache in bytes")


def in_short(dtype: torch.dtype) -> str:
    """Its name without the package's."""
    return str(dtype).removeprefix("torch.")


def check_texts() -> dict[str, float]:
    """The share of tokens that are the same on the device and on the CPU, greedy and sampled, on mini-math."""
    found, length = {}, 2 if TINY else 64
    for kind, options, kept in (("greedy", {"temperature": 0.0}, None), ("sampled", {"temperature": 1.0}, None),
                                ("greedy, cache in bytes", {"temperature": 0.0}, "int8")):
        texts = []
        for device in ("cpu", DEVICE):
            llm = ramify.load("mini-math", reward=None, device=device, executor="torch", capacity=4096, kv_dtype=kept)
            if device == DEVICE and len(texts):
                on_device(llm.engine)
            result = llm.generate(QUESTION, method=sample, n=1 if TINY else 16, max_tokens=length, **options)
            texts.append([row.token_ids for row in result.candidates])
        pairs = [(a, b) for one, other in zip(*texts, strict=True) for a, b in zip(one, other, strict=False)]
        found[kind] = sum(a == b for a, b in pairs) / len(pairs)
    return found


def check_tests(everything: bool) -> dict[str, str]:
    """The last line of the tests marked `gpu`, and of the whole suite if it is wanted."""
    found = {}
    root = Path(__file__).parents[1]
    for name, marked in (("gpu", "gpu"), *((("suite", "not slow"),) if everything else ())):
        run = [sys.executable, "-m", "pytest", "-q", "-m", marked, "-p", "no:cacheprovider", "tests"]
        # All other tests of Triton are for its interpreter.
        env = os.environ | ({"RAMIFY_TEST_GPU": "1"} if marked == "gpu" else {})
        done = subprocess.run(run, cwd=root, env=env, capture_output=True, text=True)
        found[name] = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    return found


# Times -------------------------------------------------------------------------------------------------------------


def copy_bandwidth() -> float:
    """Bytes per second that a large copy reads and writes."""
    source = torch.empty(1 << (16 if TINY else 30), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source))


def random_model(executor: str) -> Model:
    """A model with random weights on the device, and a tokenizer of a few letters."""
    config = parse_config(SHAPE)
    with torch.device("meta"):
        decoder = Decoder(config)
    weights = random_weights(decoder, getattr(torch, HALF), DEVICE)
    assert decoder.inv_freq is not None
    decoder.inv_freq = decoder.inv_freq.to(DEVICE)
    if TINY:  # what `assemble` does where there is a GPU
        packer = {"int8": Bytes, "int8-weights": ByteWeights}.get(executor)
        decoder.fill(weights, packer and Packers(packer, packer))
        decoder.fused = None if executor == "torch" else DeviceForward(decoder)
    else:
        assemble(decoder, weights, executor)
    return Model(f"1b-{executor}", decoder, Numbers(config.vocab_size), None, Path(), device=DEVICE)


def decode(executor: str, kept: torch.dtype | None, bandwidth: float) -> Iterator[dict[str, Any]]:
    """Steady decoding of all rows: a replayed forward, a step of the runner, and a whole request."""
    model = random_model(executor)
    engine = on_device(Engine(model, capacity=2 * ROWS * (PROMPT + NEW), kv_dtype=kept))
    name = executor + ("" if kept is None else ", cache in bytes")
    runner = engine.loop.target
    root = runner.open([1] * PROMPT)
    with torch.inference_mode():
        runner.forward([(root, [1] * PROMPT, None)])
        contexts = [root.fork() for _ in range(ROWS)]

        def step() -> None:
            model.decoder.logits(runner.forward([(context, [1], None) for context in contexts])).argmax(-1).tolist()

        for _ in range(5):
            step()
        recording: Recording = list(runner.read.recordings.values())[-1]  # type: ignore[attr-defined]
        replayed = seconds(recording.replay)
        times = []
        for _ in range(2 if TINY else 20):
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
    for context in (root, *contexts):
        context.free()
    kv = kv_bytes(model, kept) * (PROMPT + ROWS * 20)
    layers = model.decoder.nbytes_read - model.decoder.embed.nbytes  # logits are not part of the recording
    yield line(f"{name}: replayed forward", replayed, layers + kv, bandwidth)
    yield line(f"{name}: step of the runner, with planning and logits", median(times),
               model.decoder.nbytes_read + kv, bandwidth)
    params = SamplingParams(max_tokens=NEW, ignore_eos=True)
    spent = []
    for seed in range(1 if TINY else 3):
        began = time.perf_counter()
        engine.result("a" * PROMPT, lambda prompt: sample(prompt, n=ROWS), params, seed=seed)
        spent.append((time.perf_counter() - began) / NEW)
    yield line(f"{name}: engine, sampled, per token of {ROWS} rows", median(spent),
               model.decoder.nbytes_read + kv, bandwidth)


def transformers_step(bandwidth: float) -> Iterator[dict[str, Any]]:
    """`generate` of the same shape, per token of all rows; nothing where transformers is not installed."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return
    config = LlamaConfig(**{name: value for name, value in SHAPE.items() if name != "model_type"})
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = LlamaForCausalLM(config).to(getattr(torch, HALF)).eval()
    ids = torch.ones(ROWS, PROMPT, dtype=torch.long, device=DEVICE)
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, min_new_tokens=NEW,
                       do_sample=True, pad_token_id=0)
        if not TINY:
            torch.cuda.synchronize()
        spent.append((time.perf_counter() - began) / NEW)
    size = sum(parameter.nbytes for parameter in model.parameters())
    yield line(f"transformers generate, per token of {ROWS} rows", median(spent), size, bandwidth)


def shared_attention(kept: torch.dtype | None, bandwidth: float) -> Iterator[dict[str, Any]]:
    """Attention of all layers over one beginning and one own block per row: read once, and by every row."""
    config: ModelConfig = parse_config(SHAPE)
    layers, per_row, own, dtype = config.num_layers, SHARED // BLOCK, 2, getattr(torch, HALF)
    q = torch.randn(ROWS, config.num_heads, config.head_dim, device=DEVICE, dtype=dtype)
    for name, shared in (("once", True), ("by every row", False)):
        pool = BlockPool((per_row if shared else ROWS * per_row) + ROWS * (own + 1) + 1, BLOCK)
        store = KVStore(layers, pool.num_blocks, BLOCK, config.num_kv_heads, config.head_dim, kept or dtype, DEVICE)
        rows = rows_of_search(pool, SHARED, ROWS, 16) if shared else [
            row for _ in range(ROWS) for row in rows_of_search(pool, SHARED, 1, 16)]
        host = host_step(config, BLOCK, rows, dtype)
        step = plan.unpacked(torch.from_numpy(host.packed(host.sizes)).to(DEVICE), host.sizes, [0])

        def run(store: KVStore = store, step: plan.DeviceStep = step) -> torch.Tensor:
            return [attention.attend(q, store.kv[:, layer], step.plans[0], step.tables_N, config.attention_scale, 0.0,
                                     BLOCK, store.group) for layer in range(layers)][-1]

        run()  # compiled before it is recorded: launching takes the host longer than the GPU takes
        replay, _ = again(run) if TINY else recorder(store.kv.device)(run)
        seen = (1 if shared else ROWS) * SHARED + ROWS * 17
        per_token = bytes_per_token(layers, config.num_kv_heads, config.head_dim, in_short(kept or dtype))
        what = f"attention, {layers} layers, {ROWS} rows, {in_short(kept or dtype)}, {SHARED} shared positions"
        yield line(f"{what} read {name}", seconds(replay), seen * per_token, bandwidth)


def line(name: str, spent: float, size: float, bandwidth: float) -> dict[str, Any]:
    """One row of the report."""
    return {"name": name, "seconds": spent, "bytes": size, "share": size / spent / bandwidth}


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = ["# On a GPU", "", f"`{report['command']}`", "", report["gpu"] + "; " + in_words(report["machine"]), ""]
    lines += [f"- {name}: {value}" for part in report["checks"].values() for name, value in part.items()]
    lines += ["", f"A copy moves {report['copy_bandwidth'] / 1e9:,.0f} GB/s.", "",
              "| what | ms | MB | GB/s | of a copy |", "|---|---|---|---|---|"]
    lines += [f"| {row['name']} | {1000 * row['seconds']:.3f} | {row['bytes'] / 1e6:.1f} "
              f"| {row['bytes'] / row['seconds'] / 1e9:.0f} | {row['share']:.2f} |" for row in report["times"]]
    by_name = {row["name"]: row["seconds"] for row in report["times"]}
    shared = [[spent for name, spent in by_name.items() if name.endswith(end)]
              for end in ("read once", "read by every row")]
    theirs = next((spent for name, spent in by_name.items() if name.startswith("transformers")), None)
    ours = next((spent for name, spent in by_name.items() if name.startswith("compiled: engine")), None)
    ratios = " and ".join(f"{every / once:.1f}" for once, every in zip(*shared, strict=True))
    if ratios:
        lines += ["", f"Attention that reads shared positions once is {ratios} (cache in bytes) times as fast."]
    if theirs and ours:
        lines += ["", f"The engine decodes {theirs / ours:.1f} times as fast as transformers' generate."]
    return "\n".join(lines) + "\n"


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say what is going on, and how long it took."""
    began = time.perf_counter()
    print(f"{what} ...", file=sys.stderr, end=" ", flush=True)
    yield
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="on the CPU, in Triton's interpreter, with tiny shapes")
    parser.add_argument("--suite", action="store_true", help="run the whole test suite, too")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gpu.json and gpu.md")
    options = parser.parse_args()
    if not TINY and not torch.cuda.is_available():
        parser.error("needed an NVIDIA GPU; got none that torch can use; run with --tiny to see that the script works")
    report: dict[str, Any] = {"command": command(), "machine": machine(), "checks": {}, "times": [],
                              "gpu": "no GPU" if TINY else torch.cuda.get_device_name()}
    with told("attention"):
        report["checks"]["attention"] = {f"attention, largest difference in {name}": worst
                                         for name, worst in check_attention().items()}
    with told("texts"):
        report["checks"]["texts"] = {f"tokens as on the CPU, {name}": share for name, share in check_texts().items()}
    if not TINY:
        with told("tests"):
            report["checks"]["tests"] = check_tests(options.suite)
    with told("a copy"):
        bandwidth = report["copy_bandwidth"] = copy_bandwidth()
    for executor, kept in (("torch", None), ("compiled", None), ("compiled", BYTES), ("int8-weights", None),
                           ("int8", None), ("int8", BYTES)):
        with told(f"decoding, {executor}{', cache in bytes' if kept else ''}"):
            report["times"] += decode(executor, kept, bandwidth)
    with told("transformers"):
        report["times"] += transformers_step(bandwidth)
    for kept in (None, BYTES):
        with told(f"shared attention{', cache in bytes' if kept else ''}"):
            report["times"] += shared_attention(kept, bandwidth)
    with tempfile.TemporaryDirectory() as scratch:
        keep("gpu", report, table(report), Path(scratch) if TINY else options.out)


if __name__ == "__main__":
    main()
