"""Measures the family on held-out problems: `python -m ramify.minis.evaluate [--problems 200] [--json]`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ramify.minis.problems import Problem, Split, is_correct, problems
from ramify.minis.tokenizer import EOS, MAX_ANSWER, PAD, SPECIAL, prompt_ids
from ramify.train.data import buckets
from ramify.train.distill import answer_logits
from ramify.train.dpo import answer_logprobs
from ramify.train.models import Trunk, load_policy, load_reward
from ramify.train.reward import Judged, scores
from ramify.train.sample import sample

WEIGHTS = Path(__file__).parent / "weights"
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
REPORT_TOKENS = 4000  # read at once


def attempts(model: Trunk, tokenizer: Tokenizer, asked: Sequence[Problem], *, n: int,
             temperature: float = 1.0, seed: int = 0) -> list[list[Judged]]:  # fmt: skip
    """`n` judged samples of `model` for each problem; unfinished ones count as wrong."""
    prompts = [prompt_ids(tokenizer, problem.question) for problem in asked]
    eos = SPECIAL.index(EOS)
    found = sample(
        model, prompts, n=n, max_tokens=MAX_ANSWER, eos=eos, pad=SPECIAL.index(PAD),
        temperature=temperature, seed=seed,
    )  # fmt: skip
    return [
        [
            Judged(prompt + text, len(prompt),
                   text[-1] == eos and is_correct(problem, tokenizer.decode(text)), group)
            for text in texts
        ]
        for group, (problem, prompt, texts) in enumerate(zip(asked, prompts, found, strict=True))
    ]  # fmt: skip


def pass_rates(tries: list[list[Judged]]) -> dict[str, float]:
    """pass@1 (share of right samples) and pass@n (share of problems with a right one) of n samples each."""
    n = len(tries[0])
    one = sum(a.correct for group in tries for a in group) / (n * len(tries))
    some = sum(any(a.correct for a in group) for group in tries) / len(tries)
    return {"pass@1": one} if n == 1 else {"pass@1": one, f"pass@{n}": some}


def ranking_accuracy(score: Sequence[float], tries: Sequence[Judged]) -> float:
    """Share of (right, wrong) pairs of one problem where the right one scores higher; ties count half."""
    wins = pairs = 0.0
    by_group: dict[int, list[int]] = {}
    for i, attempt in enumerate(tries):
        by_group.setdefault(attempt.group, []).append(i)
    for members in by_group.values():
        for right in (i for i in members if tries[i].correct):
            for wrong in (i for i in members if not tries[i].correct):
                wins += (score[right] > score[wrong]) + 0.5 * (score[right] == score[wrong])
                pairs += 1
    return wins / pairs if pairs else float("nan")


@torch.inference_mode()
def prefix_scores(model: Trunk, tries: Sequence[Judged], size: int = 64) -> list[Tensor]:
    """For each attempt the scores of all its prefixes, from the bare prompt to the whole text."""
    found = []
    for first in range(0, len(tries), size):
        batch = tries[first : first + size]
        score_BT = scores(model, list(batch))
        found += [score_BT[b, a.prompt - 1 : len(a.ids)] for b, a in enumerate(batch)]
    return found


def reward_report(model: Trunk, tries: list[Judged]) -> dict[str, float]:
    """Ranking accuracy within a problem by the fraction of the solution seen; sign accuracy of whole ones."""
    prefix = prefix_scores(model, tries)
    report = {}
    for fraction in FRACTIONS[1:]:
        seen = [float(s[round(fraction * (len(s) - 1))]) for s in prefix]
        report[f"ranking@{fraction:g}"] = ranking_accuracy(seen, tries)
    final = [float(s[-1]) for s in prefix]
    right = sum((score > 0) == a.correct for score, a in zip(final, tries, strict=True))
    report["sign_accuracy"] = right / len(tries)
    return report


def best_of(score: Sequence[float], tries: Sequence[Judged]) -> float:
    """Accuracy when, for each problem, the attempt with the highest score is the answer."""
    best: dict[int, int] = {}
    for i, attempt in enumerate(tries):
        if attempt.group not in best or score[i] > score[best[attempt.group]]:
            best[attempt.group] = i
    return sum(tries[i].correct for i in best.values()) / len(best)


@torch.inference_mode()
def draft_report(draft: Trunk, target: Trunk, tries: Sequence[Judged], depth: int = 4) -> dict[str, float]:
    """How much of the draft (p) the target (q) accepts, along the target's own samples at temperature 1.

    `acceptance`: mean of sum_v min(p, q) over all tokens, from whole distributions. `acceptance@i`: the same where
    the i-th token of a draft stands, the first i - 1 having been accepted. `tokens_per_call`: what a target call
    yields with drafts of `depth` tokens and token-wise verification. Nothing is drawn: given that token x came out,
    it was an accepted draft with probability min(1, p(x)/q(x)), so the chance that a draft begins at each place of a
    text follows from those of the places before.
    """
    overlap_N, ratio_N = [], []
    for rows in buckets(tries, REPORT_TOKENS, seed=0):
        logp_NV, logq_NV = (answer_logits(model, rows).log_softmax(-1) for model in (draft, target))
        ids_N1 = torch.cat([torch.tensor(row.ids[row.prompt :]) for row in rows])[:, None]
        sizes = [len(row.ids) - row.prompt for row in rows]
        overlap_N += torch.minimum(logp_NV, logq_NV).exp().sum(-1).split(sizes)
        ratio_N += (logp_NV - logq_NV).gather(1, ids_N1).exp().clamp(max=1)[:, 0].split(sizes)
    calls, met, accepted = 0.0, [0.0] * depth, [0.0] * depth
    for overlap_T, ratio_T in zip(overlap_N, ratio_N, strict=True):
        overlap, ratio = overlap_T.tolist(), ratio_T.tolist()
        begins = [1.0] + [0.0] * (len(ratio) + depth)  # the chance that a draft begins at each place
        for place in range(len(ratio)):
            calls += begins[place]
            survives = begins[place]
            for ahead in range(min(depth, len(ratio) - place)):
                met[ahead] += survives
                accepted[ahead] += survives * overlap[place + ahead]
                begins[place + ahead + 1] += survives * (1 - ratio[place + ahead])
                survives *= ratio[place + ahead]
            begins[min(place + depth, len(ratio)) + 1] += survives
    tokens = sum(map(len, overlap_N))
    by_place = {f"acceptance@{n + 1}": accepted[n] / met[n] for n in range(depth) if met[n]}
    mean = sum(float(overlap_T.sum()) for overlap_T in overlap_N) / tokens
    return {"acceptance": mean, **by_place, "tokens_per_call": tokens / calls}


@torch.inference_mode()
def implicit_rewards(policy: Trunk, reference: Trunk, tries: Sequence[Judged], size: int = 64) -> list[float]:
    """log pi(answer) - log reference(answer) of each attempt."""
    found: list[float] = []
    for first in range(0, len(tries), size):
        rows = list(tries[first : first + size])
        found += (answer_logprobs(policy, rows) - answer_logprobs(reference, rows)).tolist()
    return found


def evaluate(weights: Path, count: int, n: int, split: Split, seed: int) -> dict[str, dict[str, float]]:
    """Every number of the model card, by member. Cost: about `count` x `n` solutions of three policies."""
    tokenizer = Tokenizer.from_file(str(weights / "mini-math" / "tokenizer.json"))
    asked = problems(split, count, seed)
    target = load_policy(weights / "mini-math")
    tries = attempts(target, tokenizer, asked, n=n, seed=seed)
    greedy = attempts(target, tokenizer, asked, n=1, temperature=0.0)
    flat = [a for group in tries for a in group]
    report = {"mini-math": {**pass_rates(tries), "greedy": pass_rates(greedy)["pass@1"]}}
    for steps in (2, 3, 4, 5):
        of_steps = [group for group, problem in zip(tries, asked, strict=True) if problem.steps == steps]
        report["mini-math"][f"pass@1, {steps} steps"] = pass_rates(of_steps)["pass@1"]
    if (weights / "mini-math-draft").exists():
        sampled = [group[0] for group in tries]
        report["mini-math-draft"] = draft_report(load_policy(weights / "mini-math-draft"), target, sampled)
    if (weights / "mini-math-reward").exists():
        model = load_reward(weights / "mini-math-reward")
        final = [float(s[-1]) for s in prefix_scores(model, flat)]
        report["mini-math-reward"] = {**reward_report(model, flat), f"best_of_{n}": best_of(final, flat)}
    if (weights / "mini-math-dpo").exists():
        policy, reference = (load_policy(weights / f"mini-math-{name}") for name in ("dpo", "ref"))
        report["mini-math-ref"] = pass_rates(attempts(reference, tokenizer, asked, n=n, seed=seed))
        own = attempts(policy, tokenizer, asked, n=n, seed=seed)
        log_ratio = implicit_rewards(policy, reference, flat)
        report["mini-math-dpo"] = {
            **pass_rates(own),
            "ranking of mini-math's samples": ranking_accuracy(log_ratio, flat),
            f"best_of_{n} of mini-math's samples": best_of(log_ratio, flat),
        }
    return {member: {name: round(x, 4) for name, x in row.items()} for member, row in report.items()}


def main() -> None:
    """Print every number as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("-n", type=int, default=16, help="samples a problem")
    parser.add_argument("--split", choices=("train", "validation", "evaluation"), default="evaluation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    report = evaluate(args.weights, args.problems, args.n, args.split, args.seed)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
