"""What a rule that stops drafts could win at most: rules beside one that knows what the target will accept.

    python benchmarks/draft_stopping_bound.py [--problems 600] [--costs 0.1,0.2,0.3,0.46,0.52] [--head 0.027]

Cuts the target's samples at random places, lets the draft write on, and asks the target for the chance a = min(1, q/p)
of every drafted token, token-wise and at temperature 1. From there the tokens of a round are an expectation, without a
coin: 1 + a_1 + a_1 a_2 + ... for c k + 1 target steps. Every rule has the best of 200 thresholds on these very drafts.

"knows": stops once the chance that all stand, from the true a of what was drafted, is below its threshold: a perfect
acceptance head. "foresees": knows the a of what is to come, too, and takes the best length of every draft: no rule at
all can do better. The shipped head is told with its own time, `--head` target steps a token, and without.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

import torch
from common import command, in_words, keep, machine
from tokenizers import Tokenizer
from torch import Tensor

from ramify.minis import problems
from ramify.minis.evaluate import WEIGHTS
from ramify.minis.tokenizer import CONTEXT, prompt_ids
from ramify.models import load_model
from ramify.train.data import Row
from ramify.train.distill import answer_hidden
from ramify.train.models import load_policy
from ramify.train.sample import sample

LONGEST, CUTS, ROWS = 20, 3, 64


@dataclass(frozen=True, slots=True)
class Drafts:
    """R drafts of up to L tokens. sizes_R: their lengths. problem_R: what they belong to. tokens_RK: expected tokens of
    a round that drafts 0, 1, ..., L of them. Signs by name: [R, L], each falls, or the draft stops where it falls."""

    sizes_R: Tensor
    problem_R: Tensor
    tokens_RK: Tensor
    signs: dict[str, Tensor]


@torch.inference_mode()
def gather(count: int, seed: int) -> Drafts:
    """The drafts behind `CUTS` places of one sample for each of `count` problems."""
    tokenizer = Tokenizer.from_file(str(WEIGHTS / "mini-math" / "tokenizer.json"))
    target, draft = (load_policy(WEIGHTS / name) for name in ("mini-math", "mini-math-draft"))
    eos, pad, rng = target.config.eos_token_id, target.config.pad_token_id, random.Random(seed)
    prompts = [prompt_ids(tokenizer, problem.question) for problem in problems("evaluation", count, seed)]
    asked = {"n": 1, "eos": eos, "pad": pad}
    texts = sample(target, prompts, max_tokens=CONTEXT // 2, seed=seed, **asked)
    begun = [prompt + text[: rng.randrange(len(text))] for prompt, [text] in zip(prompts, texts, strict=True)
             for _ in range(CUTS)]
    paths = [path for [path] in sample(draft, begun, max_tokens=LONGEST, seed=seed + 1, **asked)]
    shape = len(paths), LONGEST
    a_RL, ended_RL = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
    signs = {name: torch.zeros(shape, dtype=torch.float64) for name in ("head", "likelihood", "confidence", "entropy")}
    head = load_model("mini-math-draft").acceptance
    assert head is not None
    for first in range(0, len(paths), ROWS):
        some = range(first, min(first + ROWS, len(paths)))
        rows = [Row(begun[at] + paths[at], len(begun[at])) for at in some]
        places = [(at, place) for at in some for place in range(len(paths[at]))]
        at = tuple(torch.tensor(places).T)
        token_N1 = torch.tensor([token for at in some for token in paths[at]])[:, None]
        hidden_ND = answer_hidden(draft, rows)
        p_NV, q_NV = (model.lm_head(x).double().log_softmax(-1) for model, x in
                      ((draft, hidden_ND), (target, answer_hidden(target, rows))))
        p_N = p_NV.gather(1, token_N1)[:, 0]
        a_RL[at] = (q_NV.gather(1, token_N1)[:, 0] - p_N).exp().clamp(max=1)
        ended_RL[at] = token_N1[:, 0] == eos
        embedded_ND = draft.get_input_embeddings()(token_N1[:, 0])
        signs["head"][at] = head(hidden_ND, embedded_ND, p_N.exp().float()).double().sigmoid().log()
        signs["likelihood"][at], signs["confidence"][at] = p_N, p_NV.max(-1).values
        signs["entropy"][at] = -torch.special.entr(p_NV.exp()).sum(-1)
    for name in ("head", "likelihood"):  # of the whole path
        signs[name] = signs[name].cumsum(1)
    stands_RL = a_RL.cumprod(1)
    gained_RL = stands_RL.masked_fill(ended_RL, 0.0)  # behind an end of sequence comes nothing
    tokens_RK = 1 + torch.cat([torch.zeros(shape[0], 1, dtype=torch.float64), gained_RL.cumsum(1)], 1)
    return Drafts(torch.tensor([len(path) for path in paths]), torch.arange(shape[0]) // CUTS, tokens_RK,
                  {**signs, "knows": stands_RL})


def stopped(drafts: Drafts, sign_RL: Tensor, threshold: float) -> Tensor:
    """Lengths of drafts that end with the first token whose sign is below the threshold."""
    below_RL = torch.cat([sign_RL < threshold, torch.ones(len(sign_RL), 1, dtype=torch.bool)], 1)
    return torch.minimum(below_RL.int().argmax(1) + 1, drafts.sizes_R)


def foreseen(drafts: Drafts, cost: float) -> Tensor:
    """The lengths that make all rounds together fastest, by what each comes to."""
    lengths_K = torch.arange(LONGEST + 1)
    low, high = 0.0, 1.0  # target steps per token
    for _ in range(50):
        middle = (low + high) / 2
        worth_RK = (middle * drafts.tokens_RK - cost * lengths_K - 1).masked_fill(
            lengths_K > drafts.sizes_R[:, None], -torch.inf)
        low, high = (low, middle) if worth_RK.max(1).values.sum() > 0 else (middle, high)
    return worth_RK.argmax(1)


def time(drafts: Drafts, lengths_R: Tensor, cost: float) -> float:
    """Target steps per token."""
    lengths_R = torch.minimum(lengths_R, drafts.sizes_R)
    tokens_R = drafts.tokens_RK.gather(1, lengths_R[:, None])[:, 0]
    return float((cost * lengths_R + 1).sum() / tokens_R.sum())


def saved(drafts: Drafts, chosen_R: Tensor, fixed: int, costs: tuple[float, float]) -> tuple[float, float, float]:
    """Share of the time of the fixed length that is saved, and its 95 % interval over problems."""
    lengths_R = torch.stack([torch.minimum(drafts.sizes_R, each) for each in (
        chosen_R, torch.full_like(chosen_R, fixed))])
    steps_R, base_R = (cost * each + 1 for cost, each in zip(costs, lengths_R, strict=True))
    tokens_R, basic_R = (drafts.tokens_RK.gather(1, each[:, None])[:, 0] for each in lengths_R)
    sums = torch.zeros(4, int(drafts.problem_R.max()) + 1, dtype=torch.float64)
    sums.index_add_(1, drafts.problem_R, torch.stack([steps_R, tokens_R, base_R, basic_R]).double())
    picks = torch.randint(sums.shape[1], (1000, sums.shape[1]), generator=torch.Generator().manual_seed(0))
    drawn = torch.cat([sums.sum(1, keepdim=True), sums[:, picks].sum(-1)], 1)
    share = 1 - drawn[0] / drawn[1] / (drawn[2] / drawn[3])
    low, high = share[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(share[0]), low, high


def main() -> None:
    """Print a table, and keep results/draft_stopping_bound.*."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--costs", default="0.1,0.2,0.3,0.46,0.52")
    parser.add_argument("--head", type=float, default=0.027, help="target steps that judging a token takes")
    args = parser.parse_args()
    hardware = machine()
    drafts = gather(args.problems, args.seed)
    report: dict[str, dict[str, list[float]]] = {}
    names = [*drafts.signs, "foresees", "head with its time"]
    lines = ["# What a rule that stops drafts can win", "", f"`{command()}`", "", in_words(hardware), "",
             f"{len(drafts.sizes_R)} drafts of up to {LONGEST} tokens. Time saved per token beside the best fixed "
             "length, in percent, with 95 % intervals over problems.", "",
             f"| c | fixed: steps per token | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for text in args.costs.split(","):
        cost = float(text)
        base, fixed = min((time(drafts, torch.full_like(drafts.sizes_R, k), cost), k) for k in range(LONGEST + 1))
        found = {}
        for name in names:
            own = cost + args.head * (name == "head with its time")
            sign_RL = drafts.signs.get(name.partition(" ")[0])
            chosen_R = foreseen(drafts, cost) if sign_RL is None else min(
                (stopped(drafts, sign_RL, at) for at in sign_RL.flatten().quantile(torch.linspace(
                    0.003, 0.997, 200, dtype=torch.float64)).tolist()),
                key=lambda lengths_R, own=own: time(drafts, lengths_R, own))
            found[name] = list(saved(drafts, chosen_R, fixed, (own, cost)))
        report[text] = {"fixed": [base, fixed], **found}
        cells = [f"{100 * mid:.1f} ({100 * low:.1f} to {100 * high:.1f})" for mid, low, high in found.values()]
        lines.append(f"| {cost:g} | {base:.4f} (length {fixed}) | {' | '.join(cells)} |")
    keep("draft_stopping_bound", {"machine": hardware, "saved": report}, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
