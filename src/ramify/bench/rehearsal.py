"""A search rehearsed: the real engine runs it over models that compute nothing, and every step is counted.

So what a search will spend is told by what spends it, not by formulas of its own; it holds for any method, options
and reward, for answers of a given length.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ramify.bench.memory import predict, room, total
from ramify.bench.watch import Turn, Watch
from ramify.engine import Engine, Reward
from ramify.models import Model
from ramify.types import SamplingParams

if TYPE_CHECKING:
    from ramify.api import LLM
    from ramify.models.decoder import Attend, Decoder
    from ramify.types import Usage

GOLDEN = (5**0.5 - 1) / 2


class IdleDecoder:
    """Answers as a decoder does, with the FLOPs of `decoder`, and computes nothing. It always writes `word`."""

    dtype, fused = torch.float32, None

    def __init__(self, decoder: Decoder, word: int) -> None:
        self.word = word
        self.config = replace(decoder.config, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=1, windows=(None,))
        self.num_parameters, self.flops = decoder.num_parameters, decoder.flops

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """hidden_T1: zeros."""
        return torch.zeros(len(tokens_T), 1)

    def logits(self, hidden_K1: Tensor) -> Tensor:
        """logits_KV, no further than the one word that is possible."""
        logits_KV = torch.full((len(hidden_K1), self.word + 1), -torch.inf)
        logits_KV[:, self.word] = 0.0
        return logits_KV


@dataclass(slots=True, frozen=True, eq=False)
class Rehearsal:
    """What one search would do. turns: its engine steps, with the real models. cached: by model, the positions whose
    keys and values there is memory for at the fullest moment. kv_dtype: what those are rounded to."""

    usage: Usage
    turns: list[Turn]
    cached: dict[Model, int]
    kv_dtype: torch.dtype | None

    def memory(self, interpreter: int) -> dict[str, int]:
        """Bytes by what holds them, and their `total`; see `predict`."""
        parts = []
        for model, cached in self.cached.items():
            steps = [forward.step for turn in self.turns for forward in turn.forwards if forward.model is model]
            parts.append(predict(model, cached=cached, ids=max(step.ids for step in steps),
                                 rows=max(step.rows for step in steps), kv_dtype=self.kv_dtype))
        return total(parts, interpreter)


def rehearse(llm: LLM, search: Callable[..., Any], params: SamplingParams, text: str) -> Rehearsal:
    """Run `search`, as `LLM.plan` binds it, to answers of `params.max_tokens` tokens.

    Takes milliseconds a step. The counts are exact where the reward's tokenizer is the target's; another one reads
    the letter a, so many times. Rewards that are Python functions see that too. Where candidates have children, what
    is shared and dropped depends on whose survive; here they are taken evenly. All candidates count as different from
    their first token on; what those that begin alike save, a real run spends less. Raises what the search raises.
    """
    word = llm.model.tokenizer.encode("a")[-1]
    real: dict[Model, Model] = {}

    def idle(model: Model) -> Model:
        known = next((twin for twin, other in real.items() if other is model), None)
        if known is not None:
            return known
        twin = replace(model, decoder=cast("Decoder", IdleDecoder(model.decoder, word)),
                       head=None if model.head is None else cast(Any, _rank), device="cpu")
        real[twin] = model
        return twin

    def idle_reward(reward: Reward) -> Reward:
        twin = copy.copy(reward)
        for name, value in list(vars(twin).items()):
            if isinstance(value, Model):
                setattr(twin, name, idle(value))
        return twin

    options = {name: idle_reward(value) if name in ("reward", "guide") and value is not None else value
               for name, value in search.keywords.items()}  # type: ignore[attr-defined]
    loop = llm.engine.loop
    engine = Engine(idle(llm.model), capacity=loop.target.capacity, block_size=loop.target.pool.block_size,
                    step_tokens=loop.scheduler.step_tokens, prefix_cache=loop.target.prefixes is not None,
                    dedupe=False)
    with Watch(engine) as watch:
        result = engine.result(text, lambda prompt: search.func(prompt, **options),  # type: ignore[attr-defined]
                               SamplingParams(max_tokens=params.max_tokens, ignore_eos=True))
    for turn in watch.turns:
        for forward in turn.forwards:
            forward.model = real[forward.model]
    held = {real[model]: room(real[model], cached, loop.target.capacity) for model, cached in watch.held.items()}
    return Rehearsal(result.usage, watch.turns, held, loop.target.kv_dtype)


def _rank(hidden_K1: Tensor) -> Tensor:
    """value_K: all different and well mixed, as the scores of unlike texts are."""
    return torch.arange(len(hidden_K1), dtype=torch.float32) * GOLDEN % 1
