"""What rounding costs in quality: mini-math with smaller weights or a smaller cache, beside float32.

Accuracy: share of right samples at temperature 1, the same seeds for all, so that differences are of the same draws.
Perplexity: of the worked solutions of held-out problems, read through the cache in one step. Beside them what the
cache takes for a token, as it lies in memory.

    python benchmarks/rounding_quality.py [--problems 200] [-n 8] [--kinds int8,bfloat16-cache]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, command, in_words, keep, machine

import ramify
from ramify.minis.problems import is_correct, problems
from ramify.theory.intervals import bootstrap_interval

KINDS = {"int8": {"executor": "int8"}, "int8-weights": {"executor": "int8-weights"},
         "int4-weights": {"executor": "int4-weights"}, "bfloat16-cache": {"kv_dtype": "bfloat16"},
         "int8-cache": {"kv_dtype": "int8"}, "int8 and int8-cache": {"executor": "int8", "kv_dtype": "int8"}}


def right(llm: ramify.LLM, count: int, n: int) -> list[float]:
    """Share of right samples for each problem."""
    asked, shares = problems("evaluation", count, 0), [0.0] * count
    for at, result in llm.stream([problem.question for problem in asked], "self_consistency", n=n, max_tokens=256):
        assert isinstance(result, ramify.Result)
        shares[at] = sum(is_correct(asked[at], one.text) for one in result.candidates) / n
    return shares


@torch.inference_mode()
def perplexity(llm: ramify.LLM, count: int) -> float:
    """Of the solutions, each read with its problem in one step."""
    runner, tokenizer, total, size = llm.engine.loop.target, llm.model.tokenizer, 0.0, 0
    for problem in problems("evaluation", count, 0):
        prompt = tokenizer.encode_prompt(problem.question)
        answer = [*tokenizer.encode(problem.solution), *tokenizer.eos_ids[:1]]
        context = runner.open([])
        hidden_TD = runner.forward([(context, prompt + answer, None)])
        context.free()
        logprobs_TV = llm.model.decoder.logits(hidden_TD[len(prompt) - 1 : -1]).log_softmax(-1)
        total -= float(logprobs_TV.gather(1, torch.tensor(answer)[:, None]).sum())
        size += len(answer)
    return math.exp(total / size)


def cache_bytes(llm: ramify.LLM) -> int:
    """Of one token."""
    runner = llm.engine.loop.target
    return runner.store.kv.nbytes // runner.capacity


def report(kinds: list[str], count: int, n: int) -> list[dict[str, Any]]:
    """A row for float32 and one for every kind, with how far it is from that."""
    rows: list[dict[str, Any]] = []
    for kind in ["float32", *kinds]:
        llm = ramify.load("mini-math", reward=None, **KINDS.get(kind, {}))
        shares, surprise = right(llm, count, n), perplexity(llm, count)
        row = {"kind": kind, "accuracy": sum(shares) / count, "perplexity": surprise, "shares": shares,
               "cache_bytes": cache_bytes(llm)}
        if rows:
            gaps = [own - plain for own, plain in zip(shares, rows[0]["shares"], strict=True)]
            row |= {"difference": sum(gaps) / count, "difference_95": list(bootstrap_interval(gaps)),
                    "perplexity_change": surprise / rows[0]["perplexity"] - 1}
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]], count: int, n: int, hardware: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = ["# Quality of rounded weights and caches: mini-math", "", in_words(hardware) + ".", "",
             f"Printed by `{command()}`: {count} problems, {n} samples each at temperature 1. Differences of the same "
             "draws, with 95 % intervals over problems.", "",
             "| weights or cache | right samples | difference, points | perplexity of solutions | change "
             "| cache, bytes per token |", "|---|---|---|---|---|---|"]
    for row in rows:
        low, high = (100 * bound for bound in row.get("difference_95", (0.0, 0.0)))
        difference = f"{100 * row['difference']:+.2f} ({low:+.2f} to {high:+.2f})" if "difference" in row else ""
        change = f"{100 * row['perplexity_change']:+.3f} %" if "difference" in row else ""
        lines.append(f"| {row['kind']} | {100 * row['accuracy']:.2f} % | {difference} | {row['perplexity']:.4f} | "
                     f"{change} | {row['cache_bytes']:,} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("-n", type=int, default=8, help="samples of each problem")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    hardware, rows = machine(), report(args.kinds.split(","), args.problems, args.n)
    keep("rounding_quality", {"command": command(), "machine": hardware, "rows": rows},
         table(rows, args.problems, args.n, hardware), args.out)


if __name__ == "__main__":
    main()
