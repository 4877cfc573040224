"""What a run will hold of the machine's memory, told before it starts."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ramify.bench.machine import peak_bytes
from ramify.engine.runner import kv_bytes

if TYPE_CHECKING:
    import torch

    from ramify.models import Model

COPIES = 6  # of the logits of a step while its tokens are drawn: as they came, scaled, as probabilities, summed up ...


def peak_cached(prompts: int, length: int, samples: int, tokens: int, block: int) -> int:
    """Cached positions, in whole blocks, when `samples` candidates of each prompt are as long as they get.

    Candidates share the full blocks of their prompt and write into a copy of its last one, if that is not full. The
    last token of an answer is never read.
    """
    shared = length // block * block
    own = -(-(length + tokens - 1 - shared) // block) * block if tokens > 1 else 0
    return prompts * (-(-length // block) * block + samples * own)


def room(model: Model, cached: int, capacity: int) -> int:
    """Positions that a cache takes memory for: on a CPU those that are written, on a GPU all, from the beginning."""
    return cached if model.device == "cpu" else capacity


def predict(model: Model, *, cached: int, ids: int, rows: int, kv_dtype: torch.dtype | None = None,
            interpreter: int = 0) -> dict[str, int]:
    """Bytes by what holds them, and their `total`, the most at any moment.

    cached: positions in the cache at the fullest moment. ids, rows: of the largest step. kv_dtype: of the cache.
    interpreter: what the process holds without the model, see `interpreter_bytes`. loading: what the model itself holds
    while it is loaded, in place of `weights`: more where a weight is read as a whole before it is packed.
    """
    config, decoder = model.decoder.config, model.decoder
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    widest = 3 * config.hidden_size + max(heads, (3 if config.gated else 2) * config.intermediate_size)
    parts = {"weights": weight_bytes(model), "cache": cached * kv_bytes(model, kv_dtype),
             "activations": (ids * widest + COPIES * rows * config.vocab_size) * model.dtype.itemsize}
    whole = config.hidden_size * (2 * config.intermediate_size if decoder.tied else config.vocab_size)
    loading = parts["weights"] + (whole * model.dtype.itemsize if decoder.executor == "torch" else 0)
    return total([{**parts, "loading": loading}], interpreter)


def interpreter_bytes(executor: str, kv_dtype: str | None = None, device: str = "cpu") -> int:
    """The peak of this process so far, with every library that a model needs and no model: one of a few weights is
    loaded and run."""
    from ramify.api import load
    from ramify.bench.random_model import Shape, write_llama

    with TemporaryDirectory() as scratch:
        folder = write_llama(Path(scratch) / "model", Shape(64, 1, 2, 1, 64, 512, 128))
        llm = load(str(folder), reward=None, executor=executor, kv_dtype=kv_dtype, capacity=64, device=device)
        llm.generate("a", "sample", max_tokens=2)
    return peak_bytes(llm.model.device)


def total(parts: list[dict[str, int]], interpreter: int) -> dict[str, int]:
    """Of several models in one process: weights and caches add up, the rest is there one after another."""
    held = {"interpreter": interpreter, **{name: sum(part[name] for part in parts) for name in ("weights", "cache")},
            "activations": max(part["activations"] for part in parts)}
    loading = max(held["weights"] - part["weights"] + part["loading"] for part in parts)
    return {**held, "loading": loading, "total": max(sum(held.values()), interpreter + loading)}


def weight_bytes(model: Model) -> int:
    """Bytes of the weights as they lie in memory."""
    return model.decoder.nbytes + (0 if model.head is None else model.head.weight.nbytes)
