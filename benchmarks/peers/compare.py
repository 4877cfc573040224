"""Ramify beside another engine: the same weights, prompts and threads, each in its own environment, by turns.

Every turn starts a fresh process for each side, which loads, warms up and times one run; medians over turns are
compared. Rows are kept in --out as they come, and a next run with the same file adds to them.

    python benchmarks/peers/compare.py openvino --python ~/envs/openvino/bin/python --workloads shared16,shared64
    python benchmarks/peers/compare.py --report benchmarks/results/peers.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from common import RESULTS, command, in_words, machine  # noqa: E402

PEERS = ("transformers", "openvino", "vllm", "llamacpp")
Row = dict[str, Any]


def turn(side: str, python: str, job: Row) -> Row:
    """What one process of a side answers; nothing for a job that only prepares."""
    threads = {"OMP_NUM_THREADS": str(job["threads"]), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, str(HERE / f"{side}_peer.py")], input=json.dumps(job), capture_output=True,
                          text=True, env={**os.environ, **threads}, check=False)
    if done.returncode:
        raise SystemExit(f"{side} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout) if done.stdout else {}


def measure(args: argparse.Namespace) -> None:
    """Turns of both sides on every workload, appended to the file."""
    from ramify.bench.engine import named, random_texts
    from ramify.bench.random_model import named_folder
    from ramify.models.tokenizer import Tokenizer

    folder, hardware = named_folder(args.model), {**machine(), "threads": args.threads}
    tokenizer = Tokenizer(Path(folder))
    options = dict(setting.split("=", 1) for setting in args.load)
    sides = ((args.peer, args.python, args.variant), ("ramify", args.ours_python, args.ours))
    for workload in named(args.workloads, args.max_tokens):
        texts = random_texts(workload, tokenizer, 0)
        job = {"prepare": True, "folder": folder, "texts": texts, "prompts": list(map(tokenizer.encode_prompt, texts)),
               "samples": workload.samples, "tokens": workload.tokens, "threads": args.threads, "options": options}
        turn(args.peer, args.python, {**job, "variant": args.variant})
        for number in range(args.turns):
            for side, python, variant in sides[:: 1 if number % 2 else -1]:
                found = turn(side, python, {**job, "prepare": False, "variant": variant})
                row = {"peer": args.peer, "peer_variant": args.variant, "side": side, "variant": variant,
                       "options": options, "model": args.model, "workload": workload.name, "counted": workload.counted,
                       "new_tokens": workload.tokens, **found, "machine": hardware,
                       "command": _named(args)}
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{workload.name} {side} {variant}: {workload.counted / found['seconds']:.1f} tokens/s, "
                      f"{found['peak_bytes'] / 1e6:.0f} MB", file=sys.stderr)


def _named(args: argparse.Namespace) -> str:
    """The command, without the places of this machine."""
    return command().replace(args.python, "PYTHON").replace(args.ours_python, "OURS").replace(f" --out {args.out}", "")


def table(rows: Iterable[Row]) -> str:
    """Markdown: per model, workload and peer both speeds, their ratio, and both peaks."""
    cells: dict[tuple[str, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        key = (row["model"], row["workload"], str(row["new_tokens"]), row["peer"], row["peer_variant"])
        cells[key][row["side"] if row["side"] != "ramify" else f"ramify {row['variant']}"].append(row)
    lines = ["| model | workload | new tokens | peer | its tokens/s | ours | tokens/s | ratio | its peak MB | ours | "
             "turns | others' cores |", "|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for (model, workload, tokens, peer, variant), sides in cells.items():
        theirs = sides.pop(peer)
        for ours, own in sides.items():
            speeds = [median(row["counted"] / row["seconds"] for row in some) for some in (theirs, own)]
            peaks = [_memory(some) for some in (theirs, own)]
            lines.append(f"| {model} | {workload} | {tokens} | {peer} {variant} | {speeds[0]:.1f} | {ours} | "
                         f"{speeds[1]:.1f} | **{speeds[1] / speeds[0]:.2f}** | {peaks[0]} | {peaks[1]} | "
                         f"{len(theirs)}, {len(own)} | {_others([*theirs, *own])} |")
    return "\n".join(lines)


def _memory(rows: list[Row]) -> str:
    """The peak in MB; behind it, where it was watched, what the process held at the end besides pages of files."""
    kinds = (name for name in ("peak_bytes", "own_bytes") if all(name in row for row in rows))
    peak, *own = (f"{median(row[name] for row in rows) / 1e6:.0f}" for name in kinds)
    return peak + "".join(f" ({each})" for each in own)


def _others(rows: list[Row]) -> str:
    """How many cores other processes kept busy during a run, at most: a comparison is fair where it is near 0."""
    watched = [row["others_cores"] for row in rows if "others_cores" in row]
    return f"{max(watched):.1f}" if len(watched) == len(rows) else "not watched"


def report(path: Path) -> str:
    """The table of a file, with the machine and the versions it was made with."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    versions = sorted({f"{name} {version}" for row in rows for name, version in row["versions"].items()})
    commands = sorted({row["command"] for row in rows})
    return "\n".join(["# Ramify beside other engines", "", in_words(rows[0]["machine"]) + ".", "",
                      f"{', '.join(versions)}. Medians over turns of fresh processes; ratios are ours over theirs.", "",
                      table(rows), "", "Printed by", "", *(f"    {each}" for each in commands), ""])


def main() -> None:
    """Measure, report, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", nargs="?", choices=PEERS)
    parser.add_argument("--python", help="the interpreter of the peer's environment")
    parser.add_argument("--ours-python", default=sys.executable,
                        help="that of our side: an environment as README.md makes it; default: the one of this process")
    parser.add_argument("--variant", default="fp32", help="of the peer: see its file")
    parser.add_argument("--ours", default="fp32", help="what to call our side's --load in the table")
    parser.add_argument("--load", action="append", default=[], metavar="KEY=VALUE",
                        help="an option of load_model, or kv_dtype=int8")
    parser.add_argument("--model", default="random:135m")
    parser.add_argument("--workloads", default="shared16,shared64", help="names of `ramify bench engine`")
    parser.add_argument("--max-tokens", type=int, help="of each candidate; default: 128")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.jsonl")
    parser.add_argument("--report", type=Path, help="only print the table of such a file")
    args = parser.parse_args()
    if args.report:
        print(report(args.report))
        return
    if not args.peer or not args.python:
        parser.error("name a peer and --python, the interpreter of its environment")
    measure(args)
    print(report(args.out))


if __name__ == "__main__":
    main()
