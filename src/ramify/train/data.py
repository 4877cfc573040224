"""Rows of token ids for training: prompt + solution, padded in batches of similar length."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of a prompt and what follows it; training never looks past `ids`."""

    ids: list[int]
    prompt: int  # how many of the ids belong to the prompt


R = TypeVar("R", bound=Row)


def pad(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """int64 [len(rows), longest], padded on the right. Causal attention never sees padding from a real token."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def buckets(rows: Iterable[R], tokens: int, seed: int) -> list[list[R]]:
    """Batches of rows of similar length, each of at most about `tokens` padded tokens, in random order."""
    batches: list[list[R]] = []
    batch: list[R] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if batch and len(row.ids) * (len(batch) + 1) > tokens:
            batches.append(batch)
            batch = []
        batch.append(row)
    if batch:
        batches.append(batch)
    random.Random(seed).shuffle(batches)
    return batches
