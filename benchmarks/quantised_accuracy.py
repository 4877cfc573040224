"""What int8 weights and inputs cost in quality: accuracy and perplexity of mini-math, beside float32.

Accuracy: share of right samples at temperature 1, the same seeds for both, so that the difference is of the same
draws. Perplexity: of the worked solutions of held-out problems, which neither was trained on.

    python benchmarks/quantised_accuracy.py [--problems 200] [-n 8]
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
from ramify.models import DenseAttention, Model
from ramify.theory.intervals import bootstrap_interval

EXECUTORS = ("compiled", "int8")


def right(executor: str, count: int, n: int) -> list[float]:
    """Share of right samples for each problem."""
    llm, asked = ramify.load("mini-math", reward=None, executor=executor), problems("evaluation", count, 0)
    prompts = [problem.question for problem in asked]
    shares = [0.0] * count
    for at, result in llm.stream(prompts, "self_consistency", n=n, max_tokens=256):
        assert isinstance(result, ramify.Result)
        shares[at] = sum(is_correct(asked[at], one.text) for one in result.candidates) / n
    return shares


@torch.inference_mode()
def nats(executor: str, count: int) -> list[tuple[float, int]]:
    """Surprise and length of each solution."""
    model: Model = ramify.models.load_model("mini-math", executor=executor)
    decoder, tokenizer = model.decoder, model.tokenizer
    found = []
    for problem in problems("evaluation", count, 0):
        prompt = tokenizer.encode_prompt(problem.question)
        answer = [*tokenizer.encode(problem.solution), *tokenizer.eos_ids[:1]]
        ids = torch.tensor(prompt + answer)
        hidden = decoder(ids, torch.arange(len(ids)), DenseAttention(decoder.config, [len(ids)]))
        logprobs = decoder.logits(hidden[len(prompt) - 1 : -1]).log_softmax(-1)
        found.append((-float(logprobs.gather(1, ids[len(prompt) :, None]).sum()), len(answer)))
    return found


def report(count: int, n: int) -> dict[str, Any]:
    """Both executors, and how far apart they are."""
    shares = {executor: right(executor, count, n) for executor in EXECUTORS}
    surprise = {executor: nats(executor, count) for executor in EXECUTORS}
    perplexity = {executor: math.exp(sum(total for total, _ in found) / sum(size for _, size in found))
                  for executor, found in surprise.items()}
    gaps = [byte - plain for plain, byte in zip(*shares.values(), strict=True)]
    low, high = bootstrap_interval(gaps)
    return {"accuracy": {executor: sum(found) / count for executor, found in shares.items()},
            "difference": sum(gaps) / count, "difference_95": [low, high], "perplexity": perplexity,
            "perplexity_change": perplexity["int8"] / perplexity["compiled"] - 1}


def table(found: dict[str, Any], count: int, n: int, hardware: dict[str, Any]) -> str:
    """The report in Markdown."""
    low, high = found["difference_95"]
    lines = ["# Quality of int8 weights and inputs: mini-math", "", in_words(hardware) + ".", "",
             f"Printed by `{command()}`: {count} problems, {n} samples each at temperature 1.", "",
             "| executor | right samples | perplexity of solutions |", "|---|---|---|"]
    lines += [f"| {name} | {100 * found['accuracy'][name]:.2f} % | {found['perplexity'][name]:.4f} |"
              for name in EXECUTORS]
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
    keep("quantised_accuracy", {"command": command(), "machine": hardware, **found},
         table(found, args.problems, args.n, hardware), args.out)


if __name__ == "__main__":
    main()
