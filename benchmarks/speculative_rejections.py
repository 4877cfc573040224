"""Rejections on real text, measured beside what the summed total variation says, and the price of accepting more.

    python benchmarks/speculative_rejections.py [--problems 600] [--drafts 1,2,4]

Drafts reach to the answer's end, so that a round of drafting starts only after a rejection (arXiv 2411.00841). With M
drafts the tree's root has M independent children, each of which goes on as a chain; siblings are tested in turn. A
drafted token behind a rejection is never looked at, and the others are drawn one by one from p whenever they are
needed: so nothing is drafted here that is not tested, and the law is the same.

For M drafts E[rejections] = sum of E_q[TV - g (TV - fail)], fail the chance that all M drafts fall and g the chance,
given the text, that the position is fresh. All three follow from p and q along a text that the target wrote.

Then over-acceptance with one draft: rejections measured, and the loss TV(output, q) from both distributions at every
position that was visited. Rejection + loss = TV, whatever the rule.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, command, in_words, keep, machine

import ramify
from ramify.api import LLM
from ramify.bench.speculative import Cell, Workload
from ramify.bench.speculative_text import mean_over_tokens
from ramify.engine.sequence import Context
from ramify.minis.problems import problems
from ramify.sampling.draws import DRAFT, Key, KeyedDraws, mix
from ramify.sampling.transforms import probabilities
from ramify.speculative import Proposal, verify_lossy, verify_recursive
from ramify.speculative.verify import Verdict
from ramify.theory.speculative import all_rejected, epsilon_rule, lenience_rule, pareto_point
from ramify.types import SamplingParams

Verify = Callable[..., Verdict]
MAX_TOKENS = 96
DRAWS = KeyedDraws()
LENIENCE, EPSILON = (0.8, 0.6, 0.4, 0.2), (0.02, 0.05, 0.1, 0.2)


@dataclass(eq=False)
class Answer:
    """One answer as it grows. Per position: whether its draft fell, and what theory expected there."""

    stream: int
    contexts: list[Context]
    ids: list[int]
    tokens: list[int] = field(default_factory=list)
    fell: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    tv: list[float] = field(default_factory=list)
    fresh: bool = True
    g: float = 1.0  # the chance, given the text, that the position is fresh

    @property
    def ended(self) -> bool:
        """At its end of sequence, or too long."""
        return bool(self.tokens) and (self.tokens[-1] == EOS or len(self.tokens) >= MAX_TOKENS)


EOS = -1  # set once the model is there


def write(llm: LLM, prompts: list[str], take: Callable[[Answer, torch.Tensor, torch.Tensor], None], rows: int,
          seed: int) -> list[Answer]:
    """An answer to every prompt; `take` draws and appends each token from p_V and q_V."""
    runners = [llm.engine.loop.runner(llm.draft.model, "draft"), llm.engine.loop.target]
    waiting = [Answer(mix(seed, at), [], llm.model.tokenizer.encode_prompt(prompt))
               for at, prompt in enumerate(prompts)][::-1]
    running: list[Answer] = []
    done: list[Answer] = []
    while waiting or running:
        while waiting and len(running) < rows:
            answer = waiting.pop()
            answer.contexts = [runner.open(answer.ids) for runner in runners]
            running.append(answer)
        p_RV, q_RV = (distributions(runner, running, turn) for turn, runner in enumerate(runners))
        for answer, p_V, q_V in zip(running, p_RV, q_RV, strict=True):
            take(answer, p_V, q_V)
            if answer.ended:
                for context in answer.contexts:
                    context.free()
                done.append(answer)
        running = [answer for answer in running if not answer.ended]
    return sorted(done, key=lambda answer: answer.stream)


@torch.inference_mode()
def distributions(runner: Any, answers: list[Answer], turn: int) -> torch.Tensor:
    """What follows each answer under one model, in float64."""
    work = [(each.contexts[turn], (each.ids + each.tokens)[len(each.contexts[turn].ids) :], None) for each in answers]
    last = torch.stack([hidden[-1] for hidden in runner.forward(work)])
    return probabilities(runner.model.decoder.logits(last), SamplingParams()).double()


def draw(answer: Answer, p_V: torch.Tensor, q_V: torch.Tensor, drafts: int, verify: Verify) -> None:
    """Draft one token, or `drafts` of them at a fresh position; verify, commit, note what happened."""
    count, position = drafts if answer.fresh else 1, len(answer.tokens)
    keys = [Key(answer.stream, position, DRAFT).part(turn) for turn in range(count)]
    picks = DRAWS.categorical(p_V.expand(count, -1), keys)
    proposal = Proposal(picks, [-1] * count, p_V[None])
    verdict = verify(proposal, q_V.expand(count + 1, -1), DRAWS, Key(answer.stream, position))
    answer.tokens.append(proposal.tokens[verdict.path[0]] if verdict.path else verdict.token)
    answer.fresh = not verdict.path
    answer.fell.append(float(answer.fresh))


def take_batch(answer: Answer, p_V: torch.Tensor, q_V: torch.Tensor, *, drafts: int) -> None:
    """`draw` losslessly; expect rejections along the text that comes out."""
    draw(answer, p_V, q_V, drafts, verify_recursive)
    p, q, token = (p_V / p_V.sum()).numpy(), (q_V / q_V.sum()).numpy(), answer.tokens[-1]
    tv = float(np.maximum(q - p, 0).sum())
    fail, last = (tv, None) if drafts == 1 else all_rejected(p, q, drafts)
    answer.tv.append(tv)
    answer.expected.append(tv - answer.g * (tv - fail))
    if last is not None:  # the chance that the token came from a rejection, over the chance that it came
        answer.g = (answer.g * fail * last[token] + (1 - answer.g) * max(q[token] - p[token], 0.0)) / q[token]


def take_lossy(answer: Answer, p_V: torch.Tensor, q_V: torch.Tensor, *, lenience: float, eps: float) -> None:
    """`draw` with over-acceptance; note rejection, loss and TV of both distributions there."""
    draw(answer, p_V, q_V, 1, partial(verify_lossy, lenience=lenience, eps=eps))
    p, q = (p_V / p_V.sum()).numpy(), (q_V / q_V.sum()).numpy()
    accept = lenience_rule(p, q, lenience) if eps == 0 else np.where(q > 0, epsilon_rule(p, q, eps), 0.0)
    rejected, loss = pareto_point(p, q, accept)
    answer.expected.append(rejected)
    answer.loss.append(loss)
    answer.tv.append(float(np.maximum(q - p, 0).sum()))


def mean(answers: list[Answer], what: str) -> dict[str, Any]:
    """Per 100 tokens, with its 95 % interval over problems."""
    value, interval = mean_over_tokens([np.array(getattr(answer, what)) for answer in answers])
    return {"value": 100 * value, "interval": [100 * edge for edge in interval]}


def batch_row(answers: list[Answer], drafts: int) -> dict[str, Any]:
    """Measured against expected; `excess` is their difference on the very same texts."""
    for answer in answers:
        answer.loss = (np.array(answer.fell) - np.array(answer.expected)).tolist()
    return {"drafts": drafts, "answers": len(answers), "tokens": sum(len(answer.tokens) for answer in answers),
            "rejections": mean(answers, "fell"), "expected": mean(answers, "expected"),
            "summed_tv": mean(answers, "tv"), "excess": mean(answers, "loss")}


def on_engine(llm: LLM, prompts: list[str], seed: int) -> dict[str, Any]:
    """The engine's own count for one draft: chains of 64, the token rule, and how many chains stood to their end."""
    run = Workload(prompts, 32, {"max_tokens": MAX_TOKENS}, seed).run(llm, Cell("token", 64), 0)
    counts = [np.array([float(r.speculative.get("num_rejections", 0))]) for r in run.results]
    lengths = [r.candidates[0].tokens for r in run.results]
    values = [np.concatenate([count, np.zeros(length - 1)]) for count, length in zip(counts, lengths, strict=True)]
    value, interval = mean_over_tokens(values)
    return {"tokens": run.tokens, "target_calls": run.calls, "chains_to_their_end": sum(
        drafted == accepted == 64 for drafted, accepted in run.verified),
        "rejections": {"value": 100 * value, "interval": [100 * edge for edge in interval]}}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every row of the report."""
    global EOS
    llm = ramify.load(args.model, draft=args.draft, reward=None)
    [EOS] = llm.model.tokenizer.eos_ids
    prompts = [problem.question for problem in problems("evaluation", args.problems, args.seed)]
    report: dict[str, Any] = {"model": args.model, "draft": args.draft, "batch": [], "lossy": []}
    began = time.perf_counter()
    for drafts in args.drafts:
        answers = write(llm, prompts, partial(take_batch, drafts=drafts), args.rows, args.seed + drafts)
        report["batch"].append(batch_row(answers, drafts))
        print(f"{drafts} drafts: {report['batch'][-1]}, {time.perf_counter() - began:.0f} s", flush=True)
    report["engine"] = on_engine(llm, prompts, args.seed)
    few = prompts[: args.lossy_problems]
    rules = [("lenience", value, value, 0.0) for value in (1.0, *LENIENCE)]
    rules += [("epsilon", value, 1.0, value) for value in EPSILON]
    for turn, (name, value, lenience, eps) in enumerate(rules):
        answers = write(llm, few, partial(take_lossy, lenience=lenience, eps=eps), args.rows, args.seed + 100 + turn)
        report["lossy"].append({"rule": name, "value": value, "tokens": sum(len(a.tokens) for a in answers),
                                "rejections": mean(answers, "fell"), "expected": mean(answers, "expected"),
                                "loss": mean(answers, "loss"), "tv": mean(answers, "tv")})
        print(f"{name} {value}: {time.perf_counter() - began:.0f} s", flush=True)
    return report


def picture(report: dict[str, Any], path: Path) -> None:
    """Left: rejections against their expectation. Right: rejection and loss on the line."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from ramify.bench.plot import COLOURS, FAINT, STYLE

    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2)
        for shift, (what, colour, mark, name) in enumerate((
                ("rejections", COLOURS[0], "o", "measured"), ("expected", COLOURS[1], "s", "expected of the text"))):
            rows = [row[what] for row in report["batch"]]
            x = np.arange(len(rows)) + 0.12 * shift - 0.06
            y = [row["value"] for row in rows]
            spread = np.abs(np.array([row["interval"] for row in rows]).T - y)
            left.errorbar(x, y, spread, fmt=mark, color=colour, capsize=4, label=name)
        left.set_xticks(range(len(report["batch"])), [str(row["drafts"]) for row in report["batch"]])
        left.set_xlabel("independent drafts from a fresh position")
        left.set_ylabel("rejections in 100 tokens (95 %)")
        left.set_title("Rejections are the summed TV", loc="left", fontweight="bold", fontsize=11)
        left.set_xlim(-0.5, len(report["batch"]) - 0.5)
        right.plot([0, 1], [1, 0], color=FAINT, linewidth=1.3, label="rejection + loss = TV")
        for name, colour, mark, shift in (("lenience", COLOURS[0], "o", (-6, -9)),
                                          ("epsilon", COLOURS[1], "s", (6, 5))):
            rows = [row for row in report["lossy"] if row["rule"] == name]
            tv = np.array([row["tv"]["value"] for row in rows])
            x, y = (np.array([row[what]["value"] for row in rows]) / tv for what in ("loss", "rejections"))
            spread = np.abs(np.array([row["rejections"]["interval"] for row in rows]).T / tv - y)
            right.errorbar(x, y, spread, fmt=mark, color=colour, capsize=3, label=name)
            for row, at, value in zip(rows, x, y, strict=True):
                right.annotate(f"{row['value']:g}", (at, value), shift, textcoords="offset points", fontsize=8,
                               color=colour, ha="right" if shift[0] < 0 else "left")
        right.set_xlabel("loss, as a share of the TV at the positions visited")
        right.set_ylabel("rejections, measured, as a share of the same (95 %)")
        right.set_title("Accepting more only moves along the line", loc="left", fontweight="bold", fontsize=11)
        for axes in (left, right):
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False)
        figure.savefig(path, dpi=150)


def shown(cell: dict[str, Any]) -> str:
    """A number with its interval."""
    return f"{cell['value']:.2f} ({cell['interval'][0]:.2f} to {cell['interval'][1]:.2f})"


def table(report: dict[str, Any], hardware: dict[str, Any]) -> str:
    """The report in Markdown."""
    engine = report["engine"]
    lines = ["# Rejections, measured and expected", "",
             f"{report['draft']} drafting for {report['model']}, temperature 1, per 100 tokens, 95 % intervals over "
             f"problems. Printed by `{command()}` on {in_words(hardware)}; counts do not depend on it.", "",
             "| drafts | tokens | rejections | expected of the same texts | difference | summed TV |",
             "|---|---|---|---|---|---|"]
    lines += [f"| {row['drafts']} | {row['tokens']:,} | {shown(row['rejections'])} | {shown(row['expected'])} | "
              f"{shown(row['excess'])} | {shown(row['summed_tv'])} |" for row in report["batch"]]
    lines += ["", f"The engine with one draft, chains of 64 and the token rule: {shown(engine['rejections'])} on "
              f"{engine['tokens']:,} tokens of its own; {engine['chains_to_their_end']} chains stood to their end.", "",
              "| rule | tokens | rejections | expected | loss | rejections + loss | TV at these positions |",
              "|---|---|---|---|---|---|---|"]
    lines += [f"| {row['rule']} {row['value']:g} | {row['tokens']:,} | {shown(row['rejections'])} | "
              f"{row['expected']['value']:.2f} | {row['loss']['value']:.2f} | "
              f"{row['rejections']['value'] + row['loss']['value']:.2f} | {shown(row['tv'])} |"
              for row in report["lossy"]]
    held = all(row["excess"]["interval"][0] <= 0 <= row["excess"]["interval"][1] for row in report["batch"])
    off = max(abs(row["expected"]["value"] + row["loss"]["value"] - row["tv"]["value"]) for row in report["lossy"])
    lines += ["", f"The difference's interval {'holds' if held else 'does not hold'} 0 for every number of drafts. "
              f"Expected rejection and loss add up to TV within {off:.0e}.", "",
              "![rejections](speculative_rejections.png)", ""]
    return "\n".join(lines)


def numbers(text: str) -> list[int]:
    """Whole numbers separated by commas."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure, draw, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini-math")
    parser.add_argument("--draft", default="mini-math-draft")
    parser.add_argument("--problems", type=int, default=600)
    parser.add_argument("--lossy-problems", type=int, default=100)
    parser.add_argument("--drafts", type=numbers, default=[1, 2, 4])
    parser.add_argument("--rows", type=int, default=128, help="answers written together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    hardware = machine()
    report = {"command": command(), "machine": hardware, **measure(args)}
    keep("speculative_rejections", report, table(report, hardware), args.out)
    picture(report, args.out / "speculative_rejections.png")


if __name__ == "__main__":
    main()
