"""Does a reward model say the same however it is asked? The numbers behind `ramify reward check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ramify.engine.runner import Runner
from ramify.errors import RewardError

if TYPE_CHECKING:
    from ramify.models import Model

SAMPLES = (
    ("Tom has 3 apples. Tom buys 4 more apples. How many apples does Tom have now?", "3+4=7 apples\n#### 7"),
    ("Tom has 3 apples. Tom buys 4 more apples. How many apples does Tom have now?", "3+4=8 apples\n#### 8"),
    ("What is the capital of France?", "Paris."),
    ("What is the capital of France?", "I would rather not say, but it is a large city on a river with a tower."),
    ("Write a haiku about rain.", "Soft rain on the roof\nthe gutters hum an old tune\nevening folds its wings"),
    ("List three primes.", "2, 3 and 5"),
    ("List three primes.", "4, 6 and 8"),
    ("Say hello.", "Hello!"),
)


@dataclass(slots=True, frozen=True)
class Check:
    """The scores of one answer: read alone, read among others, read in two parts, and by transformers."""

    prompt: str
    answer: str
    tokens: int
    alone: float
    together: float
    incremental: float
    reference: float | None

    @property
    def spread(self) -> float:
        """The largest difference between any two of them."""
        scores = [self.alone, self.together, self.incremental]
        scores += [] if self.reference is None else [self.reference]
        return max(scores) - min(scores)


def turn_ids(model: Model, prompt: str, answer: str) -> list[int]:
    """Prompt and finished answer as the model's template writes them.

    Raises `RewardError` when the model's context is too short.
    """
    tokenizer = model.tokenizer
    ids = tokenizer.encode_prompt(prompt) + tokenizer.encode(answer) + tokenizer.closing_ids
    if len(ids) > model.decoder.config.max_positions:
        raise RewardError(f"a text within the {model.decoder.config.max_positions} tokens of {model.name}",
                          f"{len(ids)} tokens", "score a shorter one")
    return ids


def check_reward(model: Model, texts: Sequence[tuple[str, str]] = SAMPLES, batch: int = 8) -> list[Check]:
    """Score every (prompt, answer) in all ways.

    Args:
        model: loaded with its scalar head.
        texts: finished answers.
        batch: how many are read in one forward.

    Costs three passes over the texts, and one by transformers if that is installed.
    """
    rows = [turn_ids(model, prompt, answer) for prompt, answer in texts]
    alone = [score for row in rows for score in score_ids(model, [row])]
    together = [score for at in range(0, len(rows), batch) for score in score_ids(model, rows[at : at + batch])]
    incremental = [score for row in rows for score in score_ids(model, [row], parts=2)]
    reference = _transformers_scores(model, rows)
    columns = zip(texts, rows, alone, together, incremental, reference, strict=True)
    return [Check(prompt, answer, len(row), *scores) for (prompt, answer), row, *scores in columns]


def score_ids(model: Model, rows: Sequence[list[int]], parts: int = 1) -> list[float]:
    """The raw logit at the last id of each row, all rows in one ragged forward per part."""
    size = 16
    runner = Runner(model, "reward", sum(len(row) + size for row in rows), size, prefix_cache=False)
    contexts = [runner.open(row) for row in rows]
    assert model.head is not None
    for part in range(parts):
        pieces = [row[len(row) * part // parts : len(row) * (part + 1) // parts] for row in rows]
        hidden_TD = runner.forward([(context, ids, None) for context, ids in zip(contexts, pieces, strict=True)])
    ends = np.cumsum([len(piece) for piece in pieces]) - 1
    return [model.head(hidden_TD[end : end + 1]).item() for end in ends.tolist()]


def _transformers_scores(model: Model, rows: Sequence[list[int]]) -> list[float | None]:
    """The same ids through transformers' sequence classifier, one at a time; None where it is not installed."""
    try:
        import torch
        from transformers import AutoModelForSequenceClassification
    except ImportError:
        return [None] * len(rows)
    reference = AutoModelForSequenceClassification.from_pretrained(model.path, dtype=torch.float32).eval()
    with torch.inference_mode():
        return [reference(torch.tensor([row])).logits[0, 0].item() for row in rows]
