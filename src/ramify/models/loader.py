"""A model from a folder: which files, which tensors, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ramify.errors import ModelError
from ramify.models.config import ModelConfig, parse_config
from ramify.models.decoder import Decoder, Norm
from ramify.models.devices import find_device
from ramify.models.executors import assemble
from ramify.models.files import read_json
from ramify.models.heads import AcceptanceHead, ScalarHead
from ramify.models.hub import find_folder
from ramify.models.linear import Rows
from ramify.models.memory import give_back
from ramify.models.names import IGNORED, file_names, file_rows, stored_transposed
from ramify.models.tokenizer import Tokenizer
from ramify.models.weights import AGAIN, FLOATS, MISFIT, Parameter, Stored, open_weights

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
COMPARED = 4096  # rows at a time
Tensors = dict[str, Stored]


@dataclass(slots=True, eq=False)
class Model:
    """A decoder with its tokenizer.

    head: the scalar reward head of a sequence classifier. acceptance: the head of a draft that foresees acceptance.
    """

    name: str
    decoder: Decoder
    tokenizer: Tokenizer
    head: ScalarHead | None
    path: Path
    warnings: list[str] = field(default_factory=list)
    acceptance: AcceptanceHead | None = None
    device: str = "cpu"

    @property
    def num_parameters(self) -> int:
        """All weights of decoder and reward head; tied ones count once."""
        return self.decoder.num_parameters + (0 if self.head is None else self.head.weight.numel())

    @property
    def dtype(self) -> torch.dtype:
        """The type the weights are held in."""
        return self.decoder.dtype


def load_model(name_or_path: str | Path, *, dtype: str = "float32", head: bool = False, device: str = "cpu",
               executor: str = "auto") -> Model:
    """A model from a local folder, the embedded family (`mini-math` ...) or the Hugging Face hub.

    Only safetensors and text files are read, never pickles or code. Weights of 16 or 32 bit are converted to
    `dtype` and packed as they are read: the most memory that loading takes is that of the model and one more weight.
    With `head`, the folder is a sequence classifier with one label: a reward model. `executor` says how the forward is
    run, see `executors.assemble`. device: "cpu", or a GPU: "cuda:0", "cuda:1" ..., "cuda" for the current one.

    Raises:
        ModelError: a folder that is missing, incomplete, damaged, unsupported, or whose parts do not fit; a device that
            is not there.
        OptionError: an executor that is unknown or not to be had.
    """
    if dtype not in DTYPES:
        raise ModelError(f"a dtype among {', '.join(DTYPES)}", repr(dtype), "choose one of them")
    device = find_device(device)
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
        decoder = _decoder(tensors, config, folder, DTYPES[dtype], device, executor, reward=head)
    give_back()
    warnings = []
    if config.tie_embeddings and not decoder.config.tie_embeddings:
        warnings.append("config.json ties the vocabulary projection, but the file holds another one, which is used")
    if (stated := raw.get("max_position_embeddings", 0)) > config.max_positions:
        warnings.append(f"positions end at {config.max_positions}, not {stated}: beyond, cached keys would turn anew")
    acceptance = _acceptance_head(raw, config, folder, DTYPES[dtype], device)
    return Model(str(name_or_path), decoder, tokenizer, scalar, folder, warnings, acceptance, device)


def _open(folder: Path, opened: ExitStack) -> Tensors:
    """Every tensor by its name, of all files."""
    tensors: Tensors = {}
    for shard in _shards(folder):
        tensors |= open_weights(folder / shard, opened)
    return tensors


def _shards(folder: Path) -> list[str]:
    """Names of the weight files, all of them present."""
    index = folder / "model.safetensors.index.json"
    shards = ["model.safetensors"]
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if shards and not missing:
        return shards
    needed = f"safetensors weights in {folder}"
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        do = "convert them with AutoModel.from_pretrained(...).save_pretrained(...)"
        raise ModelError(needed, "pickled weights, which are never opened", do)
    do = f"{AGAIN}, or convert it if it is published as pickles only"
    raise ModelError(needed, f"no {', '.join(missing[:3]) or 'file in the index'}", do)


def _scalar_head(tensors: Tensors, config: ModelConfig, folder: Path, dtype: torch.dtype, device: str) -> ScalarHead:
    """Take `score.weight` out of `tensors`."""
    stored = tensors.pop("score.weight", None)
    if stored is None or stored.shape != (1, config.hidden_size):
        got = "no score.weight" if stored is None else f"score.weight of shape {stored.shape}"
        raise ModelError(f"a scalar reward head in {folder}", got, "use a sequence classifier saved with num_labels=1")
    tensors.pop("lm_head.weight", None)  # some reward models keep the projection they were trained from
    return ScalarHead(Parameter([stored], [1], torch.Size(stored.shape), dtype, device)[:])


def _acceptance_head(raw: dict[str, Any], config: ModelConfig, folder: Path, dtype: torch.dtype,
                     device: str) -> AcceptanceHead | None:
    """The head that config.json speaks of, {"ramify": {"acceptance_head": {"layers": 3}}}, from its own file."""
    shape = raw.get("ramify", {}).get("acceptance_head")
    if shape is None:
        return None
    path = folder / "acceptance_head.safetensors"
    try:
        head = AcceptanceHead(config.hidden_size, shape["layers"])
        head.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"an intact {path}", str(error), AGAIN) from None
    except (KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{path} as config.json describes it", str(error), MISFIT) from None
    return head.to(device, dtype).requires_grad_(False).eval()


def _untied(tensors: Tensors, config: ModelConfig, bare: bool) -> ModelConfig:
    """Believe the file where it holds a vocabulary projection of its own that the config calls tied."""
    if not config.tie_embeddings or "lm_head.weight" not in tensors:
        return config
    [embed] = file_names("embed.weight", config, bare)
    shape = config.vocab_size, config.hidden_size
    if embed in tensors and _equal(tensors[embed], tensors["lm_head.weight"], shape):
        del tensors["lm_head.weight"]
        return config
    return replace(config, tie_embeddings=False)


def _equal(one: Stored, other: Stored, shape: tuple[int, int]) -> bool:
    """Whether two tables of this shape are the same."""
    parts = (slice(at, at + COMPARED) for at in range(0, shape[0], COMPARED))
    alike = one.shape == other.shape == shape and one.kind == other.kind and one.kind in FLOATS
    return alike and all(torch.equal(one[part], other[part]) for part in parts)


def _decoder(tensors: Tensors, config: ModelConfig, folder: Path, dtype: torch.dtype, device: str, executor: str,
             reward: bool) -> Decoder:
    """A decoder with every parameter filled and every tensor used."""
    bare = not any(name.startswith(("model.", "transformer.")) for name in tensors)
    config = _untied(tensors, config, bare)
    with torch.device("meta"):
        decoder = Decoder(config, vocabulary=not reward)
    plan = {name: file_names(name, config, bare) for name, _ in decoder.named_parameters()}
    wanted = {name for names in plan.values() for name in names}
    found = {name for name in tensors if not IGNORED.search(name)}
    _complain(f"all tensors of a {config.model_type} model in {folder}", "no", wanted - found)
    _complain(f"only tensors of a {config.model_type} model in {folder}", "also", found - wanted)
    sources: dict[str, Rows] = {}
    for name, parameter in decoder.named_parameters():
        parts = [tensors[part] for part in plan[name]]
        rows = file_rows(name, config, parameter.shape[0], len(parts))
        sources[name] = Parameter(parts, rows, parameter.shape, dtype, device, stored_transposed(name, config))
    assemble(decoder, sources, executor)
    if decoder.inv_freq is not None:  # no parameter: it stays float32 whatever the weights are
        decoder.inv_freq = decoder.inv_freq.to(device)
    for norm in (module for module in decoder.modules() if isinstance(module, Norm)):
        norm.weight.add_(config.norm_offset)
    return decoder


def _complain(needed: str, word: str, names: Iterable[str]) -> None:
    first = sorted(names)
    if first:
        more = f" and {len(first) - 3} more" if len(first) > 3 else ""
        raise ModelError(needed, f"{word} {', '.join(first[:3])}{more}", MISFIT)
