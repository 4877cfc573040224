"""Ramify, by the same protocol. `options` go to `load_model`, `kv_dtype` to the engine; every run reads its prompts."""

from __future__ import annotations

from dataclasses import replace

import torch
from protocol import Generate, Job, serve

import ramify
from ramify.api import LLM
from ramify.bench.engine import Workload, run
from ramify.cache import DTYPES
from ramify.engine import Engine
from ramify.models import load_model


def load(job: Job) -> Generate:
    """Plain sampling of every prompt in the same steps."""
    torch.set_num_threads(job["threads"])
    options = dict(job["options"])
    kv_dtype = options.pop("kv_dtype", None)
    target = load_model(job["folder"], **options)
    llm = LLM(Engine(target, prefix_cache=False, kv_dtype=DTYPES[kv_dtype] if kv_dtype else None))
    workload = Workload("job", len(job["prompts"]), len(job["prompts"][0]), job["samples"], job["tokens"])

    def generate(tokens: int) -> int:
        results = run(llm, replace(workload, tokens=tokens), job["texts"], seed=0)
        return sum(candidate.tokens for result in results for candidate in result.candidates)

    return generate


if __name__ == "__main__":
    serve(load, lambda: {"ramify": ramify.__version__, "torch": torch.__version__})
