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
    began = time.perf_counter()
    written = generate(job["tokens"])
    seconds = time.perf_counter() - began
    if written != wanted:
        raise SystemExit(f"wrote {written} tokens, not {wanted}")
    json.dump({"seconds": seconds, "loaded_seconds": loaded, "peak_bytes": peak_bytes(), "versions": versions()},
              answers)
    answers.close()


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024
