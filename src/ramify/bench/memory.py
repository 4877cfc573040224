"""What a run will hold of the machine's memory, told before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def predict(model: Model, *, cached: int, ids: int, rows: int, interpreter: int = 0) -> dict[str, int]:
    """Bytes by what holds them, and their `total`.

    cached: positions in the cache at the fullest moment. ids, rows: of the largest step. interpreter: what the
    process holds without the model, to be measured: Python, torch and the other libraries.
    """
    config, decoder = model.decoder.config, model.decoder
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    widest = 3 * config.hidden_size + max(heads, (3 if config.gated else 2) * config.intermediate_size)
    parts = {"interpreter": interpreter, "weights": weight_bytes(model), "cache": cached * decoder.kv_bytes_per_token,
             "activations": (ids * widest + COPIES * rows * config.vocab_size) * model.dtype.itemsize}
    return {**parts, "total": sum(parts.values())}


def total(parts: list[dict[str, int]], interpreter: int) -> dict[str, int]:
    """Of several models in one process: weights and caches add up, activations live one after another."""
    held = {"interpreter": interpreter, **{name: sum(part[name] for part in parts) for name in ("weights", "cache")},
            "activations": max(part["activations"] for part in parts)}
    return {**held, "total": sum(held.values())}


def weight_bytes(model: Model) -> int:
    """Bytes of the weights as they lie in memory; a tied projection that was packed lies there twice."""
    decoder = model.decoder
    count = model.num_parameters
    if getattr(decoder, "tied", False) and getattr(decoder, "head", None) is not None:
        count += decoder.embed.weight.numel()
    return count * model.dtype.itemsize
