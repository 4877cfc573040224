"""Random Llamas small enough for hundreds of searches, with a count of what they were fed."""

from functools import lru_cache
from pathlib import Path

import torch

from ramify.engine import Engine
from ramify.exact.tabular import Letters
from ramify.models import DenseAttention, Model
from ramify.models.config import parse_config
from ramify.models.decoder import Decoder
from ramify.models.heads import ScalarHead

VOCABULARY, EOS = 8, 7


class Doubles(Letters):
    """Another tokenizer over the same letters: "xx" is written [6, x], so a new letter can change an old id."""

    fingerprint = "doubles"

    def __init__(self):
        super().__init__(VOCABULARY)
        self.closing_ids = [2, EOS, 1]

    def encode(self, text):
        ids, letters = [], super().encode(text)
        while letters:
            double = letters[:2] == letters[:1] * 2
            ids += [6, letters[0]] if double else letters[:1]
            letters = letters[2 if double else 1 :]
        return ids

    encode_prompt = encode


class Counting:
    """A decoder that keeps the number of ids of every call; `dense` is the same without a cache."""

    def __init__(self, decoder):
        self.decoder, self.calls = decoder, []
        self.dense = lru_cache(10_000)(self._dense)

    def __call__(self, tokens_T, positions_T, attend):
        self.calls.append(len(tokens_T))
        return self.decoder(tokens_T, positions_T, attend)

    def __getattr__(self, name):
        return getattr(self.decoder, name)

    def _dense(self, ids):
        attend = DenseAttention(self.decoder.config, [len(ids)])
        return self.decoder(torch.tensor(ids), torch.arange(len(ids)), attend)


def tiny_model(seed, *, dtype=torch.float64, tokenizer=None, positions=1024):
    """Two layers, four heads in two groups; every model has a scalar head and can play any role."""
    config = parse_config({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 32,
        "max_position_embeddings": positions,
    })  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(config).to(dtype).requires_grad_(False)
    for name, parameter in decoder.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.copy_(1 + 0.1 * noise if "norm" in name or "_in." in name else 0.5 * noise)
    head = ScalarHead(torch.randn(1, 16, generator=generator, dtype=torch.float64).to(dtype))
    return Model(f"tiny-{seed}", Counting(decoder), tokenizer or Letters(VOCABULARY), head, Path())


def tiny_engine(model, *, capacity=4096, block_size=4, step_tokens=64, **options):
    return Engine(model, capacity=capacity, block_size=block_size, step_tokens=step_tokens, **options)


def finish(engine, requests, limit=10_000):
    """Step until all ended; more steps than `limit` is a livelock. Returns the number of steps."""
    steps = 0
    while not all(request.finished for request in requests):
        engine.step()
        steps += 1
        assert steps <= limit, "livelock"
    return steps


def runners(engine):
    return [engine.loop.target, *engine.loop._runners.values()]


def assert_empty(engine):
    """Every block is free once the remembered prompts are forgotten."""
    for runner in runners(engine):
        if runner.prefixes is not None:
            runner.prefixes.clear()
        assert runner.pool.used == 0 and not any(runner.pool.refs)
        assert sorted(runner.pool._free) == list(range(runner.pool.num_blocks))
