"""What the benchmark scripts share: the machine in words, a random model on disk, and where results go."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The hardware, and the versions that matter for speed."""
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": names[0] if names else platform.processor(), "cores": os.cpu_count(),
            "memory_gb": round(memory / 1e9, 1), "threads": torch.get_num_threads(), "torch": torch.__version__,
            "load_before": round(os.getloadavg()[0], 2)}


def in_words(hardware: dict[str, Any]) -> str:
    """One line about the machine."""
    return (f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gb']} GB; torch "
            f"{hardware['torch']}, {hardware['threads']} threads; load {hardware['load_before']} before the run")


def command() -> str:
    """How this run was started."""
    return shlex.join(["python", *sys.argv])


def keep(name: str, report: dict[str, Any], text: str, folder: Path = RESULTS, as_json: bool = False) -> None:
    """Write results/NAME.json and results/NAME.md and print the latter, or the report as one JSON object."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    print(json.dumps(report) if as_json else text)


def random_llama(folder: Path, *, hidden: int = 576, layers: int = 30, heads: int = 9, kv_heads: int = 3,
                 inner: int = 1536, vocabulary: int = 49152, positions: int = 2048) -> Path:
    """A Hugging Face folder with a random Llama, by default of 135M shape, and a tokenizer of single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                         num_key_value_heads=kv_heads, intermediate_size=inner, vocab_size=vocabulary,
                         max_position_embeddings=positions, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1)
    LlamaForCausalLM(config).save_pretrained(folder)
    letters = ["<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", "eos_token": "<eos>"}))
    return folder


def text_of_length(tokenizer: Any, tokens: int) -> str:
    """A text whose prompt has exactly so many tokens, or the nearest number below."""
    text = "Tom has 3 bags with 6 apples each. He eats 2 apples. How many apples does Tom have now? " * tokens
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(tokenizer.encode_prompt(text[:middle])) <= tokens else (low, middle - 1)
    return text[:low]
