"""Models with random weights: for speed, which does not depend on what a model knows."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ramify.errors import ModelError, StorageError

PREFIX = "random:"
SPREAD = 0.02  # standard deviation of the weights: logits stay close to each other, so every token is drawn


@dataclass(slots=True, frozen=True)
class Shape:
    """A Llama with a tied vocabulary projection."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    positions: int


SHAPES = {"135m": Shape(576, 30, 9, 3, 1536, 49152, 4096), "5m": Shape(256, 6, 4, 2, 704, 4096, 2048)}


def named_folder(model: str) -> str:
    """The folder of "random:SHAPE", written to the user's cache when it is first named; other names as they are.

    Raises:
        ModelError: a shape that is not known.
        StorageError: the cache cannot be written.
    """
    if not model.startswith(PREFIX):
        return model
    name = model.removeprefix(PREFIX)
    if name not in SHAPES:
        raise ModelError(f"a shape among {', '.join(PREFIX + each for each in SHAPES)}", repr(model), "pick one")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ramify"
    folder = cache / f"random-{name}"
    if not (folder / "config.json").is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:  # a write that is cut short leaves no model
                write_llama(Path(scratch) / "model", SHAPES[name]).rename(folder)
        except OSError as error:
            raise StorageError(f"room and permission to write {folder}", error.strerror or str(error),
                               "free some space or set XDG_CACHE_HOME") from error
    return str(folder)


def write_llama(folder: Path, shape: Shape, *, seed: int = 0, reward: bool = False) -> Path:
    """A Hugging Face folder in float32 with a byte tokenizer; with `reward` a classifier with one label."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    source = torch.Generator().manual_seed(seed)
    head = shape.hidden // shape.heads
    wide, narrow = shape.heads * head, shape.kv_heads * head
    sizes = {"self_attn.q_proj": (wide, shape.hidden), "self_attn.k_proj": (narrow, shape.hidden),
             "self_attn.v_proj": (narrow, shape.hidden), "self_attn.o_proj": (shape.hidden, wide),
             "mlp.gate_proj": (shape.inner, shape.hidden), "mlp.up_proj": (shape.inner, shape.hidden),
             "mlp.down_proj": (shape.hidden, shape.inner)}
    tensors = {f"model.layers.{layer}.{name}.weight": torch.randn(size, generator=source) * SPREAD
               for layer in range(shape.layers) for name, size in sizes.items()}
    norms = [f"layers.{layer}.{name}_layernorm" for layer in range(shape.layers)
             for name in ("input", "post_attention")]
    tensors |= {f"model.{name}.weight": torch.ones(shape.hidden) for name in (*norms, "norm")}
    tensors["model.embed_tokens.weight"] = torch.randn(shape.vocabulary, shape.hidden, generator=source) * SPREAD
    if reward:
        tensors["score.weight"] = torch.randn(1, shape.hidden, generator=source)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_tokenizer(folder, shape.vocabulary)
    (folder / "config.json").write_text(json.dumps(_config(shape, reward), indent=1))  # last: it says "complete"
    return folder


def _config(shape: Shape, reward: bool) -> dict[str, object]:
    kind = {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1} if reward else {
        "architectures": ["LlamaForCausalLM"]}
    return {**kind, "model_type": "llama", "hidden_size": shape.hidden, "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
            "intermediate_size": shape.inner, "vocab_size": shape.vocabulary,
            "max_position_embeddings": shape.positions, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32"}


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """One token per byte, then pairs of bytes that no text becomes but that every id of the model can be read as."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<bos>", "<eos>", *letters, *(a + b for a, b in product(letters, letters))][:vocabulary]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<bos>", "eos_token": "<eos>", "tokenizer_class": "PreTrainedTokenizerFast"}))
