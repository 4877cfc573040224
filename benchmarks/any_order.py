"""Any-subset speculation on a small any-order model: calls and their law, at several draft lengths.

    python benchmarks/any_order.py [--steps 600] [--texts 300] [--verifier block]

Trains a transformer in half a minute on sums such as "07+95=102" and fills blanks in them in a random order: calls per
blank, how many of the sums hold, and what the model itself says of the texts. The last two have to agree whatever was
drafted, as the law is the same.
"""

from __future__ import annotations

import argparse
from statistics import mean, stdev
from typing import Any

import torch
from any_order_model import TwoStream, train
from common import command, in_words, keep, machine

from ramify.sampling.draws import Key, KeyedDraws
from ramify.speculative import verify_block, verify_token
from ramify.speculative.any_order import Filled, fill, fill_in_turn

LETTERS = "0123456789+="
SIZE = len("07+95=102")
LENGTHS = (1, 2, 3, 5, 8)


def sums(count: int, seed: int) -> torch.Tensor:
    """ids_BN of random sums."""
    pairs = torch.randint(100, (count, 2), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.tensor([[LETTERS.index(letter) for letter in f"{a:02}+{b:02}={a + b:03}"] for a, b in pairs])


def is_right(tokens: list[int]) -> bool:
    """Whether the text is a sum that holds."""
    text = "".join(LETTERS[token] for token in tokens)
    left, _, right = text.partition("=")
    parts = left.split("+")
    return len(parts) == 2 and all(map(str.isdigit, (*parts, right))) and sum(map(int, parts)) == int(right)


def log_probability(model: TwoStream, done: Filled, order: list[int], known: int) -> float:
    """What the model says of the blanks, in this order."""
    rows = model(done.tokens, order, range(known, SIZE))
    return sum(float(row[done.tokens[order[known + at]]].log()) for at, row in enumerate(rows))


def measure(model: TwoStream, texts: torch.Tensor, verify: Any) -> list[dict[str, Any]]:
    """One row per way to fill the same blanks in the same orders."""
    rows = []
    for length in (0, *LENGTHS):
        calls, right, said, blanks = [], [], [], 0
        for at, ids in enumerate(texts.tolist()):
            generator = torch.Generator().manual_seed(at)
            order = torch.randperm(SIZE, generator=generator).tolist()
            known = int(torch.randint(SIZE - 1, (1,), generator=generator))
            given = (model, ids, order, known, KeyedDraws(), Key(1000 * length + at, 0))
            done = fill(*given, length=length, verify=verify) if length else fill_in_turn(*given)
            blanks += SIZE - known
            calls.append(done.calls)
            right.append(is_right(done.tokens))
            said.append(log_probability(model, done, order, known))
            assert done.calls <= SIZE - known
        rows.append({"length": length, "calls_per_blank": sum(calls) / blanks, "right": mean(right),
                     "log_probability": mean(said), "error": stdev(said) / len(said) ** 0.5})
    return rows


def main() -> None:
    """Train, measure, keep results/any_order.*."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--verifier", choices=["token", "block"], default="block")
    args = parser.parse_args()
    hardware = machine()
    torch.manual_seed(0)
    model = TwoStream(len(LETTERS), SIZE)
    loss = train(model, lambda step: sums(128, step), args.steps)
    rows = measure(model, sums(args.texts, -1), {"token": verify_token, "block": verify_block}[args.verifier])
    lines = ["# Any-subset speculation on sums", "", f"`{command()}`", "", in_words(hardware), "",
             f"Loss {loss:.3f} nats a token after {args.steps} steps. {args.texts} texts of {SIZE} tokens, of which a "
             "random part is blank, filled in a random order.", "",
             "| drafted at once | calls per blank | sums that hold | log-probability (standard error) |",
             "|---|---|---|---|"]
    lines += [f"| {row['length'] or 'none: in turn'} | {row['calls_per_blank']:.3f} | {row['right']:.3f} | "
              f"{row['log_probability']:.2f} ({row['error']:.2f}) |" for row in rows]
    keep("any_order", {"machine": hardware, "loss": loss, "rows": rows}, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
