"""Draft trees at equal node budgets: siblings without replacement, independent siblings, and a chain.

    python benchmarks/speculative_trees.py [--noise 0,0.2,0.35] [--budgets 3,6,12] [--problems 300]

mini-math at temperature 1, one answer a problem. Trees are verified by traversal and chains by block verification,
which is traversal on a chain, so only what was drafted differs. Of every kind and budget the branching is chosen on
`--tuning` validation problems and measured on `--problems` evaluation problems. Tokens per target call: what came of
the calls that read a draft, over their number; differences are paired over problems.

The shipped draft leaves trees little to win. Weaker drafts are made of it: `--noise s` adds to every matrix Gaussian
noise of s times its standard deviation. How often a single drafted token stands tells how weak a draft is.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, command, in_words, keep, machine
from paired import Row, gather, ratio, shown
from safetensors.torch import load_file, save_file

import ramify
from ramify.api import LLM
from ramify.minis.problems import problems
from ramify.models import load_model
from ramify.speculative import Draft

SHAPES = {
    3: ("3", "1x2"),
    6: ("3x1", "2x2", "2x1x1", "1x2x1", "1x1x2x1", "1x1x1x1x2"),
    12: ("4x1x1", "3x3", "3x1x1x1", "2x2x1", "2x1x1x1x1x1", "1x2x1x1x1x1", "1x1x2x1x1x1x1", "2x1x1x2"),
}
KINDS = {"without replacement": "", "independent": "iid:"}
CHAIN = "chain"


def weakened(name: str, noise: float, folder: Path) -> Path:
    """A copy of a model with noise on its matrices."""
    source = Path(load_model(name).path)
    if not noise:
        return source
    shutil.copytree(source, folder, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for key in sorted(weights):
        weight = weights[key]
        if weight.dim() == 2:
            added = torch.randn(weight.shape, generator=generator) * weight.float().std() * noise
            weights[key] = (weight.float() + added).to(weight.dtype)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def count(llm: LLM, asked: list[str], options: dict[str, Any]) -> Row:
    """Of every problem: calls that read a draft, tokens that came of them, drafted and accepted tokens."""
    told = [result.speculative for result in llm.generate(asked, "sample", n=1, seed=0, max_tokens=96, **options)]
    return {"calls": [each["num_verifications"] for each in told],
            "tokens": [round(each["num_verifications"] * each.get("mean_acceptance_length", 0)) for each in told],
            "drafted": sum(each["num_draft_tokens"] for each in told),
            "accepted": sum(each["num_accepted_draft_tokens"] for each in told)}


def options_of(kind: str, shape: str, budget: int) -> dict[str, Any]:
    """Of `LLM.generate`."""
    if kind == CHAIN:
        return {"draft_length": budget, "verifier": "block"}
    return {"tree": KINDS[kind] + shape, "verifier": "traversal"}


def per_call(row: Row) -> float:
    """Tokens that came of one target call."""
    return sum(row["tokens"]) / sum(row["calls"])


def tasks(llm: LLM, drafts: dict[float, Draft], args: argparse.Namespace, tuning: dict[str, Row] | None = None,
          ) -> dict[str, Callable[[], Row]]:
    """Everything to count while tuning; or, once that is known, what the best of each kind are measured by."""
    split, number = ("validation", args.tuning) if tuning is None else ("evaluation", args.problems)
    asked = [problem.question for problem in problems(split, number, args.seed)]
    made: dict[str, Callable[[], Row]] = {}
    for noise, draft in drafts.items():
        own = LLM(llm.engine, None, draft)
        if tuning is None:
            made[f"{noise:g}, one token"] = partial(count, own, asked, {"draft_length": 1, "verifier": "token"})
        for budget in args.budgets:
            cells = [(kind, shape) for kind in KINDS for shape in SHAPES[budget]]
            if tuning is not None:
                cells = [(CHAIN, "")] + [(kind, best(tuning, noise, budget, kind)) for kind in KINDS]
            for kind, shape in cells:
                options = options_of(kind, shape, budget)
                made[f"{split} {number}: {noise:g}, {budget}, {kind} {shape}"] = partial(count, own, asked, options)
    return made


def tuned(rows: dict[str, Row], noise: float, budget: int, kind: str) -> dict[str, Row]:
    """The rows of one kind by shape, from the tuning problems."""
    return {shape: row for shape in SHAPES[budget] for name, row in rows.items()
            if name.endswith(f": {noise:g}, {budget}, {kind} {shape}")}


def best(rows: dict[str, Row], noise: float, budget: int, kind: str) -> str:
    """The shape with the most tokens per target call."""
    some = tuned(rows, noise, budget, kind)
    return max(some, key=lambda shape: per_call(some[shape]))


def line(tuning: dict[str, Row], measured: dict[str, Row], noise: float, budget: int) -> dict[str, Any]:
    """One draft at one budget."""

    def counts(kind: str) -> tuple[list[int], list[int]]:
        [row] = [row for name, row in measured.items() if f": {noise:g}, {budget}, {kind} " in name]
        return row["tokens"], row["calls"]

    without, independent, alone = (counts(kind) for kind in (*KINDS, CHAIN))
    pairs = [tuned(tuning, noise, budget, kind) for kind in KINDS]
    gains = {shape: per_call(pairs[0][shape]) - per_call(pairs[1][shape]) for shape in SHAPES[budget]}
    return {"noise": noise, "budget": budget, "shapes": {kind: best(tuning, noise, budget, kind) for kind in KINDS},
            CHAIN: ratio(*alone), "without replacement": ratio(*without), "independent": ratio(*independent),
            "over independent": ratio(*without, other=independent), "over chain": ratio(*without, other=alone),
            "gain_by_shape": gains}


def together(rows: dict[str, Row], noise: float, budgets: list[int], kind: str) -> tuple[list[int], list[int]]:
    """Tokens and calls of every tuning problem, summed over all shapes of one kind."""
    some = [row for budget in budgets for row in tuned(rows, noise, budget, kind).values()]
    tokens, calls = ([sum(counts) for counts in zip(*(row[what] for row in some), strict=True)]
                     for what in ("tokens", "calls"))
    return tokens, calls


def table(report: dict[str, Any], hardware: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = ["# Draft trees at equal node budgets", "",
             f"{report['draft']} drafting for {report['model']}, temperature 1; {report['problems']} evaluation "
             f"problems, branching chosen on {report['tuning']} validation problems; tokens per target call with 95 % "
             f"intervals over problems, differences paired. Printed by `{command()}` on {in_words(hardware)}; counts "
             "do not depend on it.", ""]
    for draft in report["drafts"]:
        lines += [f"## Noise {draft['noise']:g}: a single drafted token stands in {draft['acceptance']:.1%}", "",
                  "| nodes | chain | independent | without replacement | over independent | over the chain |",
                  "|---|---|---|---|---|---|"]
        for row in draft["rows"]:
            cells = [shown(row[CHAIN])]
            cells += [f"{row['shapes'][kind]}: {shown(row[kind])}" for kind in ("independent", "without replacement")]
            cells += [shown(row[what], sign="+") for what in ("over independent", "over chain")]
            lines.append(f"| {row['budget']} | {' | '.join(cells)} |")
        gains = [gain for row in draft["rows"] for gain in row["gain_by_shape"].values()]
        lines += ["", f"Of {len(gains)} shapes tried on the validation problems {sum(gain > 0 for gain in gains)} gave "
                  f"more tokens per call without replacement than with independent siblings, {min(gains):+.2f} to "
                  f"{max(gains):+.2f}; all together {shown(draft['all_shapes'], sign='+')}.", ""]
    return "\n".join([*lines, report["verdict"], ""])


def verdict(rows: list[dict[str, Any]]) -> str:
    """What the intervals say."""

    def sure(what: str, sign: int) -> int:
        return sum(min(sign * edge for edge in row[what]["interval"]) > 0 for row in rows)

    return (f"Without replacement beats independent siblings surely in {sure('over independent', 1)} of {len(rows)} "
            f"settings and loses surely in {sure('over independent', -1)}; the chain in {sure('over chain', 1)}, and "
            f"loses to it surely in {sure('over chain', -1)}.")


def numbers(text: str) -> list[float]:
    """Numbers separated by commas."""
    return [float(part) for part in text.split(",")]


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini-math")
    parser.add_argument("--draft", default="mini-math-draft")
    parser.add_argument("--noise", type=numbers, default=[0.0, 0.2, 0.35])
    parser.add_argument("--budgets", type=lambda text: [int(number) for number in numbers(text)], default=list(SHAPES))
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--tuning", type=int, default=60, help="validation problems that choose the branching")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="a file that keeps what was counted, to go on another time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing new after so long")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    hardware, llm = machine(), ramify.load(args.model, reward=None)
    with tempfile.TemporaryDirectory() as folder:
        drafts = {noise: Draft(load_model(weakened(args.draft, noise, Path(folder, f"{noise:g}"))))
                  for noise in args.noise}
    tuning = gather(args.rows, tasks(llm, drafts, args), args.seconds)
    measured = gather(args.rows, tasks(llm, drafts, args, tuning), args.seconds)
    found = []
    for noise in args.noise:
        single = tuning[f"{noise:g}, one token"]
        without, independent = (together(tuning, noise, args.budgets, kind) for kind in KINDS)
        found.append({"noise": noise, "acceptance": single["accepted"] / single["drafted"],
                      "all_shapes": ratio(*without, other=independent),
                      "rows": [line(tuning, measured, noise, budget) for budget in args.budgets]})
    report = {"command": command(), "machine": hardware, "model": args.model, "draft": args.draft,
              "problems": args.problems, "tuning": args.tuning, "drafts": found,
              "verdict": verdict([row for draft in found for row in draft["rows"]])}
    keep("speculative_trees", report, table(report, hardware), args.out)


if __name__ == "__main__":
    main()
