"""The Python face: `load` a model with its companions, `generate` with any search."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast, overload

from ramify.cache import DTYPES
from ramify.engine import Engine, Reward
from ramify.engine.engine import Messages
from ramify.engine.request import Emit, Request
from ramify.errors import BackendError, OptionError, RamifyError
from ramify.models import Model, load_model
from ramify.models.files import read_json
from ramify.models.hub import embedded_models
from ramify.pause import no_collection
from ramify.rewards import FunctionReward, ImplicitReward, LikelihoodReward, SequenceReward
from ramify.search import METHODS
from ramify.speculative import LOOKUPS, Draft, Speculation, speculate
from ramify.speculative.translation import GREEDY_ONLY, translation
from ramify.types import Result, SamplingParams, SpeculationParams, check

ROUNDED = ("bfloat16", "int8")  # what keys and values of float32 can be rounded to
NATIVE = frozenset({"forks", "logprobs", "full_distribution", "partial_scores"})
ROWS = 256  # candidates in flight: wide enough to fill a step, small enough to start answering early
RewardLike = str | Reward | Callable[[str, str], float]


@no_collection()
def load(model: str = "mini-math", *, draft: str | None = None, reward: RewardLike | None = "auto",
         dtype: str = "float32", capacity: int | None = None, block_size: int = 16, step_tokens: int = 2048,
         executor: str = "auto", kv_dtype: str | None = None, device: str = "cpu", dedupe: bool = True) -> LLM:
    """Load a model, what drafts for it, and the reward that judges it.

    Args:
        model: a folder, a hub id, or an embedded model such as "mini-math".
        draft: see `load_draft`; None decodes token by token.
        reward: see `load_reward`; "auto" takes the embedded companion of an embedded model, else none.
        dtype: "float32" or "float64"; on a GPU also "bfloat16" or "float16".
        capacity: KV tokens per model; None takes a quarter of the free memory.
        block_size: tokens per cache block.
        step_tokens: ids read at most in one step, per model.
        executor: how all these models are run: "torch", "compiled", with rounded weights "int8", "int8-weights" or
            "int4-weights", or "auto" for the fastest of those that change nothing; see `ramify.models.executors`.
        kv_dtype: rounds cached keys and values: "bfloat16" to 8 bits of precision in half the memory; "int8" to bytes
            with a scale per token and head, in little more than a quarter; None keeps them as they are. Of a model in
            16 bits, on a GPU, "int8" alone.
        device: "cpu", or an NVIDIA GPU: "cuda:0", "cuda:1" ..., "cuda" for the current one.
        dedupe: compute once what several candidates of a request have said alike. Changes no result; False lets every
            candidate pay for all of its tokens, as closed forms of cost count them.

    Raises:
        ModelError: a model that is missing, damaged or unsupported; a device that is not there.
        OptionError: an executor that is unknown, or that a model or this machine does not have.
    """
    check(capacity is None or capacity > 0, "a capacity of at least 1 token", capacity, "raise it")
    check(block_size > 0, "a block_size of at least 1 token", block_size, "raise it")
    check(step_tokens > 0, "step_tokens of at least 1", step_tokens, "raise it")
    halves = dtype in ("bfloat16", "float16")
    check(not halves or device != "cpu", "float32 or float64 on a CPU", dtype, "use one of them, or device=cuda")
    check(kv_dtype is None or (halves and kv_dtype == "int8") or (kv_dtype in ROUNDED and dtype == "float32"),
          f"kv_dtype among {', '.join(ROUNDED)} with dtype=float32", f"{kv_dtype} with {dtype}",
          "leave kv_dtype out to keep keys and values as they are")
    target = load_model(model, dtype=dtype, device=device, executor=executor)
    engine = Engine(target, capacity=capacity, block_size=block_size, step_tokens=step_tokens,
                    kv_dtype=DTYPES[kv_dtype] if kv_dtype else None, dedupe=dedupe)
    if reward == "auto":
        reward = companion_reward(model)
    judge = None if reward is None else load_reward(reward, dtype, executor, device)
    return LLM(engine, judge, None if draft is None else load_draft(draft, target, dtype, executor, device))


def load_draft(draft: str, target: Model, dtype: str = "float32", executor: str = "auto",
               device: str = "cpu") -> Draft:
    """What drafts for `target`, from what a user names.

    A folder, hub id or embedded name of a model; "ngram" or "suffix" to look up what was said before, in the
    candidate or in all of its search; "suffix+MODEL" for both. A model with another tokenizer drafts by the text, at
    temperature 0 only. A draft that is not smaller than the target works, and warns in every result.

    Raises:
        ModelError: no such model.
    """
    if draft in LOOKUPS:
        return Draft(None, draft)
    lookup, plus, name = draft.partition("+")
    if not plus or lookup != "suffix":
        lookup, name = "", draft
    model = load_model(name, dtype=dtype, device=device, executor=executor)
    return Draft(model, lookup, translation(model, target))


def companion_reward(model: str) -> str | None:
    """The reward that comes with an embedded model: of those shipped, the one that ranks best (see the model card)."""
    shipped = embedded_models()
    rewards = {f"{model}-reward": f"{model}-reward", f"{model}-ref": f"likelihood:{model}-ref"}
    return next((reward for name, reward in rewards.items() if name in shipped), None)


def load_reward(reward: RewardLike, dtype: str = "float32", executor: str = "auto", device: str = "cpu") -> Reward:
    """A reward from what a user names.

    A function `f(prompt, answer) -> number`; "implicit:POLICY,REFERENCE" or "implicit-decay:POLICY,REFERENCE"
    for the log-ratio of two policies; "likelihood:MODEL" for the log-probability under a policy; anything else
    is a sequence classifier by folder, hub id or embedded name. An object that has `score` passes through.
    """
    load = functools.partial(load_model, dtype=dtype, device=device, executor=executor)
    if isinstance(reward, str):
        kind, _, names = reward.partition(":")
        if kind == "likelihood":
            return LikelihoodReward(load(names))
        if kind in ("implicit", "implicit-decay"):
            if names.count(",") != 1:
                raise OptionError("implicit:POLICY,REFERENCE", repr(reward), "name the two models")
            policy, reference = map(load, names.split(","))
            return ImplicitReward(policy, reference, "decay" if kind == "implicit-decay" else "sum")
        model = load(reward, head=True)
        settings = read_json(model.path / "config.json").get("ramify", {})
        return SequenceReward(model, closed=settings.get("partial", "closed") == "closed")
    if hasattr(reward, "score"):
        return cast(Reward, reward)
    check(callable(reward), "a reward: a name, a function, or an object with `score`", reward, "pass one of them")
    return FunctionReward(reward)


class LLM:
    """A loaded model with its reward. Build it with `load`."""

    def __init__(self, engine: Engine, reward: Reward | None = None, draft: Draft | None = None) -> None:
        self.engine, self.reward, self.draft = engine, reward, draft
        self._named: dict[str, Reward] = {}

    @property
    def model(self) -> Model:
        """The target."""
        return self.engine.target

    @overload
    def generate(self, prompt: str, method: Any = ..., *, seed: int = ..., trace: Emit | None = ...,
                 **options: Any) -> Result: ...
    @overload
    def generate(self, prompt: Sequence[Any], method: Any = ..., *, seed: int = ..., trace: Emit | None = ...,
                 **options: Any) -> Any: ...
    def generate(self, prompt: Any, method: str | Callable[..., Any] = "best_of_n", *, seed: int = 0,
                 trace: Emit | None = None, **options: Any) -> Any:
        """Answer a prompt, or many in the same steps.

        Args:
            prompt: text, a list of chat messages, or a list of either.
            method: a name in `METHODS`, or a search of your own.
            seed: of every random choice; a request's result depends on nothing else.
            trace: called with (event, **fields) for everything that happens, such as `Trace(path).write`.
            options: fields of `SamplingParams` and the method's own, such as `n=16`; where a draft was loaded
                those of `SpeculationParams`, too.

        Returns one `Result`, or a list in the order of the prompts.

        Raises:
            OptionError: an unknown or inapplicable option.
            PromptError, RewardError, CapacityError: the first that any prompt met; `stream` keeps the others.
        """
        single = isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], dict))
        outcomes = dict(self.stream([prompt] if single else prompt, method, seed=seed, trace=trace, **options))
        for outcome in outcomes.values():
            if isinstance(outcome, RamifyError):
                raise outcome
        return outcomes[0] if single else [outcomes[at] for at in range(len(prompt))]

    def stream(self, prompts: Sequence[Messages], method: str | Callable[..., Any] = "best_of_n", *, seed: int = 0,
               trace: Emit | None = None, **options: Any) -> Iterator[tuple[int, Result | RamifyError]]:
        """Like `generate` for many prompts, yielding (index, outcome) as each ends.

        A prompt that fails yields its error in place of a result and disturbs no other; an exception that is not
        Ramify's own, from a search of yours, is raised. Prompts start in order, as many at a time as keep the
        engine's step full.
        """
        options, ahead = self.speculation(options)
        search, params = self.plan(method, options)
        name = _name(search.func)
        waiting = list(enumerate(prompts))[::-1]
        running: dict[Request, int] = {}
        at_once = max(1, ROWS // options.get("n", 16))
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    index, messages = waiting.pop()
                    try:
                        request = self.engine.submit(messages, search, params, method=name, seed=seed, trace=trace,
                                                     warnings=self.warnings, speculation=ahead())
                    except RamifyError as error:
                        yield index, error
                        continue
                    running[request] = index
                    request.emit("request", prompt=request.prompt.text, method=name, n=options.get("n"),
                                 options={key: _plain(value) for key, value in options.items()})
                self.engine.step()
                for request in [request for request in running if request.finished]:
                    yield running.pop(request), request.outcome
        finally:
            for request in running:
                self.engine.cancel(request)

    @property
    def warnings(self) -> list[str]:
        """What every result should say of the models."""
        warnings, draft = list(self.model.warnings), self.draft and self.draft.model
        if draft and draft.decoder.num_parameters >= self.model.decoder.num_parameters:
            warnings.append(f"the draft {draft.name} is not smaller than the target: it cannot save time")
        return warnings

    def speculation(self, options: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], Speculation | None]]:
        """The options that are left, and what makes the speculation of one request.

        Raises `OptionError`: options of speculation without a draft, or that do not go together.
        """
        own = {name: value for name, value in options.items() if name in SpeculationParams.names()}
        left = {name: value for name, value in options.items() if name not in own}
        if self.draft is None:
            check(not own, f"a draft for {', '.join(own)}", "none", "name one (draft=, --draft), or remove the option")
            return left, lambda: None
        check(own.get("verifier") != "greedy" or options.get("temperature") == 0, "temperature=0 for verifier=greedy",
              options.get("temperature", 1.0), "use block: it is greedy at temperature 0 and lossless at any")
        check(self.draft.translation is None or options.get("temperature") == 0,
              "temperature=0 with a draft that has another tokenizer than the target", options.get("temperature", 1.0),
              f"set it, or use a draft of the same family or draft=ngram: {GREEDY_ONLY}")
        make = functools.partial(speculate, SpeculationParams(**own), self.draft)
        make()  # or raise
        return left, make

    def plan(self, method: str | Callable[..., Any], options: dict[str, Any]) -> tuple[Any, SamplingParams]:
        """The search with its options bound, and the sampling parameters.

        Raises `OptionError` naming what the method takes.
        """
        if isinstance(method, str) and method not in METHODS:
            raise OptionError(f"a method among {', '.join(METHODS)}", repr(method), "pick one of them")
        search = METHODS[method] if isinstance(method, str) else method
        missing: frozenset[str] = getattr(search, "needs", frozenset()) - NATIVE
        if missing:
            raise BackendError(f"a backend with {', '.join(sorted(missing))}", "the native one", "use another backend")
        for option in ("reward", "guide"):
            if isinstance(name := options.get(option), str):
                if name not in self._named:  # a model is loaded once, and so is its cache
                    self._named[name] = load_reward(name, device=self.model.device)
                options = {**options, option: self._named[name]}
        return bind(search, options, self.reward)


def _plain(value: Any) -> Any:
    """An option as a trace can hold it: functions and rewards by name."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, list | tuple | dict):
        return str(value)
    return getattr(value, "name", None) or _name(value)


def _name(function: Any) -> str:
    """What to call a function, or an object that is called like one."""
    name: str = getattr(function, "__name__", type(function).__name__)
    return name


def bind(search: Callable[..., Any], options: dict[str, Any], reward: Reward | None) -> tuple[Any, SamplingParams]:
    """Split options into the search's own, bound to it, and sampling parameters."""
    parameters = inspect.signature(search).parameters
    own = {name: field for name, field in parameters.items() if field.kind is field.KEYWORD_ONLY}
    sampling = SamplingParams.names()
    if unknown := [name for name in options if name not in own and name not in sampling]:
        raise OptionError(f"options of {_name(search)} ({', '.join(own)}) or of sampling ({', '.join(sampling)})",
                          ", ".join(unknown), "remove or rename them")
    bound = {name: value for name, value in options.items() if name in own}
    for name in ("reward", "guide"):
        if bound.get(name) is not None:
            bound[name] = load_reward(bound[name])
    if "reward" in own and bound.get("reward") is None:
        bound["reward"] = reward
        check(reward is not None or own["reward"].default is None, f"a reward for {_name(search)}", "none",
              "name one with reward=")
    n = bound.get("n", 1)
    check(isinstance(n, int) and n >= 1, "a whole n of at least 1", n, "raise it")
    left = [name for name, field in own.items() if field.default is field.empty and name not in bound]
    check(not left, f"every option of {_name(search)}", f"none for {', '.join(left)}", "give it as an argument")
    chosen = {name: value for name, value in options.items() if name in sampling}
    if isinstance(chosen.get("stop"), str):
        chosen["stop"] = (chosen["stop"],)
    return functools.partial(search, **bound), SamplingParams(**chosen)
