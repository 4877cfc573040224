"""Language models given by a table: small enough to enumerate, run by the real engine.

The decoder learns its whole prefix through the real paged attention. Its values are
(token + 1) * base ** position and its scores are zero, so attention returns their mean; times the number of
tokens that is the prefix written in base `base`, exact in float64 up to about 18 tokens. A cache that loses,
repeats or leaks a position changes the number, and with it the distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ramify.models import Model
from ramify.models.config import parse_config
from ramify.models.decoder import Attend
from ramify.sampling.draws import mix

LETTERS = "abcdefgh"
Table = Callable[[tuple[int, ...]], Sequence[float]]


class Letters:
    """Tokenizer of the tabular models: token i is a letter, the last token is end of sequence."""

    fingerprint = "letters"
    template = None

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary_size = vocabulary
        self.eos_ids = (vocabulary - 1,)
        self.closing_ids = [vocabulary - 1]

    def encode(self, text: str) -> list[int]:
        """Letters to ids."""
        return [LETTERS.index(letter) for letter in text]

    encode_prompt = encode

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to letters; end of sequence is skipped."""
        return "".join(LETTERS[token] for token in ids if token not in self.eos_ids)


class TabularDecoder:
    """A decoder whose logits are log(table(prefix)), the prefix being prompt and answer so far."""

    dtype, fused, num_parameters = torch.float64, None, 1

    def __init__(self, vocabulary: int, table: Table) -> None:
        self.vocabulary, self.table, self.base = vocabulary, table, vocabulary + 1
        self.config = parse_config({
            "model_type": "llama", "vocab_size": vocabulary, "hidden_size": 1, "num_hidden_layers": 1,
            "num_attention_heads": 1, "head_dim": 2, "intermediate_size": 1, "max_position_embeddings": 18,
        })
        self.logits_of = lru_cache(None)(self._logits_of)

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """hidden_T1: the prefix of every token as a number."""
        digits_T = (tokens_T + 1).double() * float(self.base) ** positions_T.double()
        v_T12 = digits_T[:, None, None].expand(-1, 1, 2)
        flat_T12 = torch.zeros_like(v_T12)
        mean_T = attend(0, flat_T12, flat_T12, v_T12.contiguous())[:, 0, 0]
        return (mean_T * (positions_T + 1)).round()[:, None]

    def logits(self, hidden_K1: Tensor) -> Tensor:
        """logits_KV in float64; a probability of 0 is a logit of -inf."""
        return torch.stack([self.logits_of(int(code)) for code in hidden_K1[:, 0].tolist()])

    def _logits_of(self, code: int) -> Tensor:
        return torch.tensor(self.table(self.prefix(code)), dtype=torch.float64).log()

    def prefix(self, code: int) -> tuple[int, ...]:
        """The tokens that a hidden state spells."""
        tokens = []
        while code:
            code, digit = divmod(code, self.base)
            tokens.append(digit - 1)
        return tuple(tokens)

    def flops(self, num_tokens: int, context_tokens_total: int) -> float:
        """As if the table were one parameter."""
        return 2.0 * num_tokens + context_tokens_total


def random_table(vocabulary: int, seed: int, zeros: float = 0.0) -> Table:
    """A distribution for every prefix, the same for the same seed; each entry but the last is 0 with `zeros`."""

    def table(prefix: tuple[int, ...]) -> Sequence[float]:
        source = np.random.default_rng(mix(seed, len(prefix), *prefix))
        weights = source.exponential(size=vocabulary)
        weights[:-1] *= source.random(vocabulary - 1) >= zeros
        return list(weights / weights.sum())

    return table


def tabular_model(vocabulary: int = 3, seed: int = 0, *, table: Table | None = None, zeros: float = 0.0) -> Model:
    """A tabular language model over `vocabulary` tokens, the last of them end of sequence."""
    decoder = TabularDecoder(vocabulary, table or random_table(vocabulary, seed, zeros))
    return Model(f"tabular-{vocabulary}-{seed}", decoder, Letters(vocabulary), None, Path())  # type: ignore[arg-type]


def tabular_reward(vocabulary: int, score: Callable[[tuple[int, ...]], float]) -> Model:
    """A reward model whose scalar head is `score(prefix)`, the prefix being prompt and answer."""
    decoder = TabularDecoder(vocabulary, random_table(vocabulary, 0))

    def head(hidden_K1: Tensor) -> Tensor:
        return torch.tensor([score(decoder.prefix(int(code))) for code in hidden_K1[:, 0].tolist()])

    return Model("tabular-reward", decoder, Letters(vocabulary), head, Path())  # type: ignore[arg-type]
