"""Best-of-N against transformers' `generate` on the same weights and threads, in alternation.

Both draw N samples of `--new` tokens for one prompt, with temperature 1 and no truncation, and never stop early.
Times are medians; the ratio of medians is the result. Peak memory is that of a process of its own per side.

    python benchmarks/generate_speed.py [--models mini-math,135m] [--n 16,64] [--prompts 32,256]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, command, in_words, keep, machine, text_of_length

import ramify
from ramify.bench.random_model import named_folder
from ramify.models import load_model

Side = Callable[[str, int, int, int], None]  # prompt, samples, new tokens, seed
SIDES = ("ramify", "transformers")


def ramify_side(folder: str) -> Side:
    """Best-of-N; the reward is a constant, so only sampling is timed."""
    llm = ramify.load(folder, reward=lambda prompt, answer: 0.0)
    # Every run reads its prompt, as `generate` does.
    llm.engine.loop.target.prefixes = None

    def run(prompt: str, n: int, new: int, seed: int) -> None:
        result = llm.generate(prompt, "best_of_n", n=n, seed=seed, max_tokens=new, ignore_eos=True)
        assert [candidate.tokens for candidate in result.candidates] == [new] * n

    return run


def transformers_side(folder: str) -> Side:
    """`generate` with `num_return_sequences`."""
    from transformers import AutoModelForCausalLM

    source = load_model(folder)
    tokenizer, path = source.tokenizer, source.path
    del source
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None

    def run(prompt: str, n: int, new: int, seed: int) -> None:
        ids = torch.tensor([tokenizer.encode_prompt(prompt)])
        torch.manual_seed(seed)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, num_return_sequences=n,
                             max_new_tokens=new, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0)
        assert out.shape == (n, ids.shape[1] + new)

    return run


MAKERS = {"ramify": ramify_side, "transformers": transformers_side}


def alternate(sides: dict[str, Side], prompt: str, n: int, new: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of every run, the sides by turns; a short run of each first warms them up."""
    for run in sides.values():
        run(prompt, n, 4, 0)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run(prompt, n, new, repeat)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(side: str, folder: str, prompt: int, n: int, new: int, threads: int) -> dict[str, float]:
    """Megabytes of a fresh process after loading and at its peak."""
    args = [sys.executable, __file__, "--child", side, "--models", folder, "--prompts", str(prompt), "--n", str(n),
            "--new", str(new), "--threads", str(threads)]
    found: dict[str, float] = json.loads(subprocess.run(args, capture_output=True, text=True, check=True).stdout)
    return found


def child(side: str, folder: str, prompt: int, n: int, new: int) -> None:
    """One run, for its memory."""
    run = MAKERS[side](folder)
    text = text_of_length(load_model(folder).tokenizer, prompt)
    loaded = peak_mb()
    run(text, n, new, 0)
    print(json.dumps({"loaded_mb": loaded, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """The most memory this process has held. Not getrusage, which counts its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def work(folder: str, prompt: int, n: int, new: int) -> dict[str, dict[str, float]]:
    """What each side computes: forward passes, bytes of weights read, floating-point operations."""
    decoder = load_model(folder).decoder
    weights = decoder.flops(1, 0) / 2 * decoder.dtype.itemsize
    own = n * (new - 1)  # the last token of an answer is not read
    pairs = n * sum(range(prompt + 1, prompt + new))
    begin = prompt * (prompt + 1) // 2
    return {"ramify": {"weights_gb": weights * new / 1e9, "gflop": decoder.flops(prompt + own, begin + pairs) / 1e9},
            "transformers": {"weights_gb": weights * new / 1e9,
                             "gflop": decoder.flops(n * prompt + own, n * begin + pairs) / 1e9}}


def measure(name: str, folder: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every width and prompt length of one model."""
    sides, rows = {side: MAKERS[side](folder) for side in SIDES}, []
    tokenizer = load_model(folder).tokenizer
    for length in args.prompts:
        text = text_of_length(tokenizer, length)
        prompt = len(tokenizer.encode_prompt(text))
        for n in args.n:
            seconds = alternate(sides, text, n, args.new, args.repeats)
            done = work(folder, prompt, n, args.new)
            row: dict[str, Any] = {"model": name, "prompt_tokens": prompt, "n": n, "new_tokens": args.new}
            for side in SIDES:
                median = statistics.median(seconds[side])
                row[side] = {"seconds": seconds[side], "median": median, "tokens_per_second": n * args.new / median,
                             "gb_per_second": done[side]["weights_gb"] / median,
                             "gflop_per_second": done[side]["gflop"] / median, "gflop": done[side]["gflop"]}
                if args.memory:
                    row[side] |= peak_memory(side, folder, length, n, args.new, args.threads)
            row["ratio"] = row["transformers"]["median"] / row["ramify"]["median"]
            print(f"{name}: prompt {prompt}, n {n}: {row['ratio']:.2f} times transformers", file=sys.stderr)
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]], hardware: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = ["# Best-of-N against transformers' generate", "", in_words(hardware) + ".", "",
             f"Printed by `{command()}`. Medians of {len(rows[0]['ramify']['seconds'])} runs each, in alternation; "
             f"{rows[0]['new_tokens']} new tokens a sample, float32.", "",
             "| model | prompt | n | ratio | tokens/s | peak MB | GB/s of weights | GFLOP/s | GFLOP |",
             "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        ours, theirs = row["ramify"], row["transformers"]

        def pair(name: str, form: str, ours: dict[str, Any] = ours, theirs: dict[str, Any] = theirs) -> str:
            return f"{ours[name]:{form}} / {theirs[name]:{form}}" if name in ours else "-"

        lines.append(f"| {row['model']} | {row['prompt_tokens']} | {row['n']} | **{row['ratio']:.2f}** | "
                     f"{pair('tokens_per_second', '.0f')} | {pair('peak_mb', '.0f')} | "
                     f"{pair('gb_per_second', '.2f')} | {pair('gflop_per_second', '.0f')} | {pair('gflop', '.0f')} |")
    return "\n".join([*lines, "", "Pairs are Ramify / transformers. `generate` reads the prompt once for every sample, "
                      "Ramify once.", ""])


def numbers(text: str) -> list[int]:
    """Whole numbers separated by commas."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure, or be the child that is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mini-math,135m", help="names or folders; 135m is a random Llama")
    parser.add_argument("--n", type=numbers, default=[16, 64])
    parser.add_argument("--prompts", type=numbers, default=[32, 256], help="prompt lengths in tokens")
    parser.add_argument("--new", type=int, default=128, help="new tokens of every sample")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out peak memory")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        child(args.child, args.models, args.prompts[0], args.n[0], args.new)
        return
    hardware, rows = machine(), []
    for name in args.models.split(","):
        rows += measure(name, named_folder("random:135m" if name == "135m" else name), args)
    report = {"command": command(), "machine": hardware, "rows": rows}
    keep("generate_speed", report, table(rows, hardware), args.out)


if __name__ == "__main__":
    main()
