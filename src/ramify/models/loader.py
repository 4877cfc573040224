"""A model from a folder: which files, which tensors, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ramify.errors import ModelError
from ramify.models.config import ModelConfig, parse_config
from ramify.models.decoder import Decoder
from ramify.models.files import read_json
from ramify.models.heads import ScalarHead
from ramify.models.hub import find_folder
from ramify.models.names import IGNORED, file_names, stored_transposed
from ramify.models.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
AGAIN = "download the model again"


@dataclass(slots=True)
class Model:
    """A decoder with its tokenizer; `head` is the scalar reward head of a sequence classifier."""

    name: str
    decoder: Decoder
    tokenizer: Tokenizer
    head: ScalarHead | None
    path: Path
    warnings: list[str] = field(default_factory=list)

    @property
    def num_parameters(self) -> int:
        """All weights; tied ones count once."""
        return self.decoder.num_parameters + (0 if self.head is None else self.head.weight.numel())

    @property
    def dtype(self) -> torch.dtype:
        """The type the weights are held in."""
        return self.decoder.dtype


def load_model(name_or_path: str | Path, *, dtype: str = "float32", head: bool = False, device: str = "cpu") -> Model:
    """A model from a local folder, the embedded family (`mini-math` ...) or the Hugging Face hub.

    Only safetensors and text files are read, never pickles or code. Weights of 16 or 32 bit are converted to
    `dtype`. With `head`, the folder is a sequence classifier with one label: a reward model.

    Raises:
        ModelError: a folder that is missing, incomplete, damaged, unsupported, or whose parts do not fit.
    """
    if dtype not in DTYPES:
        raise ModelError(f"a dtype among {', '.join(DTYPES)}", repr(dtype), "choose one of them")
    folder = find_folder(str(name_or_path))
    raw = read_json(folder / "config.json")
    config = parse_config(raw)
    tokenizer = Tokenizer(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise ModelError(
            f"a tokenizer whose ids fit the {config.vocab_size} embedding rows of {folder}",
            f"ids up to {tokenizer.vocab_size - 1}", "use the tokenizer that the model was trained with",
        )  # fmt: skip
    config = replace(config, eos_token_ids=tokenizer.eos_ids)
    with ExitStack() as opened:
        tensors = _open(folder, opened)
        scalar = _scalar_head(tensors, config, folder, DTYPES[dtype], device) if head else None
        decoder = _decoder(tensors, config, folder, DTYPES[dtype], device, reward=head)
    return Model(str(name_or_path), decoder, tokenizer, scalar, folder, _warnings(raw, config))


def _warnings(raw: dict[str, Any], config: ModelConfig) -> list[str]:
    stated = raw.get("max_position_embeddings", config.max_positions)
    if stated <= config.max_positions:
        return []
    return [f"positions end at {config.max_positions}, not {stated}: longer texts would turn cached keys anew"]


def _open(folder: Path, opened: ExitStack) -> dict[str, Any]:
    """Every tensor's name and the open file that holds it. Opening checks a file's header and size."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
    else:
        shards = ["model.safetensors"]
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing or not shards:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        do = "convert it: AutoModel.from_pretrained(...).save_pretrained(...)" if pickled else AGAIN
        got = "pickled weights, which are never opened" if pickled else f"no {', '.join(missing[:3]) or 'weights'}"
        raise ModelError(f"safetensors weights in {folder}", got, do)
    tensors: dict[str, Any] = {}
    for shard in shards:
        try:
            file = opened.enter_context(safe_open(folder / shard, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"an intact {folder / shard}", str(error), AGAIN) from None
        tensors |= dict.fromkeys(file.keys(), file)
    return tensors


def _scalar_head(
    tensors: dict[str, Any], config: ModelConfig, folder: Path, dtype: torch.dtype, device: str
) -> ScalarHead:
    """Take `score.weight` out of `tensors`."""
    file = tensors.pop("score.weight", None)
    shape = None if file is None else tuple(file.get_slice("score.weight").get_shape())
    if file is None or shape != (1, config.hidden_size):
        got = "no score.weight" if shape is None else f"{shape[0]} labels"
        do = "use a sequence classifier saved with num_labels=1"
        raise ModelError(f"a scalar reward head in {folder}", got, do)
    tensors.pop("lm_head.weight", None)  # some reward models keep the projection they were trained from
    return ScalarHead(file.get_tensor("score.weight").to(device, dtype))


def _decoder(
    tensors: dict[str, Any], config: ModelConfig, folder: Path, dtype: torch.dtype, device: str, reward: bool
) -> Decoder:
    """Fill a decoder's parameters, one tensor in memory beside them at a time."""
    with torch.device("meta"):
        decoder = Decoder(config, vocabulary=not reward)
    decoder = decoder.to(dtype).to_empty(device=device).requires_grad_(False)
    bare = not any(name.startswith(("model.", "transformer.")) for name in tensors)
    plan = {name: file_names(name, config, bare) for name, _ in decoder.named_parameters()}
    wanted = {name for names in plan.values() for name in names}
    found = {name for name in tensors if not IGNORED.search(name)}
    if config.tie_embeddings and "lm_head.weight" in found:
        found -= {"lm_head.weight"}
    _complain(f"the tensors of a {config.model_type} model in {folder}", "no", wanted - found)
    _complain(f"only the tensors of a {config.model_type} model in {folder}", "also", found - wanted)
    for name, parameter in decoder.named_parameters():
        _fill(parameter, plan[name], tensors, stored_transposed(name, config))
        if "norm" in name.split(".")[-2] or "_in." in name or "_out." in name:
            parameter += config.norm_offset
    return decoder


def _complain(needed: str, word: str, names: Iterable[str]) -> None:
    first = sorted(names)
    if first:
        more = f" and {len(first) - 3} more" if len(first) > 3 else ""
        raise ModelError(needed, f"{word} {', '.join(first[:3])}{more}", "check that config.json belongs to the weights")


def _fill(parameter: Tensor, names: list[str], tensors: dict[str, Any], transposed: bool) -> None:
    """Stack the named tensors into `parameter`, converting as they are copied."""
    row = 0
    for name in names:
        tensor = tensors[name].get_tensor(name)
        tensor = tensor.T if transposed else tensor
        part = parameter[row : row + len(tensor)]
        if part.shape != tensor.shape or not tensor.is_floating_point():
            got = f"{tuple(tensor.shape)} of {tensor.dtype}"
            raise ModelError(f"{name} to fill {tuple(part.shape)}", got, "check that config.json belongs to the weights")
        part.copy_(tensor)
        row += len(tensor)
    if row != len(parameter):
        got = f"{row} rows of {len(parameter)}"
        raise ModelError(f"{', '.join(names)} to fill a parameter", got, "check that config.json belongs to the weights")
