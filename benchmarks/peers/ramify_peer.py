"""Ramify, by the same protocol. `options` go to `load_model`; every run reads its prompts."""

from __future__ import annotations

from dataclasses import replace

import torch
from protocol import Generate, Job, serve

import ramify
from ramify.api import LLM
from ramify.bench.engine import Workload, run
from ramify.engine import Engine
from ramify.models import load_model


def load(job: Job) -> Generate:
    """Plain sampling of every prompt in the same steps."""
    torch.set_num_threads(job["threads"])
    llm = LLM(Engine(load_model(job["folder"], **job["options"]), prefix_cache=False))
    workload = Workload("job", len(job["prompts"]), len(job["prompts"][0]), job["samples"], job["tokens"])

    def generate(tokens: int) -> int:
        results = run(llm, replace(workload, tokens=tokens), job["texts"], seed=0)
        return sum(candidate.tokens for result in results for candidate in result.candidates)

    return generate


if __name__ == "__main__":
    serve(load, lambda: {"ramify": ramify.__version__, "torch": torch.__version__})
