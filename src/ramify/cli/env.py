"""`ramify env`: what a bug report should say about the machine."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ramify.cli.output import say_json, screen

PACKAGES = ("torch", "numpy", "numba", "safetensors", "tokenizers", "huggingface_hub", "jinja2", "typer", "rich",
            "transformers", "llguidance", "xgrammar", "fastapi", "vllm", "matplotlib")


def facts() -> dict[str, dict[str, Any]]:
    """Everything, by section."""
    import torch

    import ramify
    from ramify.models import load_model
    from ramify.models.devices import gpus
    from ramify.models.hub import EMBEDDED, embedded_models
    from ramify.models.kernels.jit import FOLDER
    from ramify.models.kernels.tiles import BYTES, LANES

    return {
        "versions": {"ramify": ramify.__version__, "python": platform.python_version(),
                     **{name: _version(name) for name in PACKAGES}},
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count(),
                    "vector instructions": torch.backends.cpu.get_cpu_capability(),
                    "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
                    "torch threads": torch.get_num_threads(),
                    "GPU": ", ".join(f"{gpu} ({title})" for gpu, title in gpus().items()) or "none",
                    "GPU toolkit of torch": torch.version.cuda or "none"},
        "kernels": {"executor for mini-math": load_model("mini-math", executor="auto").decoder.executor,
                    "numbers in a vector": LANES, "byte products": "yes" if BYTES else "no", "kept in": str(FOLDER)},
        "paths": {"python": sys.executable, "ramify": str(Path(ramify.__file__).parent), "hub cache": _hub_cache(),
                  "hub offline": os.environ.get("HF_HUB_OFFLINE", "0")},
        "embedded models": {name: f"{_size(EMBEDDED / name) / 2**20:.1f} MiB" for name in embedded_models()},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name; Linux keeps it in a file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return HF_HUB_CACHE


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def env(as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False) -> None:
    """Show versions, processor, threads, embedded models and paths."""
    sections = facts()
    if as_json:
        say_json(sections)
        return
    for name, section in sections.items():
        table = Table(box=None, show_header=False, title=name, title_justify="left", title_style="bold")
        for key, value in section.items():
            table.add_row(f"  {key}", "not installed" if value is None else str(value))
        screen().print(table)
