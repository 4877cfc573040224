"""One measurement in a process of its own: `python -m ramify.bench.engine_child`, its job as JSON on standard input.

A process of its own starts cold, and the peak of its memory belongs to one workload. It writes JSON lines:
{"seconds": ...} after a timed run, {"first_token_at": ...} in seconds since the epoch, and at the end what it found.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ramify.bench.machine import measure_limits, peak_bytes
from ramify.errors import RamifyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ramify.api import LLM
    from ramify.trace import Row


def main() -> None:
    """Do the job. A mistake of the user comes back as {"error": [kind, needed, got, do]}."""
    job = json.load(sys.stdin)
    try:
        say(JOBS[job.pop("job")](**job))
    except RamifyError as error:
        say({"error": [type(error).__name__, error.needed, error.got, error.do]})


def say(row: Row) -> None:
    """A line for the parent."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def load(options: Row) -> LLM:
    """The model on an engine, with nothing beside it; every row is computed."""
    import ramify

    return ramify.load(reward=None, dedupe=False, **options)


def workload(options: Row, name: str, tokens: int | None, repeats: int, seed: int) -> Row:
    """Times, counts and memory of one workload."""
    from ramify.bench.engine import measure, named
    from ramify.bench.memory import interpreter_bytes

    interpreter = interpreter_bytes(options["executor"], options["kv_dtype"], options["device"])
    llm = load(options)
    loaded = peak_bytes(llm.model.device)
    row = measure(llm, named(name, tokens)[0], repeats, seed=seed, interpreter=interpreter,
                  done=lambda seconds: say({"seconds": seconds}))
    return {**row, "executor": llm.model.decoder.executor, "loaded_bytes": loaded,
            "peak_bytes": peak_bytes(llm.model.device)}


def cold(options: Row, seed: int) -> Row:
    """When the first token of a process was there."""
    from ramify.bench.engine import named, random_texts, run

    llm = load(options)
    task = replace(named("single")[0], tokens=1)
    run(llm, task, random_texts(task, llm.model.tokenizer, seed), seed,
        first=lambda: say({"first_token_at": time.time()}))
    return {}


def probe(options: Row) -> Row:
    """What the machine and the model's steps cost."""
    import torch

    from ramify.bench.costs import measure_costs

    llm = load(options)
    costs = measure_costs(llm)
    limits = measure_limits(device=llm.model.device, dtype=options["dtype"])
    return {"limits": asdict(limits), "costs": asdict(costs.by_model[llm.model]),
            "cost_errors": {"median": costs.median_error, "worst": costs.worst_error}, "torch": torch.__version__,
            "threads": torch.get_num_threads(), "executor": llm.model.decoder.executor,
            "positions": llm.model.decoder.config.max_positions}


JOBS: dict[str, Callable[..., Row]] = {"workload": workload, "cold": cold, "probe": probe}

if __name__ == "__main__":
    main()
