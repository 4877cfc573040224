"""A step of the decoder by executor: one forward over a paged cache with its logits, beside what bounds it.

Decoding steps have one new token per row behind a context of its own; a prompt is read at once and gives the logits
of its last token. "before" is what ran until there were kernels: projections packed by MKL, attention in torch. Times
are medians, and executors take turns, so that a busy machine disturbs them alike. Of the executors that run all layers
in one call a second table says where a step goes: the phases of all layers together, what each took from the end of
the one before to its own, and what of that the threads waited for each other.

    python benchmarks/forward_kernels.py [--models mini-math,135m] [--rows 1,16,64] [--shared 256] [--prompt 1024]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from common import RESULTS, command, in_words, keep, machine

from ramify.bench.random_model import named_folder
from ramify.cache import BlockPool, BlockTable, KVStore
from ramify.engine.batch import Row, flatten
from ramify.engine.padded import PaddedAttention
from ramify.engine.paged import attention_of
from ramify.models import load_model
from ramify.models.decoder import Decoder
from ramify.models.kernels.forward import PHASES
from ramify.models.kernels.team import spent

SIDES = {"before": "torch", "torch": "torch", "compiled": "compiled", "int8": "int8"}
BYTES = {"before": 4, "torch": 4, "compiled": 4, "int8": 1}  # of a weight
BLOCK = 16
# The phases of a layer, in their order. Those of one name are added up.
PARTS = ("norms", "qkv", "heads, write", "attention", "merge", "to bytes", "out", "norms", "gate, up", "to bytes",
         "down")


def step(decoder: Decoder, side: str, rows: int, shared: int, own: int, new: int) -> Callable[[], list[float]]:
    """One forward of `rows` rows with `new` tokens each, and the logits of their last.

    Rows stand behind `shared` tokens that all begin with, and `own` of each. The call returns when it began, when its
    rows were ready, its hidden states, and its logits.
    """
    config, context = decoder.config, shared + own
    pool = BlockPool(-(-shared // BLOCK) + rows * -(-(own + new + BLOCK) // BLOCK), BLOCK)
    store = KVStore(config.num_layers, pool.num_blocks, BLOCK, config.num_kv_heads, config.head_dim, decoder.dtype)
    root = BlockTable(pool)
    root.append(shared)
    tables = [root.fork() for _ in range(rows)]
    for table in tables:
        table.append(own)
    lasts = torch.arange(rows) * new + new - 1

    def run() -> list[float]:
        clock = [time.perf_counter()]
        batch = []
        for table in tables:
            slots, _ = table.append(new)
            batch.append(Row(cast(Any, SimpleNamespace(table=table)), [5] * new, context, slots))
        attend = (PaddedAttention if side == "before" else attention_of)(config, store, batch)
        args = flatten(batch)
        clock.append(time.perf_counter())
        with torch.inference_mode():
            hidden = decoder(*args, attend)
            clock.append(time.perf_counter())
            decoder.logits(hidden[lasts])
        clock.append(time.perf_counter())
        for table in tables:
            table.rewind(context)
        return clock

    return run


def phases(decoder: Decoder) -> dict[str, float] | None:
    """Ticks of every phase of the latest forward, if it was one call, and "first" and "last" tick of all.

    What threads waited for each other is "wait" and the name, per thread.
    """
    board = getattr(decoder.fused, "board", None)
    if board is None:
        return None
    waited, ends = spent(board).T.astype(float)
    names = ["", "", *PARTS * (len(ends) // PHASES), "norms"]  # what comes first also finds out who is there
    last = ends[1]
    found: dict[str, float] = {"first": last, "last": ends[-1]}
    for name, wait, end in zip(names[2:], waited[2:], ends[2:], strict=True):
        if end:
            found[name] = found.get(name, 0.0) + end - last
            found[f"wait {name}"] = found.get(f"wait {name}", 0.0) + wait / torch.get_num_threads()
            last = end
    return found


def parts(clocks: list[list[float]], ticks: list[dict[str, float]]) -> dict[str, float]:
    """Milliseconds of every part of a step, medians."""
    prepare, layers, logits = 1e3 * np.median(np.diff(clocks), 0)
    per_tick = 1e3 * (clocks[-1][2] - clocks[0][2]) / (ticks[-1]["last"] - ticks[0]["last"])
    inside = statistics.median(one["last"] - one["first"] for one in ticks) * per_tick
    found = {name: statistics.median(one[name] for one in ticks) * per_tick for name in ticks[0]
             if name not in ("first", "last")}
    return {"rows": prepare, "plan, embed": layers - inside, **found, "logits": logits}


def measure(name: str, folder: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every size of one model, all executors by turns."""
    decoders = {side: load_model(folder, executor=executor).decoder for side, executor in SIDES.items()
                if side in args.sides}
    decoder, found = next(iter(decoders.values())), []
    head = decoder.config.vocab_size * decoder.config.hidden_size
    sizes = [(rows, args.shared, args.context, 1) for rows in args.rows]
    sizes += [(1, 0, 0, min(args.prompt, decoder.config.max_positions))] if args.prompt else []
    for rows, shared, own, new in sizes:
        runs = {side: step(one, side, rows, shared, own, new) for side, one in decoders.items()}
        clocks: dict[str, list[list[float]]] = {side: [] for side in runs}
        ticks: dict[str, list[dict[str, float]]] = {side: [] for side in runs}
        for run in runs.values():
            run()
        begin = time.perf_counter()
        while time.perf_counter() - begin < args.seconds or min(map(len, clocks.values())) < 3:
            for side, run in runs.items():
                clocks[side].append(run())
                if left := phases(decoders[side]):
                    ticks[side].append(left)
        pairs = rows * (new * (shared + own) + new * (new + 1) // 2)
        flops = decoder.flops(rows * new, pairs) - 2.0 * head * rows * (new - 1)
        for side, times in clocks.items():
            seconds = [clock[-1] - clock[0] for clock in times]
            median = statistics.median(seconds)
            found.append({"model": name, "rows": rows, "shared": shared, "context": own, "new": new, "executor": side,
                          "milliseconds": 1e3 * median, "spread": [1e3 * min(seconds), 1e3 * max(seconds)],
                          "runs": len(times), "gb_per_second": BYTES[side] * decoder.num_parameters / median / 1e9,
                          "gflop_per_second": flops / median / 1e9,
                          "parts": parts(times, ticks[side]) if ticks[side] else {}})
    return found


def shares(found: list[dict[str, Any]]) -> list[str]:
    """Where steps go, in Markdown."""
    names = list(dict.fromkeys(name for row in found for name in row["parts"] if not name.startswith("wait ")))
    lines = ["", "Milliseconds of its parts, and of that how much each thread waited for the other.", "",
             f"| model | rows | executor | {' | '.join(names)} | waited |", "|" + "---|" * (len(names) + 4)]
    for row in filter(lambda row: row["parts"], found):
        waited = sum(value for name, value in row["parts"].items() if name.startswith("wait "))
        cells = [f"{row['parts'][name]:.2f}" + (f" ({row['parts']['wait ' + name]:.2f})"
                                                 if row["parts"].get("wait " + name, 0) > 0.005 else "")
                 if name in row["parts"] else "" for name in names]
        lines.append(f"| {row['model']} | {row['rows']} × {row['new']} | {row['executor']} | {' | '.join(cells)} | "
                     f"{waited:.2f} |")
    return lines


def report(found: list[dict[str, Any]], hardware: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = ["# A step by executor", "", in_words(hardware) + ".", "",
             f"Printed by `{command()}`: medians of steps in turns. GB/s counts every weight once a step.", "",
             "| model | rows | shared | own | new tokens each | executor | ms | times before | GB/s | GFLOP/s |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    before = 0.0
    for row in found:
        before = row["milliseconds"] if row["executor"] == "before" else before
        lines.append(f"| {row['model']} | {row['rows']} | {row['shared']} | {row['context']} | "
                     f"{row['new']} | {row['executor']} | "
                     f"{row['milliseconds']:.2f} | {before / row['milliseconds']:.2f} | {row['gb_per_second']:.1f} | "
                     f"{row['gflop_per_second']:.0f} |")
    return "\n".join([*lines, *shares(found), ""])


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mini-math,135m", help="names or folders; 135m is a random Llama")
    parser.add_argument("--rows", type=lambda text: [int(part) for part in text.split(",")], default=[1, 16, 64])
    parser.add_argument("--context", type=int, default=128, help="cached tokens of every row's own")
    parser.add_argument("--shared", type=int, default=0, help="cached tokens that all rows begin with")
    parser.add_argument("--prompt", type=int, default=1024, help="length of the prompt that is read at once, 0: none")
    parser.add_argument("--sides", type=lambda text: text.split(","), default=list(SIDES), help="executors")
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
