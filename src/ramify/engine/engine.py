"""The facade of the engine: prompts and searches in, results out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ramify.engine.loop import Loop
from ramify.engine.reading import prompt_ids
from ramify.engine.request import Emit, Request, Search
from ramify.engine.runner import Runner, kv_bytes
from ramify.engine.scheduler import Scheduler
from ramify.engine.sequence import Prompt
from ramify.errors import CapacityError, PromptError
from ramify.models.memory import free_bytes
from ramify.sampling.draws import CHOICE, Draws, Key, KeyedDraws, mix
from ramify.types import Result, SamplingParams, check

if TYPE_CHECKING:
    import torch

    from ramify.models import Model
    from ramify.speculative import Speculation

Messages = list[dict[str, str]] | str


class Engine:
    """Runs any number of searches together on one target model.

    Args:
        target: the model whose answers are searched.
        capacity: KV tokens that each model's cache may hold; None takes a quarter of the free memory.
        block_size: tokens per cache block.
        step_tokens: ids that one step reads at most, per model.
        prefix_cache: remember prompts between requests.
        draws: the random source; `ramify.exact` passes its own.
        kv_dtype: what every model's keys and values are rounded to; None keeps the model's type.
        dedupe: read the same ids after the same text once for all candidates of a request that wait for them.
    """

    def __init__(self, target: Model, *, capacity: int | None = None, block_size: int = 16, step_tokens: int = 2048,
                 prefix_cache: bool = True, draws: Draws | None = None, kv_dtype: torch.dtype | None = None,
                 dedupe: bool = True) -> None:
        self.target = target
        capacity = capacity or default_capacity(target, kv_dtype)
        runner = Runner(target, "target", capacity, block_size, prefix_cache, kv_dtype)
        self.loop = Loop(runner, Scheduler(step_tokens, dedupe), draws or KeyedDraws())
        self._count = 0

    def submit(self, messages: Messages, search: Callable[[Prompt], Search], params: SamplingParams, *,
               method: str = "", seed: int = 0, trace: Emit | None = None,
               warnings: list[str] | None = None, speculation: Speculation | None = None) -> Request:
        """Queue one request; `step` works on it.

        Raises:
            PromptError: an empty prompt, or one that with `max_tokens` exceeds the model's context.
            CapacityError: prompt and one answer do not fit the cache.
            OptionError: a logit_bias for a token that the model does not have.
        """
        vocabulary = self.target.decoder.config.vocab_size
        check(all(0 <= token < vocabulary for token in params.logit_bias), f"logit_bias for tokens below {vocabulary}",
              list(params.logit_bias), "use the model's own token ids")
        stream, loop = mix(seed), self.loop
        request: Request

        def choose(count: int) -> int:
            request.choices += 1
            return loop.draws.uniform_index(count, Key(stream, request.choices, CHOICE))

        prompt = Prompt([], messages, params, choose, self.target.tokenizer.decode, loop.target.capacity)
        request = Request(self._count, prompt, search(prompt), method=method, seed=seed, stream=stream, trace=trace,
                          warnings=warnings or [], speculation=speculation)
        prompt.ids = request.prefixes[loop.target] = prompt_ids(self.target, request)
        if not prompt.ids or (isinstance(messages, str) and not messages.strip()):
            raise PromptError("a prompt with some text", "an empty one", "write the question")
        if len(prompt.ids) + params.max_tokens > loop.target.capacity:
            raise CapacityError(
                f"a cache of {len(prompt.ids) + params.max_tokens} tokens for the prompt and one answer",
                f"{loop.target.capacity}", "raise capacity or lower max_tokens")
        self._count += 1
        loop.requests.append(request)
        return request

    def step(self) -> list[Request]:
        """One engine step for all queued requests. Returns those that ended, with `result` or `error` set.

        What goes wrong in one search, reward or trace is the `error` of its request alone. What goes wrong in a
        model, or an interruption, ends all requests: every block is given back before it propagates.
        """
        try:
            return self.loop.step()
        except BaseException:
            for request in list(self.loop.requests):
                self.cancel(request)
            raise

    def cancel(self, request: Request) -> None:
        """Forget a request and give back its blocks."""
        request.release()
        if request in self.loop.requests:
            self.loop.requests.remove(request)

    def result(self, messages: Messages, search: Callable[[Prompt], Search], params: SamplingParams,
               **options: Any) -> Result:
        """Submit one request, run it and return its result, or raise its error."""
        request = self.submit(messages, search, params, **options)
        while not request.finished:
            self.step()
        if request.error is not None:
            raise request.error
        assert request.result is not None
        return request.result


def default_capacity(model: Model, kv_dtype: torch.dtype | None = None) -> int:
    """KV tokens that fit a quarter of the memory that is free now where the model is, at most a million."""
    return max(1024, min(1_000_000, int(free_bytes(model.device) / 4 / kv_bytes(model, kv_dtype))))
