"""What keys and values in bfloat16 cost in quality: accuracy and perplexity of mini-math, beside float32.

Accuracy: share of right samples at temperature 1, the same seeds for both, so that the difference is of the same
draws. Perplexity: of the worked solutions of held-out problems, read through the cache.

    python benchmarks/cache_accuracy.py [--problems 200] [-n 8]
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

KINDS = {"float32": None, "bfloat16": "bfloat16"}


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


def report(count: int, n: int) -> dict[str, Any]:
    """Both kinds of cache, and how far apart they are."""
    shares, surprise = [], []
    for kind in KINDS.values():
        llm = ramify.load("mini-math", reward=None, kv_dtype=kind)
        shares.append(right(llm, count, n))
        surprise.append(perplexity(llm, count))
    gaps = [rounded - plain for plain, rounded in zip(*shares, strict=True)]
    low, high = bootstrap_interval(gaps)
    return {"accuracy": dict(zip(KINDS, [sum(found) / count for found in shares], strict=True)),
            "perplexity": dict(zip(KINDS, surprise, strict=True)), "difference": sum(gaps) / count,
            "difference_95": [low, high], "perplexity_change": surprise[1] / surprise[0] - 1}


def table(found: dict[str, Any], count: int, n: int, hardware: dict[str, Any]) -> str:
    """The report in Markdown."""
    low, high = found["difference_95"]
    lines = ["# Quality of keys and values in bfloat16: mini-math", "", in_words(hardware) + ".", "",
             f"Printed by `{command()}`: {count} problems, {n} samples each at temperature 1.", "",
             "| cache | right samples | perplexity of solutions |", "|---|---|---|"]
    lines += [f"| {name} | {100 * found['accuracy'][name]:.2f} % | {found['perplexity'][name]:.4f} |"
              for name in KINDS]
    accuracy = f"{100 * found['difference']:+.2f} points (95 % over problems: {100 * low:+.2f} to {100 * high:+.2f})"
    perplexity = f"{100 * found['perplexity_change']:+.3f} %"
    return "\n".join([*lines, "", f"Difference of accuracy {accuracy}; of perplexity {perplexity}.", ""])


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("-n", type=int, default=8, help="samples of each problem")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    hardware, found = machine(), report(args.problems, args.n)
    keep("cache_accuracy", {"command": command(), "machine": hardware, **found},
         table(found, args.problems, args.n, hardware), args.out)


if __name__ == "__main__":
    main()
