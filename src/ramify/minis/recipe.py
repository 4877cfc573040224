"""Trains the family from nothing: `python -m ramify.minis.recipe [--out DIR] [--stage S] [--weights DIR]`.

Two worker processes use two cores better than one process with two threads:
`torchrun --nproc-per-node 2 -m ramify.minis.recipe`. Every stage resumes where it was stopped; `--out` keeps
checkpoints and samples. Stages: tokenizer, target, samples, reward, draft, ref, dpo, card.
"""

import argparse
import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from ramify.minis.evaluate import WEIGHTS, attempts, evaluate, pass_rates
from ramify.minis.problems import Problem, problem_stream
from ramify.minis.tokenizer import (
    BOS,
    CONTEXT,
    EOS,
    PAD,
    SPECIAL,
    answer_ids,
    prompt_ids,
    save_tokenizer,
    train_tokenizer,
)  # fmt: skip
from ramify.models import AcceptanceHead
from ramify.train.acceptance import save_acceptance, train_acceptance
from ramify.train.data import Row, buckets
from ramify.train.distill import train_draft
from ramify.train.dpo import Pair, answer_logprobs, train_dpo
from ramify.train.judge import look_back, replaced, rescale_stream, shared_length, train_judge
from ramify.train.lm import train_lm
from ramify.train.loop import LoopConfig, worker
from ramify.train.models import Trunk, export, load_policy, new_llama, reward_from_policy
from ramify.train.reward import Judged

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R", bound=Row)

BLOCK = 16  # batches that are made, bucketed by length and shuffled together
TOKENS_A_ROW = {(1, 2): 55, (1, 5): 70}  # about the mean of prompt and solution, to size a block
# Streams of train-split problems that are kept apart.
LM_SEED, REWARD_SEED, SLIP_SEED = 1_000_000, 2_000_000, 5_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """Width and depth of one Llama."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int


TARGET = Size(hidden=256, inner=640, layers=6, heads=8, kv_heads=4)  # 4.3 M parameters
SMALL = Size(hidden=128, inner=384, layers=5, heads=4, kv_heads=2)  # 1.1 M: reference and DPO policy
DRAFT = Size(hidden=128, inner=384, layers=3, heads=4, kv_heads=2)  # 0.7 M

TARGET_LOOP = LoopConfig(steps=660, stop=563)  # a finished one solves too much for a search to add anything
SMALL_LOOP = LoopConfig(steps=1000)
DRAFT_SFT_LOOP = LoopConfig(steps=900, decay=0.1)
DRAFT_LOOP = LoopConfig(steps=200, matrix_lr=0.01, other_lr=0.0015, decay=0.7)
DRAFT_SHARPEN_LOOP = LoopConfig(steps=150, matrix_lr=0.004, other_lr=0.0006, decay=0.7)
HEAD_LOOP = LoopConfig(steps=120, matrix_lr=0.01, other_lr=0.003, decay=0.7)
REWARD_LOOP = LoopConfig(steps=6000, matrix_lr=0.006, decay=0.5)
DPO_LOOP = LoopConfig(steps=140, matrix_lr=0.0005, other_lr=0.00005, decay=0.7)

TOKENS_A_STEP = 6000  # padded tokens, target and reward
SMALL_TOKENS = 4000  # draft, reference
JUDGE_TOKENS = 2000  # the reward model's new layers
HEAD_TOKENS, HEAD_LAYERS = 2000, 3
JUDGING_LAYERS = 2
SLIP_RATES = (0.05, 0.1, 0.2)  # shares of digits and signs that are redrawn to show the judge mistakes
EASY_STEPS = 120  # at first, problems of one or two lines only


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs and finished weights are kept."""

    out: Path
    weights: Path

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.out / "tokenizer" / "tokenizer.json"))


def mine(items: Sequence[T]) -> Sequence[T]:
    """This worker's share."""
    rank, workers = worker()
    return items[rank::workers]


def row_of(tokenizer: Tokenizer, problem: Problem) -> Row:
    """The problem with its worked solution as a training row."""
    prompt = prompt_ids(tokenizer, problem.question)
    return Row(prompt + answer_ids(tokenizer, problem.solution), len(prompt))


def fresh_problems(tokenizer: Tokenizer, tokens: int, easy_steps: int = EASY_STEPS) -> Callable[[int], Sequence[Row]]:
    """Batches of never-ending new problems, a function of the step: easy ones first, then 1 to 5 lines."""
    made: dict[int, list[list[Row]]] = {}

    def batch(step: int) -> Sequence[Row]:
        block = step // BLOCK
        if block not in made:
            made.clear()
            span = (1, 2) if block * BLOCK < easy_steps else (1, 5)
            stream = problem_stream("train", LM_SEED + block, span)
            rows = [row_of(tokenizer, p) for p in islice(stream, int(BLOCK * tokens / TOKENS_A_ROW[span]))]
            made[block] = buckets(rows, tokens, block)
        return mine(made[block][step % BLOCK % len(made[block])])

    return batch


def epochs(rows: Sequence[R], tokens: int) -> Callable[[int], Sequence[R]]:
    """Batches that go round a fixed set of rows, regrouped every time round."""
    made: dict[int, list[list[R]]] = {}
    per_epoch = len(buckets(rows, tokens, 0))

    def batch(step: int) -> Sequence[R]:
        epoch = step // per_epoch
        if epoch not in made:
            made.clear()
            made[epoch] = buckets(rows, tokens, epoch)
        return mine(made[epoch][step % per_epoch])

    return batch


def new_model(tokenizer: Tokenizer, size: Size) -> Trunk:
    """A fresh Llama of that size, the same for every worker."""
    torch.manual_seed(0)
    bos, eos, pad = (SPECIAL.index(token) for token in (BOS, EOS, PAD))
    return new_llama(
        tokenizer.get_vocab_size(), hidden=size.hidden, inner=size.inner, layers=size.layers, heads=size.heads,
        kv_heads=size.kv_heads, context=CONTEXT, bos=bos, eos=eos, pad=pad,
    )  # fmt: skip


def publish(place: Place, model: Trunk, name: str) -> None:
    """Export `model` with the tokenizer's files as folder `name` of the weights."""
    if worker()[0] == 0:
        export(model, place.weights / name)
        save_tokenizer(place.tokenizer, place.weights / name)
    wait_for_all()


def wait_for_all() -> None:
    """Return once every worker is here."""
    if dist.is_initialized():
        dist.barrier()


def make_tokenizer(place: Place) -> None:
    if worker()[0] == 0:
        save_tokenizer(train_tokenizer(), place.out / "tokenizer")
    wait_for_all()


def train_target(place: Place) -> None:
    tokenizer = place.tokenizer
    model = new_model(tokenizer, TARGET)
    train_lm(model, fresh_problems(tokenizer, TOKENS_A_STEP), TARGET_LOOP, place.out / "target")
    publish(place, model, "mini-math")


def judged_samples(place: Place, policy: str, seed: int, count: int, n: int) -> list[Judged]:
    """`n` samples of a published policy for each of `count` train-split problems, made once and kept in `out`."""
    kept = place.out / "samples" / f"{policy}.jsonl"
    rank, workers = worker()
    parts = [kept.with_suffix(f".{r}of{workers}") for r in range(workers)]
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        asked = list(enumerate(islice(problem_stream("train", seed), count)))[rank::workers]
        parts[rank].write_text("".join(sample_lines(place, policy, seed, asked, n)))
        wait_for_all()
        if rank == 0:
            kept.write_text("".join(part.read_text() for part in parts))
    wait_for_all()
    return [Judged(*json.loads(line)) for line in kept.read_text().splitlines()]


def sample_lines(
    place: Place, policy: str, seed: int, asked: Sequence[tuple[int, Problem]], n: int, size: int = 200
) -> Iterator[str]:
    """JSON lines [ids, prompt length, right, problem number] of `n` samples for each numbered problem."""
    tokenizer, model = place.tokenizer, load_policy(place.weights / policy)
    for first in range(0, len(asked), size):
        part = asked[first : first + size]
        tries = attempts(model, tokenizer, [problem for _, problem in part], n=n, seed=seed + part[0][0])
        log.info("%s %d/%d %s", policy, first + len(part), len(asked), pass_rates(tries))
        for (number, _), group in zip(part, tries, strict=True):
            yield from (json.dumps([a.ids, a.prompt, a.correct, number]) + "\n" for a in group)


def target_samples(place: Place) -> list[Judged]:
    return judged_samples(place, "mini-math", REWARD_SEED, count=4500, n=8)


def train_reward_model(place: Place) -> None:
    """The judge stands on the target's training run to its end: a better solver sees more mistakes."""
    samples, tokenizer = target_samples(place), place.tokenizer
    run = place.out / "reward-trunk"
    if worker()[0] == 0 and not run.exists():
        shutil.copytree(place.out / "target", run)
    wait_for_all()
    policy = new_model(tokenizer, TARGET)
    train_lm(policy, fresh_problems(tokenizer, TOKENS_A_STEP), replace(TARGET_LOOP, stop=None), run)
    policy.requires_grad_(False)
    torch.manual_seed(1)
    model = reward_from_policy(policy, extra_layers=JUDGING_LAYERS, frozen=True)
    rescale_stream(model, TARGET.layers, samples[:400])
    look_back(model, policy, TARGET.layers, samples[:400])
    sampled = epochs(how_far_sound(tokenizer, samples), JUDGE_TOKENS)
    slips = slipped_problems(tokenizer, JUDGE_TOKENS)

    def batch(step: int) -> Sequence[Judged]:
        return sampled(step) if step % 3 else slips(step)

    train_judge(model, policy, batch, REWARD_LOOP, place.out / "reward")
    model.config.ramify = {"partial": "open"}  # prefixes were judged as they stand, without an end
    publish(place, model, "mini-math-reward")


def how_far_sound(tokenizer: Tokenizer, samples: Sequence[Judged]) -> list[Judged]:
    """The samples with the length of what they share with the worked solution; a right one counts as sound."""
    stream = problem_stream("train", REWARD_SEED)
    worked = [row_of(tokenizer, problem).ids for problem in islice(stream, 1 + max(s.group for s in samples))]
    shared = [shared_length(s.ids, worked[s.group]) for s in samples]
    return [
        replace(s, sound=len(s.ids) if s.correct else length) for s, length in zip(samples, shared, strict=True)
    ]


def slipped_problems(tokenizer: Tokenizer, tokens: int) -> Callable[[int], Sequence[Judged]]:
    """Batches of worked solutions in which some digits and signs were replaced, a function of the step."""
    kinds = [set(tokenizer.encode(characters).ids) for characters in ("0123456789", "+-*/")]
    made: dict[int, list[list[Judged]]] = {}

    def batch(step: int) -> Sequence[Judged]:
        block = step // BLOCK
        if block not in made:
            made.clear()
            rng = random.Random(block)
            stream = problem_stream("train", SLIP_SEED + block, (1, 5))
            count = int(BLOCK * tokens / TOKENS_A_ROW[1, 5])
            rows = [replaced(row_of(tokenizer, p), kinds, rng.choice(SLIP_RATES), rng) for p in islice(stream, count)]
            made[block] = buckets(rows, tokens, block)
        return mine(made[block][step % BLOCK % len(made[block])])

    return batch


def train_draft_model(place: Place) -> None:
    tokenizer = place.tokenizer
    draft = new_model(tokenizer, DRAFT)
    train_lm(draft, fresh_problems(tokenizer, SMALL_TOKENS), DRAFT_SFT_LOOP, place.out / "draft-sft")
    target = load_policy(place.weights / "mini-math")
    batches, first = epochs(target_samples(place), SMALL_TOKENS), DRAFT_LOOP.steps
    train_draft(draft, target, batches, DRAFT_LOOP, place.out / "draft", loss="forward_kl")
    train_draft(draft, target, lambda step: batches(first + step), DRAFT_SHARPEN_LOOP, place.out / "draft-sharp",
                loss="tvd++")  # fmt: skip
    publish(place, draft, "mini-math-draft")
    train_head(place, target)


def train_head(place: Place, target: Trunk) -> None:
    """The acceptance head of the draft as it was published, its weights rounded.

    Both sides weigh the same: its chances were then closer, and drafts that it stopped cheaper, than with 6 to 1.
    """
    folder = place.weights / "mini-math-draft"
    torch.manual_seed(0)
    head = AcceptanceHead(DRAFT.hidden, HEAD_LAYERS)
    batches = epochs(target_samples(place), HEAD_TOKENS)
    train_acceptance(head, load_policy(folder), target, batches, HEAD_LOOP, place.out / "draft-head", reject_weight=1.0)
    if worker()[0] == 0:
        save_acceptance(head, folder)
    wait_for_all()


def train_reference(place: Place) -> None:
    tokenizer = place.tokenizer
    model = new_model(tokenizer, SMALL)
    train_lm(model, fresh_problems(tokenizer, SMALL_TOKENS), SMALL_LOOP, place.out / "ref")
    publish(place, model, "mini-math-ref")


def train_dpo_policy(place: Place) -> None:
    reference = load_policy(place.weights / "mini-math-ref")
    size = 64
    pairs = preference_pairs(target_samples(place), most=3)[: size * (DPO_LOOP.steps + 1)]
    pairs = with_reference(reference, pairs)
    policy = load_policy(place.weights / "mini-math-ref")

    def batch(step: int) -> Sequence[Pair]:
        first = step * size % (len(pairs) - size)
        return mine(pairs[first : first + size])

    train_dpo(policy, batch, DPO_LOOP, place.out / "dpo")
    publish(place, policy, "mini-math-dpo")


def measure(place: Place) -> None:
    if worker()[0] == 0:
        log.info("%s", json.dumps(evaluate(place.weights, count=200, n=16, split="evaluation", seed=0), indent=1))
    wait_for_all()


def preference_pairs(samples: Sequence[Judged], most: int) -> list[Pair]:
    """Right against wrong samples of one problem, up to `most` pairs a problem and no sample twice, shuffled."""
    groups: dict[int, tuple[list[Row], list[Row]]] = {}
    for sample in samples:
        groups.setdefault(sample.group, ([], []))[sample.correct].append(sample)
    pairs = [Pair(r, w) for wrong, right in groups.values() for r, w in list(zip(right, wrong, strict=False))[:most]]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    return [pairs[i] for i in order.tolist()]


@torch.inference_mode()
def with_reference(reference: Trunk, pairs: list[Pair], size: int = 64) -> list[Pair]:
    """The pairs with the reference's log-probabilities filled in."""
    found: list[Pair] = []
    for first in range(0, len(pairs), size):
        part = pairs[first : first + size]
        chosen = answer_logprobs(reference, [p.chosen for p in part]).tolist()
        rejected = answer_logprobs(reference, [p.rejected for p in part]).tolist()
        found += [Pair(p.chosen, p.rejected, c, r) for p, c, r in zip(part, chosen, rejected, strict=True)]
    return found


STAGES: dict[str, Callable[[Place], object]] = {
    "tokenizer": make_tokenizer,
    "target": train_target,
    "samples": target_samples,
    "reward": train_reward_model,
    "draft": train_draft_model,
    "ref": train_reference,
    "dpo": train_dpo_policy,
    "card": measure,
}


def main() -> None:
    """Run one stage or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("mini-runs"), help="checkpoints and samples")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where finished models are exported")
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_flush_denormal(True)  # subnormal moments of rare embeddings slow a CPU down
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    for name in STAGES if args.stage == "all" else (args.stage,):
        STAGES[name](Place(args.out, args.weights))


if __name__ == "__main__":
    main()
