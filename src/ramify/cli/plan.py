"""`ramify plan`: what searches will spend, told before they run."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramify.cli.options import Device, Dtype, Executor, KVDtype, method_named, method_options, parse_settings
from ramify.cli.output import notes, say_json, screen
from ramify.errors import OptionError
from ramify.types import ROLES

if TYPE_CHECKING:
    from ramify.api import LLM
    from ramify.bench.costs import Costs
    from ramify.bench.rehearsal import Rehearsal
    from ramify.trace import Row

METHODS = "sample,self_consistency,best_of_n,speculative_rejection,treebon"


def plan(
    methods: Annotated[str, typer.Option(help="Names, separated by commas; default: all five.",
                                         show_default=False)] = METHODS,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Candidates.")] = 16,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of the prompt, its template included.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of every answer; none ends earlier.")] = 96,
    model: Annotated[str, typer.Option(help="Folder, hub id, embedded, random:135m or random:5m.")] = "mini-math",
    reward: Annotated[str, typer.Option(help="Model, implicit:POLICY,REFERENCE or none.")] = "auto",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="METHOD.KEY=VALUE",
                                                       help="More options of a method.")] = None,
    cost: Annotated[bool, typer.Option("--cost", help="Measure this machine first, and tell seconds.")] = False,
    dtype: Dtype = "float32",
    executor: Executor = "auto",
    kv_dtype: KVDtype = None,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """What each method will spend on a prompt: tokens and FLOPs by model, memory; with --cost the seconds.

    Each search is rehearsed by the engine over models that compute nothing, so the counts are those of a real run
    whose candidates all differ: what several say alike is computed once, and a real run spends less.
    Seconds are its idealized runtime: the sum of its steps, each priced by a fit to a few seconds of measured ones.
    """
    import ramify.api
    from ramify.bench.memory import interpreter_bytes
    from ramify.bench.random_model import named_folder

    names = [method_named(name.strip()).__name__ for name in methods.split(",")]
    options = {name: _options(name, n, settings or [], names) for name in dict.fromkeys(names)}
    interpreter = interpreter_bytes(executor, kv_dtype, device)
    llm = ramify.api.load(named_folder(model), reward=None if reward == "none" else reward, dtype=dtype,
                          executor=executor, kv_dtype=kv_dtype, device=device)
    rows = {name: _rehearse(llm, name, {**own, "max_tokens": max_tokens}, prompt_tokens)
            for name, own in options.items()}
    costs = _costs(llm, rows) if cost else None
    report: Row = {
        "plan": "cost", "model": model, "executor": llm.model.decoder.executor, "kv_dtype": kv_dtype or dtype,
        "device": device, "reward": None if llm.reward is None else llm.reward.name, "n": n,
        "prompt_tokens": prompt_tokens, "max_tokens": max_tokens, "command": shlex.join(["ramify", *sys.argv[1:]]),
        "cost_errors": None if costs is None else {"median": costs.median_error, "worst": costs.worst_error},
        "rows": [_row(name, options[name], found, costs, interpreter) for name, found in rows.items()]}
    if as_json:
        say_json(report)
    else:
        _show(report)


def _options(name: str, n: int, settings: list[str], names: list[str]) -> dict[str, Any]:
    """Of one method: its width, which plain sampling has none of, and what --set gives it."""
    for text in settings:
        if "." not in text.partition("=")[0] or text.split(".")[0].replace("-", "_") not in names:
            raise OptionError(f"a method among {', '.join(names)} before a dot", repr(text), "write METHOD.KEY=VALUE")
    own = [text.partition(".")[2] for text in settings if text.split(".")[0].replace("-", "_") == name]
    parsed = parse_settings(own, method_named(name), ("max_tokens",))
    return {"n": 1 if name == "sample" else n, **parsed} if "n" in method_options(method_named(name)) else parsed


def _rehearse(llm: LLM, name: str, options: dict[str, Any], prompt_tokens: int) -> Rehearsal:
    from ramify.bench.engine import Workload, random_texts
    from ramify.bench.rehearsal import rehearse

    [text] = random_texts(Workload(name, 1, prompt_tokens, 1, 1), llm.model.tokenizer, 0)
    return rehearse(llm, *llm.plan(name, options), text)


def _costs(llm: LLM, rows: dict[str, Rehearsal]) -> Costs:
    """Measured for the models that the methods use."""
    from ramify.bench.costs import measure_costs

    notes().print("measuring this machine ...")
    scored = any(found.usage.reward.calls for found in rows.values())
    return measure_costs(llm, llm.reward if scored else None)


def _row(name: str, options: dict[str, Any], found: Rehearsal, costs: Costs | None, interpreter: int) -> Row:
    pages = {role: found.usage.role(role) for role in ROLES if found.usage.role(role).calls}
    return {"method": name, "options": options, "seconds": None if costs is None else costs.seconds(found.turns),
            "steps": len(found.turns), "tokens": {role: page.tokens for role, page in pages.items()},
            "flops": {**{role: page.flops for role, page in pages.items()}, "total": found.usage.flops},
            "peak_kv_tokens": found.usage.peak_kv_tokens, "peak_bytes": found.memory(interpreter)}


def _show(report: Row) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"{report['prompt_tokens']} tokens of prompt, {report['max_tokens']} of "
                  f"every answer, reward {report['reward'] or 'none'}", title_justify="left")
    timed = report["cost_errors"] is not None
    for at, head in enumerate(["method", "n", *(["seconds"] if timed else []), "steps", "forward tokens\nby model",
                               "FLOPs", "cached\ntokens", "peak MB", "of it\ncache"]):
        table.add_column(head, justify="left" if at == 0 else "right")
    for row in report["rows"]:
        table.add_row(row["method"], str(row["options"].get("n", "")),
                      *([f"{row['seconds']:.2f}"] if timed else []), str(row["steps"]),
                      "\n".join(f"{count} {role}" for role, count in row["tokens"].items()),
                      f"{row['flops']['total']:.2e}", str(row["peak_kv_tokens"]),
                      f"{row['peak_bytes']['total'] / 1e6:.0f}", f"{row['peak_bytes']['cache'] / 1e6:.1f}")
    console = screen()
    console.print(table)
    if timed:
        console.print(f"Seconds are of this machine to itself; its steps are told with a median error of "
                      f"{report['cost_errors']['median']:.0%}.")
    console.print(f"printed by: {report['command']}")
