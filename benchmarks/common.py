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


def text_of_length(tokenizer: Any, tokens: int) -> str:
    """A text whose prompt has exactly so many tokens, or the nearest number below."""
    text = "Tom has 3 bags with 6 apples each. He eats 2 apples. How many apples does Tom have now? " * tokens
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(tokenizer.encode_prompt(text[:middle])) <= tokens else (low, middle - 1)
    return text[:low]
