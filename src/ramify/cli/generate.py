"""`ramify generate`: answer one prompt, or every prompt of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramify.cli.batch import run_batch
from ramify.cli.options import Device, Dtype, Executor, KVDtype, method_named, method_options, parse_settings
from ramify.cli.output import notes, say, say_json
from ramify.cli.prompts import read_jobs
from ramify.errors import OptionError, RamifyError
from ramify.trace import Trace
from ramify.trace.view import plural
from ramify.types import ROLES, Result, SamplingParams, SpeculationParams, check

if TYPE_CHECKING:
    from ramify.api import LLM


@dataclass(slots=True, frozen=True)
class Setup:
    """Everything that decides a result, besides the prompt."""

    model: str
    draft: str
    reward: str
    dtype: str
    executor: str
    kv_dtype: str | None
    method: str
    seed: int
    options: dict[str, Any]
    device: str

    @property
    def stated(self) -> dict[str, Any]:
        """As it reads in a result's `options` when it comes back from JSON."""
        named = {"model": self.model, "draft": self.draft, "reward": self.reward, "dtype": self.dtype,
                 "executor": self.executor, "kv_dtype": self.kv_dtype, "method": self.method, "seed": self.seed,
                 **self.options}
        stated: dict[str, Any] = json.loads(json.dumps(named))
        return stated

    def load(self) -> LLM:
        """The model and its reward. Raises `ModelError`."""
        import ramify

        return ramify.load(self.model, draft=None if self.draft == "none" else self.draft,
                           reward=None if self.reward == "none" else self.reward, dtype=self.dtype,
                           executor=self.executor, kv_dtype=self.kv_dtype, device=self.device)

    def stream(self, llm: LLM, prompts: list[Any], trace: Trace | None) -> Iterator[tuple[int, Result | RamifyError]]:
        """(index, outcome) of every prompt, as they end."""
        emit = trace.write if trace else None
        return llm.stream(prompts, self.method, seed=self.seed, trace=emit, **self.options)


def generate(
    prompt: Annotated[str | None, typer.Argument(help="The question.", show_default=False)] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines: prompt (or messages), id, meta.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results of --prompts; a next run resumes.")] = None,
    model: Annotated[str, typer.Option(help="Folder, hub id or embedded model.")] = "mini-math",
    draft: Annotated[str, typer.Option(help="Model, ngram, suffix or suffix+MODEL: drafts tokens ahead.")] = "none",
    reward: Annotated[str, typer.Option(help="Model, implicit:POLICY,REFERENCE or none.")] = "auto",
    method: Annotated[str, typer.Option(help="One of those that `ramify methods` lists.")] = "best_of_n",
    n: Annotated[int | None, typer.Option("-n", "--n", help="Candidates; default: the method's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer; default: 256 tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: greedy; default 1: the model as it is.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    settings: Annotated[list[str] | None, typer.Option(
        "--set", metavar="KEY=VALUE", help="More of the method's or sampling's options.")] = None,
    dtype: Dtype = "float32",
    executor: Executor = "auto",
    kv_dtype: KVDtype = None,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    trace: Annotated[Path | None, typer.Option(help="Write all events there for `ramify view`.")] = None,
) -> None:
    """Answer a prompt, or a file of prompts, with a search method."""
    if (prompt is None) == (prompts is None):
        raise OptionError("a PROMPT or --prompts FILE", "both" if prompts else "neither", "give one of them")
    if out is not None and prompts is None:
        raise OptionError("--prompts for --out", "a single PROMPT", "redirect standard output instead")
    search = method_named(method)
    if "reward" not in method_options(search):
        if reward not in ("auto", "none"):
            raise OptionError(f"a method that takes a reward, for --reward {reward}", method, "remove --reward")
        reward = "none"
    flags = {"n": n, "max_tokens": max_tokens, "temperature": temperature}
    options: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    options |= parse_settings(settings or [], search, options)
    check(options.get("n", 1) >= 1, "a whole n of at least 1", options.get("n"), "raise it")
    for kind in (SamplingParams, SpeculationParams):
        kind(**{name: value for name, value in options.items() if name in kind.names()})  # or raise
    setup = Setup(model, draft, reward, dtype, executor, kv_dtype, search.__name__, seed, options, device)
    if prompts is not None:
        tally = run_batch(setup, read_jobs(prompts), out, trace)
        notes().print(tally.note(out))
        if as_json and out:
            say_json(tally.to_dict())
        raise typer.Exit(tally.exit_code)
    llm = setup.load()
    with Trace(trace) if trace else nullcontext() as events:
        [(_, outcome)] = setup.stream(llm, [prompt], events)
    if isinstance(outcome, RamifyError):
        raise outcome
    if as_json:
        say_json(outcome.to_dict())
    else:
        say(outcome.text)
        notes().print(headline(outcome), style="dim")


def headline(result: Result) -> str:
    """What it took, in a line, and one more for each warning."""
    reward = "" if result.reward is None else f" · reward {result.reward:+.3f}"
    tokens = " + ".join(f"{result.usage.role(role).tokens} {role}" for role in ROLES if result.usage.role(role).calls)
    length = result.speculative.get("mean_acceptance_length")
    drafted = "" if length is None else f" · {length:.2f} tokens per verification"
    lines = [f"{result.method}{reward} · {plural(len(result.candidates), 'candidate')} · {tokens} tokens{drafted} · "
             f"{result.usage.flops:.3g} FLOPs · {result.usage.wall_seconds:.2f} s"]
    return "\n".join(lines + [f"warning: {warning}" for warning in result.warnings])
