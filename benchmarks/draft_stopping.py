"""How long to draft: every fixed length against rules that stop drafts, by the cost model.

    python benchmarks/draft_stopping.py [--draft mini-math-draft] [--problems 100] [--costs 0.1,0.3,0.5]

Runs the real engine with token-wise verification at temperature 1 on evaluation problems and counts drafted tokens,
target calls and tokens that came of them. A draft step takes a share c of a target step, which takes as long over
1 + k tokens as over one: time per token = (c drafted + calls)/tokens, in target steps. `--costs measured` takes c
from this machine's median steps at one row, the head's own time included where it is used.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from common import command, in_words, machine

import ramify
from ramify.api import LLM
from ramify.minis import problems

LENGTHS = (4, 6, 8, 12, 16)
LONGEST = 16  # of drafts that a rule ends
RULES = {"acceptance": (0.15, 0.25, 0.4), "likelihood": (0.5, 0.7, 0.85), "confidence": (0.6, 0.75),
         "entropy": (0.4, 0.7)}


@dataclass(frozen=True, slots=True)
class Counts:
    """What one way to draft came to, over all problems."""

    drafted: int
    calls: int
    tokens: int

    def time(self, cost: float) -> float:
        """Target steps per token."""
        return (cost * self.drafted + self.calls) / self.tokens


def count(llm: LLM, asked: list[str], seed: int, **options: Any) -> Counts:
    """Every problem answered once; calls without a draft count nowhere, they are the same for all."""
    told = [result.speculative for result in llm.generate(asked, "sample", n=1, verifier="token", seed=seed, **options)]
    calls = sum(each["num_verifications"] for each in told)
    tokens = sum(each["num_verifications"] * each.get("mean_acceptance_length", 0) for each in told)
    return Counts(sum(each["num_draft_tokens"] for each in told), calls, round(tokens))


def measured_cost(llm: LLM, asked: list[str]) -> tuple[float, float]:
    """c at one row, from the engine's medians; and what the head adds to it."""
    for text in asked:
        llm.generate(text, "sample", n=1, draft_length=4)
        llm.generate(text, "sample", n=1, draft_length=0)
    loop, draft = llm.engine.loop, llm.draft.model  # type: ignore[union-attr]
    target = loop.costs.seconds(loop.target, 1)
    step = loop.costs.seconds(loop.runner(draft, "draft"), 1)
    seconds = []
    with torch.inference_mode():
        hidden_1D, chance_1 = torch.randn(1, draft.decoder.config.hidden_size), torch.ones(1)
        for _ in range(200 if draft.acceptance else 0):
            began = perf_counter()
            draft.acceptance(hidden_1D, draft.decoder.embed(torch.tensor([5])), chance_1).sigmoid().tolist()
            seconds.append(perf_counter() - began)
    return step / target, (median(seconds) / target if seconds else 0.0)


def main() -> None:
    """Print a table per cost, and everything as JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", default="mini-math-draft", help="embedded name or folder")
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--costs", default="measured,0.05,0.1,0.3")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    hardware = machine()
    llm = ramify.load("mini-math", draft=args.draft, reward=None)
    asked = [problem.question for problem in problems("evaluation", args.problems, args.seed)]
    rules = {name: RULES[name] for name in RULES if name != "acceptance" or llm.draft.model.acceptance}
    found = {f"length {k}": count(llm, asked, args.seed, draft_length=k) for k in LENGTHS}
    for name, thresholds in rules.items():
        for threshold in thresholds:
            stop = f"{name}:{threshold}"
            found[stop] = count(llm, asked, args.seed, draft_length=LONGEST, draft_stop=stop)
    step, head = measured_cost(llm, asked[:5])
    report = {"draft": args.draft, "machine": hardware, "c": step, "c_of_head": head, "counts": {}, "best": {}}
    lines = [f"{command()}", in_words(hardware), f"draft step {step:.3f} target steps, head {head:.3f} more", ""]
    for text in args.costs.split(","):
        cost = step if text == "measured" else float(text)
        extra = head / step * cost  # the head keeps its share of a draft step
        best = {}
        for kind in ("length", *rules):
            times = {name: counts.time(cost + extra * (kind == "acceptance"))
                     for name, counts in found.items() if name.startswith(kind)}
            best[kind] = min(times.items(), key=lambda pair: pair[1])
        fixed = best["length"][1]
        lines.append(f"c = {cost:.3f}: " + "; ".join(
            f"{name} {time:.4f} ({1 - time / fixed:+.1%})" for name, time in best.values()))
        report["best"][text] = best
    report["counts"] = {name: [counts.drafted, counts.calls, counts.tokens] for name, counts in found.items()}
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if args.json else "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
