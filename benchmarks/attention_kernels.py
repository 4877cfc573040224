"""Attention of one step by kernels against plain torch, alone and inside a whole forward, by turns.

A prompt of P tokens is shared by n candidates, each with `--own` tokens of its own and one new: the usual step of a
search. Attention alone is planning or grouping, writing new keys and values, and all layers; a step is the forward of
a decoder with random weights. Operations are 4 per pair of a query and a key and number of a head; bytes are what has
to be read once: the prompt's keys and values, and everybody's own. Ratios are of medians.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import RESULTS, command, in_words, keep, machine

from ramify.cache import DTYPES, BlockPool, BlockTable, KVStore
from ramify.engine.batch import Row, flatten
from ramify.engine.padded import PaddedAttention
from ramify.engine.paged import PagedAttention
from ramify.engine.sequence import Context
from ramify.models.config import ModelConfig, parse_config
from ramify.models.decoder import Decoder
from ramify.models.executors import assemble

BLOCK = 16
SHAPES: dict[str, dict[str, Any]] = {
    "mini": {"vocab_size": 681, "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8,
             "num_key_value_heads": 4, "head_dim": 32, "intermediate_size": 640},
    "135m": {"vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "head_dim": 64, "intermediate_size": 1536},
}  # fmt: skip
SIDES = {"torch": PaddedAttention, "kernels": PagedAttention}
ROUNDED = ("bfloat16", "int8")  # stores that kernels read beside float32


def rows_of_search(pool: BlockPool, prompt: int, count: int, own: int) -> list[Row]:
    """Candidates that begin with one prompt, and go on by one token each."""
    root = BlockTable(pool)
    root.append(prompt)
    rows = []
    for _ in range(count):
        table = root.fork()
        table.append(own)
        start = table.length
        slots, _ = table.append(1)
        rows.append(Row(Context(None, table, []), [1], start, slots))  # type: ignore[arg-type]
    return rows


def seconds(work: dict[str, Any], repeats: int) -> dict[str, list[float]]:
    """Times of each side, by turns, after one turn that is not counted."""
    times: dict[str, list[float]] = {side: [] for side in work}
    for turn in range(repeats + 1):
        for side, run in work.items():
            began = time.perf_counter()
            run()
            if turn:
                times[side].append(time.perf_counter() - began)
    return times


def store_of(config: ModelConfig, blocks: int, dtype: str) -> KVStore:
    """A store full of noise."""
    heads, width, slots_T = config.num_kv_heads, config.head_dim, torch.arange(blocks * BLOCK)
    store = KVStore(config.num_layers, blocks, BLOCK, heads, width, DTYPES[dtype])
    for layer in range(config.num_layers):
        store.write(layer, slots_T, *torch.randn(2, len(slots_T), heads, width))
    return store


def alone(config: ModelConfig, stores: dict[str, KVStore], rows: list[Row], repeats: int) -> dict[str, list[float]]:
    """All layers of attention, without the rest of a forward."""
    heads, shared, width = config.num_heads, config.num_kv_heads, config.head_dim
    q, k, v = (torch.randn(len(rows), count, width) for count in (heads, shared, shared))

    def run(kind: Any, store: KVStore) -> None:
        attend = kind(config, store, rows)
        for layer in range(config.num_layers):
            attend(layer, q, k, v)

    work = {side: lambda kind=kind: run(kind, stores["float32"]) for side, kind in SIDES.items()}
    work |= {dtype: lambda dtype=dtype: run(PagedAttention, stores[dtype]) for dtype in ROUNDED}
    return seconds(work, repeats)


def random_decoder(config: ModelConfig, executor: str) -> Decoder:
    """A decoder with random weights, laid out for an executor."""
    with torch.device("meta"):
        decoder = Decoder(config)
    assemble(decoder, random_weights(decoder), executor)
    return decoder


def random_weights(decoder: Decoder, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Any]:
    """Small random numbers for every parameter of a decoder."""
    torch.manual_seed(0)
    return {name: torch.empty(parameter.shape, dtype=dtype, device=device).normal_(0, 0.02)
            for name, parameter in decoder.named_parameters()}


def steps(config: ModelConfig, decoders: dict[str, Decoder], store: KVStore, rows: list[Row],
          repeats: int) -> dict[str, list[float]]:
    """Whole forwards: torch with either attention, and all layers in one call of compiled code."""
    ids_T, positions_T = flatten(rows)
    work = {side: lambda kind=kind: decoders["torch"](ids_T, positions_T, kind(config, store, rows))
            for side, kind in SIDES.items()}
    work["compiled"] = lambda: decoders["compiled"](ids_T, positions_T, PagedAttention(config, store, rows))
    with torch.inference_mode():
        return seconds(work, repeats)


def measure(shape: str, cases: list[tuple[int, int]], own: int, repeats: int, whole: bool) -> list[dict[str, Any]]:
    """One row of results per case."""
    config = parse_config({"model_type": "llama", "max_position_embeddings": 4096, "tie_word_embeddings": True}
                          | SHAPES[shape])
    decoders = {executor: random_decoder(config, executor) for executor in ("torch", "compiled")} if whole else {}
    found = []
    for prompt, count in cases:
        pool = BlockPool(prompt // BLOCK + count * (own // BLOCK + 2) + 1, BLOCK)
        stores = {dtype: store_of(config, pool.num_blocks, dtype) for dtype in ("float32", *ROUNDED)}
        rows = rows_of_search(pool, prompt, count, own)
        attention = alone(config, stores, rows, repeats)
        pairs, read = count * (prompt + own + 1), prompt + count * (own + 1)
        found.append({
            "shape": shape, "prompt": prompt, "candidates": count, "own": own,
            "operations": 4 * pairs * config.num_heads * config.head_dim * config.num_layers,
            "bytes": 8 * read * config.num_kv_heads * config.head_dim * config.num_layers,
            "attention_seconds": attention,
            "step_seconds": steps(config, decoders, stores["float32"], rows, repeats) if whole else {},
        })  # fmt: skip
    return found


def table(rows: list[dict[str, Any]], hardware: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = ["# Attention of one step, by kernels and in plain torch", "", f"`{command()}`", "", in_words(hardware), "",
             "| shape | prompt × candidates | attention, torch | kernels | ratio | GFLOP/s | GB/s | bfloat16 | int8 "
             "| step, torch | with kernels | compiled | ratio |", "|" + "---|" * 13]
    for row in rows:
        plain, fast = (median(row["attention_seconds"][side]) for side in SIDES)
        rounded = [f"{1000 * median(row['attention_seconds'][dtype]):.2f} ms" for dtype in ROUNDED]
        step = {side: median(times) for side, times in row["step_seconds"].items()}
        whole = [f"{1000 * step[side]:.1f} ms" for side in (*SIDES, "compiled")] if step else ["–"] * 3
        gain = f"{step['torch'] / step['compiled']:.2f}" if step else "–"
        lines.append(" | ".join([
            f"| {row['shape']}", f"{row['prompt']} × {row['candidates']}", f"{1000 * plain:.2f} ms",
            f"{1000 * fast:.2f} ms", f"{plain / fast:.2f}", f"{row['operations'] / fast / 1e9:.1f}",
            f"{row['bytes'] / fast / 1e9:.1f}", *rounded, *whole, f"{gain} |"]))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="mini,135m")
    parser.add_argument("--cases", default="256x16,256x64,2048x64", help="prompt x candidates")
    parser.add_argument("--own", type=int, default=64, help="tokens of each candidate's own")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-steps", dest="steps", action="store_false", help="attention alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hardware = machine()
    cases = [tuple(map(int, case.split("x"))) for case in args.cases.split(",")]
    rows = [row for shape in args.shapes.split(",")
            for row in measure(shape, cases, args.own, args.repeats, args.steps)]  # type: ignore[arg-type]
    report = {"command": command(), "machine": hardware, "rows": rows}
    keep("attention_kernels", report, table(rows, hardware), args.out)


if __name__ == "__main__":
    main()
