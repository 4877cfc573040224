"""llama.cpp by llama-cpp-python's bindings of its C functions, which know batches and shared beginnings.

A step decodes one token of every sequence in one call. A shared prompt is read once, and its cells of the cache then
belong to all samples; different prompts have streams of their own in the cache. Its cache holds float16, as it does
unless it is told otherwise.

Variants: fp32, and int8 (the library's q8_0: weights of 8 bits in groups of 32, inputs rounded as they come).
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
from protocol import Generate, Job, serve

BATCH = 2048  # tokens of one call, at most
STREAM = 256  # cells of a stream come in multiples of this
Q8_0 = 7  # what llama.h calls a file of mostly such weights
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


class Token(NamedTuple):
    """One that is to be decoded; `last`: its logits are wanted."""

    id: int
    position: int
    sequence: int
    last: bool


def converted(job: Job, variant: str) -> Path:
    """Where the model lies in llama.cpp's format: beside the original."""
    folder = Path(job["folder"])
    return folder.with_name(f"{folder.name}-{variant}.gguf")


def prepare(job: Job) -> None:
    """Convert the model, once: by hand to float32, from there by the library itself."""
    exact, wanted = converted(job, "fp32"), converted(job, job["variant"])
    if not exact.is_file():
        write(Path(job["folder"]), exact)
    if not wanted.is_file():
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype, how.nthread = Q8_0, job["threads"]
        paths = (str(path).encode() for path in (exact, wanted))
        if llama_cpp.llama_model_quantize(*paths, ctypes.byref(how)):
            raise SystemExit(f"llama.cpp did not write {wanted}")


def write(folder: Path, path: Path) -> None:
    """A Llama's float32 safetensors as GGUF, without a vocabulary: token ids come and go."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    heads, size = config["num_attention_heads"], config["hidden_size"]
    kv_heads = config.get("num_key_value_heads", heads)
    draft = path.with_suffix(".part")
    out = gguf.GGUFWriter(draft, "llama")
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(size)
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(kv_heads)
    out.add_rope_dimension_count(size // heads)
    out.add_rope_freq_base(config["rope_theta"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])
    out.add_tokenizer_model("no_vocab")
    for name, weight in tensors(folder / "model.safetensors"):
        stem = name.removesuffix(".weight")
        _, _, number, part = [*stem.split(".", 3), "", "", ""][:4]
        if part.endswith(("q_proj", "k_proj")):
            weight = interleaved(weight, heads if part.endswith("q_proj") else kv_heads)
        out.add_tensor(f"{WHOLE[stem] if stem in WHOLE else f'blk.{number}.{NAMES[part]}'}.weight", weight)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    draft.rename(path)


def tensors(path: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Names and numbers of a safetensors file in float32."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    numbers = np.memmap(path, np.uint8, "r", offset=8 + size)
    for name, told in header.items():
        if name != "__metadata__":
            first, end = told["data_offsets"]
            yield name, np.array(numbers[first:end].view(np.float32).reshape(told["shape"]))


def interleaved(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of every head reordered: llama.cpp rotates neighbours where the original rotates two halves."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def load(job: Job) -> Generate:
    """Batches of sequences, every one with its own place in the cache."""
    prompts, samples = job["prompts"], job["samples"]
    sequences, length = len(prompts) * samples, len(prompts[0])
    context = opened(job, sequences, length)
    memory = llama_cpp.llama_get_memory(context)
    draw = drawing(context)
    decode = decoding(context)

    def read() -> list[int]:
        """The prompts, and a first token of every sequence."""
        found: list[int] = []
        ids = [Token(id, at, number * samples, at == length - 1) for number, prompt in enumerate(prompts)
               for at, id in enumerate(prompt)]
        for first in range(0, len(ids), BATCH):
            some = ids[first : first + BATCH]
            decode(some)
            found += [draw(at) for at, token in enumerate(some) if token.last for _ in range(samples)]
        for number in range(sequences):
            if number % samples:
                llama_cpp.llama_memory_seq_cp(memory, number - number % samples, number, -1, -1)
        return found

    def generate(tokens: int) -> int:
        llama_cpp.llama_memory_clear(memory, False)
        answers = [[id] for id in read()]
        for position in range(length, length + tokens - 1):
            decode([Token(answer[-1], position, number, True) for number, answer in enumerate(answers)])
            for number, answer in enumerate(answers):
                answer.append(draw(number))
        return sum(map(len, answers))

    return generate


def opened(job: Job, sequences: int, length: int) -> Any:
    """The model, with room for everything that will be cached."""
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(converted(job, job["variant"])).encode(),
                                                 llama_cpp.llama_model_default_params())
    shared, longest = job["samples"] > 1, length + job["tokens"]
    wanted = llama_cpp.llama_context_default_params()
    wanted.n_ctx = (len(job["prompts"]) * length + sequences * job["tokens"] if shared
                    else sequences * -(-longest // STREAM) * STREAM)
    wanted.n_seq_max, wanted.kv_unified, wanted.n_batch = sequences, shared, BATCH
    wanted.n_threads = wanted.n_threads_batch = job["threads"]
    context = llama_cpp.llama_init_from_model(model, wanted)
    if not context:
        raise SystemExit("llama.cpp has no context of this size")
    return context


def drawing(context: Any) -> Callable[[int], int]:
    """Draws a token from the full distribution of a row of the last batch."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_dist(1))
    return lambda row: int(llama_cpp.llama_sampler_sample(chain, context, row))


def decoding(context: Any) -> Callable[[Sequence[Token]], None]:
    """Decodes a batch."""
    batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def decode(tokens: Sequence[Token]) -> None:
        batch.n_tokens = len(tokens)
        for at, token in enumerate(tokens):
            batch.token[at], batch.pos[at], batch.logits[at] = token.id, token.position, token.last
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, token.sequence
        if code := llama_cpp.llama_decode(context, batch):
            raise SystemExit(f"llama_decode returned {code}")

    return decode


if __name__ == "__main__":
    serve(load, lambda: {"llama_cpp_python": llama_cpp.__version__}, prepare)
