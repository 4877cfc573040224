"""A step of the decoder by executor: one forward over a paged cache with its logits, beside what bounds it.

Decoding steps have one new token per row behind a context of its own; a prompt is read at once and gives the logits
of its last token. "before" is what ran until there were kernels: projections packed by MKL, attention in torch. Times
are medians, and executors take turns, so that a busy machine disturbs them alike.

    python benchmarks/forward_kernels.py [--models mini-math,135m] [--rows 1,16,64] [--prompt 1024]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from common import RESULTS, command, in_words, keep, machine

from ramify.bench.random_model import named_folder
from ramify.cache import BlockPool, BlockTable, KVStore
from ramify.engine.batch import Row, flatten
from ramify.engine.padded import PaddedAttention
from ramify.engine.paged import attention_of
from ramify.models import load_model
from ramify.models.decoder import Decoder

SIDES = {"before": "torch", "torch": "torch", "compiled": "compiled", "int8": "int8"}
BYTES = {"before": 4, "torch": 4, "compiled": 4, "int8": 1}  # of a weight
BLOCK = 16


def step(decoder: Decoder, side: str, rows: int, context: int, new: int) -> Callable[[], None]:
    """One forward of `rows` rows with `new` tokens each, and the logits of their last."""
    config = decoder.config
    blocks = -(-(context + new) // BLOCK)
    pool = BlockPool(rows * blocks, BLOCK)
    store = KVStore(config.num_layers, rows * blocks, BLOCK, config.num_kv_heads, config.head_dim, decoder.dtype)
    tables = [BlockTable(pool) for _ in range(rows)]
    for table in tables:
        table.append(context)
    lasts = torch.arange(rows) * new + new - 1

    def run() -> None:
        batch = []
        for table in tables:
            slots, _ = table.append(new)
            batch.append(Row(cast(Any, SimpleNamespace(table=table)), [5] * new, context, slots))
        attend = (PaddedAttention if side == "before" else attention_of)(config, store, batch)
        with torch.inference_mode():
            decoder.logits(decoder(*flatten(batch), attend)[lasts])
        for table in tables:
            table.rewind(context)

    return run


def measure(name: str, folder: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every size of one model, all executors by turns."""
    decoders = {side: load_model(folder, executor=executor).decoder for side, executor in SIDES.items()}
    decoder, found = decoders["torch"], []
    head = decoder.config.vocab_size * decoder.config.hidden_size
    sizes = [(rows, args.context, 1) for rows in args.rows] + [(1, 0, min(args.prompt, decoder.config.max_positions))]
    for rows, context, new in sizes:
        runs = {side: step(one, side, rows, context, new) for side, one in decoders.items()}
        seconds: dict[str, list[float]] = {side: [] for side in runs}
        for run in runs.values():
            run()
        begin = time.perf_counter()
        while time.perf_counter() - begin < args.seconds or len(seconds["int8"]) < 3:
            for side, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[side].append(time.perf_counter() - start)
        pairs = rows * (new * context + new * (new + 1) // 2)
        flops = decoder.flops(rows * new, pairs) - 2.0 * head * rows * (new - 1)
        for side, times in seconds.items():
            median = statistics.median(times)
            found.append({"model": name, "rows": rows, "context": context, "new": new, "executor": side,
                          "milliseconds": 1e3 * median, "spread": [1e3 * min(times), 1e3 * max(times)],
                          "runs": len(times), "gb_per_second": BYTES[side] * decoder.num_parameters / median / 1e9,
                          "gflop_per_second": flops / median / 1e9})
    return found


def report(found: list[dict[str, Any]], hardware: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = ["# A step by executor", "", in_words(hardware) + ".", "",
             f"Printed by `{command()}`: medians of steps in turns. GB/s counts every weight once a step.", "",
             "| model | rows | context | new tokens each | executor | ms | times before | GB/s | GFLOP/s |",
             "|---|---|---|---|---|---|---|---|---|"]
    before = 0.0
    for row in found:
        before = row["milliseconds"] if row["executor"] == "before" else before
        lines.append(f"| {row['model']} | {row['rows']} | {row['context']} | {row['new']} | {row['executor']} | "
                     f"{row['milliseconds']:.2f} | {before / row['milliseconds']:.2f} | {row['gb_per_second']:.1f} | "
                     f"{row['gflop_per_second']:.0f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mini-math,135m", help="names or folders; 135m is a random Llama")
    parser.add_argument("--rows", type=lambda text: [int(part) for part in text.split(",")], default=[1, 16, 64])
    parser.add_argument("--context", type=int, default=128, help="cached tokens of every row")
    parser.add_argument("--prompt", type=int, default=1024, help="length of the prompt that is read at once")
    parser.add_argument("--seconds", type=float, default=4.0, help="for every size")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    hardware, found = machine(), []
    for name in args.models.split(","):
        found += measure(name, named_folder("random:135m" if name == "135m" else name), args)
    keep("forward_kernels", {"command": command(), "machine": hardware, "rows": found}, report(found, hardware),
         args.out)


if __name__ == "__main__":
    main()
