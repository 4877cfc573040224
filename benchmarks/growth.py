"""How a search's cost grows: with its candidates, and with the length of what they write.

    python benchmarks/growth.py [--models mini-math,random:135m] [--rows FILE --seconds 90] [--json]

Candidates: plain sampling of one short prompt, so many candidates at once, none of which ends early. Length: so many
tokens for each of a few candidates, up to mini-math's context, or 1,024 positions. Every point is a process of its own,
whose memory is its own: seconds are the least of some runs, memory is the most that the process held beyond what it
held when the model was loaded, tokens are those that the model read. Slopes are fitted to logarithms: 1 is linear in
the candidates or the length, 2 quadratic. Attention over what a candidate wrote itself makes arithmetic grow by the
square of the length, so the FLOPs are fitted too. A step's part outside the forward tells what Python takes for a row.
`--rows` keeps what was measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, command, in_words, keep, machine
from paired import Row, gather

from ramify.bench.engine import Workload, random_texts, run
from ramify.bench.machine import peak_bytes
from ramify.bench.random_model import named_folder
from ramify.bench.watch import Watch

Point = tuple[str, str, Workload]  # model, what grows, the work
MEASURES = {"seconds": "seconds", "outside": "outside the forward", "read": "tokens read", "flops": "FLOPs",
            "peak_bytes": "peak memory"}
# model: prompt, tokens of every candidate, most candidates; candidates and positions of the longest text
SHAPES: dict[str, tuple[int, int, int, int, int]] = {
    "mini-math": (32, 32, 1024, 16, 512), "random:135m": (32, 4, 256, 4, 1024)}


def points(models: list[str]) -> list[Point]:
    """All points of both curves, by powers of four in candidates and of two in length."""
    found: list[Point] = []
    for model in models:
        prompt, tokens, widest, few, positions = SHAPES[model]
        found += [(model, "candidates", Workload(str(n), 1, prompt, n, tokens))
                  for n in (1, 4, 16, 64, 256, 1024) if n <= widest]
        longest = positions - prompt
        found += [(model, "length", Workload(str(length), 1, prompt, few, length))
                  for length in (32, 64, 128, 256, 512, longest) if length <= longest]
    return found


def child(model: str, workload: Workload, repeats: int, threads: int) -> Row:
    """One point, in this process. outside: seconds of all steps outside the forward."""
    from ramify.api import LLM
    from ramify.engine import Engine
    from ramify.models import load_model

    torch.set_num_threads(threads)
    llm = LLM(Engine(load_model(named_folder(model)), prefix_cache=False, dedupe=False))
    texts = random_texts(workload, llm.model.tokenizer, 0)
    warm = Workload("warm", 1, workload.length, min(4, workload.samples), 3)
    run(llm, warm, random_texts(warm, llm.model.tokenizer, 0), 0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew: loading may have been the fullest moment
    loaded, best = peak_bytes(), {"seconds": float("inf")}
    for seed in range(repeats):
        with Watch(llm.engine) as watch:
            [result] = run(llm, workload, texts, seed)
        seconds = sum(turn.seconds for turn in watch.turns)
        inside = sum(forward.seconds for turn in watch.turns for forward in turn.forwards)
        if result.usage.wall_seconds < best["seconds"]:
            best = {"seconds": result.usage.wall_seconds, "outside": seconds - inside,
                    "read": result.usage.target.tokens, "flops": result.usage.flops,
                    "kv_tokens": result.usage.peak_kv_tokens}
    return {**best, "loaded_bytes": loaded, "peak_bytes": peak_bytes() - loaded}


def measured(point: Point, repeats: int, threads: int) -> Row:
    """A point in a process of its own."""
    model, grows, work = point
    job = json.dumps([model, work.length, work.samples, work.tokens, repeats, threads])
    done = subprocess.run([sys.executable, __file__, "--child", job], stdout=subprocess.PIPE, text=True, check=True)
    return {"model": model, "grows": grows, "size": int(work.name), "prompt": work.length, "samples": work.samples,
            "tokens": work.tokens, "runs": repeats, **json.loads(done.stdout)}


def slopes(rows: list[Row], wide: int) -> Row:
    """Of each measure over size: the slope of its logarithm over all points, over those from `wide` on, and the
    steepest step between neighbours there."""
    found = {}
    for key in MEASURES:
        x, y = (np.log([max(1, row[name]) if name == "peak_bytes" else row[name] for row in rows])
                for name in ("size", key))
        last = [at for at, row in enumerate(rows) if row["size"] >= wide]
        steps = np.diff(y[last]) / np.diff(x[last])
        found[key] = {"all": float(np.polyfit(x, y, 1)[0]), "wide": float(np.polyfit(x[last], y[last], 1)[0]),
                      "steepest": float(steps.max())}
    return found


def curves(rows: list[Row]) -> list[Row]:
    """The points of each model and of what grows, with their slopes."""
    found = []
    for model, grows in dict.fromkeys((row["model"], row["grows"]) for row in rows):
        own = [row for row in rows if (row["model"], row["grows"]) == (model, grows)]
        wide = 16 if grows == "candidates" else 32
        found.append({"model": model, "grows": grows, "wide": wide, "points": own, "slopes": slopes(own, wide)})
    return found


def picture(report: Row, path: Path) -> None:
    """Seconds and memory against size, all logarithmic; in the legend each line's slope where it is wide."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    from ramify.bench.plot import COLOURS, FAINT, MARKS, STYLE

    shown = {"seconds": "seconds", "outside": "seconds outside the forward", "peak_bytes": "MB beyond the loaded model"}
    with rc_context(STYLE):
        figure = Figure(figsize=(13, 8), layout="constrained", facecolor="white")
        for line, grows in zip(figure.subplots(2, len(shown)), ("candidates", "length"), strict=True):
            for axes, (key, label) in zip(line, shown.items(), strict=True):
                own = [curve for curve in report["curves"] if curve["grows"] == grows]
                for curve, colour, mark in zip(own, COLOURS, MARKS, strict=False):
                    scale = 1e-6 if key == "peak_bytes" else 1.0
                    spots = [(row["size"], row[key] * scale) for row in curve["points"] if row[key] * scale > 0.05 / (
                        1 if key == "peak_bytes" else 1000)]
                    x, y = zip(*spots, strict=True)
                    axes.plot(x, y, color=colour, marker=mark, linewidth=1.8,
                              label=f"{curve['model']}, slope {curve['slopes'][key]['wide']:.2f}")
                    at = next((row for row in spots if row[0] >= curve["wide"]), spots[0])
                    axes.plot(x, [at[1] * size / at[0] for size in x], color=FAINT, linewidth=1, linestyle=(0, (4, 3)),
                              zorder=0)
                axes.set_xscale("log", base=2)
                axes.set_yscale("log")
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.yaxis.set_minor_formatter(NullFormatter())
                axes.set_title(label, loc="left", fontweight="bold", fontsize=11)
                axes.set_xlabel("candidates" if grows == "candidates" else "tokens of each candidate")
                axes.legend(frameon=False, loc="upper left")
                axes.spines[["top", "right"]].set_visible(False)
                axes.grid(color="#e8e8e8", linewidth=0.8)
                axes.set_axisbelow(True)
        figure.suptitle("Cost against size; dashed: linear from the first wide point", x=0.01, ha="left",
                        fontweight="bold")
        figure.savefig(path, dpi=150)


def table(report: Row) -> str:
    """The report in Markdown."""
    lines = ["# How a search's cost grows", "", in_words(report["machine"]) + ".", "",
             f"Printed by `{report['command']}`. Each point a process of its own, seconds the least of "
             "its runs, every one watched.", "", "![growth](growth.png)", ""]
    for curve in report["curves"]:
        first = curve["points"][0]
        fixed = f"{first['tokens']} tokens each" if curve["grows"] == "candidates" else f"{first['samples']} candidates"
        lines += [f"## {curve['model']} by {curve['grows']}: a prompt of {first['prompt']} tokens, {fixed}", "",
                  f"| {curve['grows']} | seconds | tokens/s | ms outside the forward, per row and step | tokens read | "
                  "GFLOP | KV tokens | MB beyond the loaded model | runs |", "|---|---|---|---|---|---|---|---|---|"]
        for row in curve["points"]:
            drawn = row["samples"] * row["tokens"]
            lines.append(f"| {row['size']} | {row['seconds']:.3f} | {drawn / row['seconds']:.0f} | "
                         f"{1e3 * row['outside'] / drawn:.4f} | {row['read']} | {row['flops'] / 1e9:.1f} | "
                         f"{row['kv_tokens']} | {row['peak_bytes'] / 1e6:.1f} | {row['runs']} |")
        found = "; ".join(f"{name} {curve['slopes'][key]['wide']:.2f} (all {curve['slopes'][key]['all']:.2f}, steepest "
                          f"step {curve['slopes'][key]['steepest']:.2f})" for key, name in MEASURES.items())
        lines += ["", f"Slopes from {curve['wide']} on: {found}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Measure, or be the child that is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mini-math,random:135m", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=Path, help="a file that keeps what was measured, to go on another time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no new point after so long")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        model, length, samples, tokens, repeats, threads = args.child
        print(json.dumps(child(model, Workload("point", 1, length, samples, tokens), repeats, threads)))
        return
    hardware = machine()
    tasks = {f"{model} {grows} {work.name}": partial(measured, (model, grows, work), args.repeats, args.threads)
             for model, grows, work in points(args.models.split(","))}
    rows = list(gather(args.rows, tasks, args.seconds, "measuring").values())
    report: dict[str, Any] = {"command": command(), "machine": hardware,
                              "curves": curves(rows)}
    picture(report, args.out / "growth.png")
    keep("growth", report, table(report), args.out, args.json)


if __name__ == "__main__":
    main()
