"""What every side of a comparison shares. It runs in each peer's own environment, so it imports the standard library.

A job comes as one JSON object on standard input: `prepare` (only bring the weights into the side's own format), or
`folder` (weights), `prompts` (token ids, and `texts` that become them), `samples` of each prompt, `tokens` of each
sample, `variant`, `threads`, `options`. The answer is one JSON object on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Job = dict[str, Any]
Generate = Callable[[int], int]  # tokens of each sample -> tokens that were written in all


def serve(load: Callable[[Job], Generate], versions: Callable[[], dict[str, str]],
          prepare: Callable[[Job], object] = lambda job: None) -> None:
    """Load the model, warm up with a few tokens, time one run and check that it wrote every token."""
    answers, job = os.fdopen(os.dup(1), "w"), json.load(sys.stdin)
    os.dup2(2, 1)  # libraries may print, C++ ones too
    if job["prepare"]:
        prepare(job)
        return
    began = time.perf_counter()
    generate = load(job)
    loaded = time.perf_counter() - began
    generate(min(4, job["tokens"]))
    wanted = len(job["prompts"]) * job["samples"] * job["tokens"]
    busy, own, began = *processor_seconds(), time.perf_counter()
    written = generate(job["tokens"])
    seconds = time.perf_counter() - began
    others = (processor_seconds()[0] - busy - (processor_seconds()[1] - own)) / seconds
    if written != wanted:
        raise SystemExit(f"wrote {written} tokens, not {wanted}")
    json.dump({"seconds": seconds, "loaded_seconds": loaded, "peak_bytes": status_bytes("VmHWM"),
               "own_bytes": status_bytes("RssAnon"), "others_cores": max(0.0, others), "versions": versions()}, answers)
    answers.close()


def processor_seconds() -> tuple[float, float]:
    """What all processes of the machine have computed so far, and what this one has."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK"), time.process_time()


def status_bytes(name: str) -> int:
    """What Linux says of this process's memory: VmHWM is the most it has held so far, RssAnon what it holds now that
    is no page of a file (of a library, or of weights that are read in place), which others can use and drop."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(name))) * 1024
