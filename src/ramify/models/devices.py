"""Where a model can be: on the processor, or on one of the NVIDIA GPUs that PyTorch finds."""

from __future__ import annotations

import torch

from ramify.errors import ModelError


def gpus() -> dict[str, str]:
    """What each GPU is called, by its name in PyTorch: {"cuda:0": "NVIDIA H200"}."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {f"cuda:{number}": torch.cuda.get_device_name(number) for number in range(count)}


def find_device(name: str) -> str:
    """The device of that name: "cpu", "cuda:1", or "cuda" for the current GPU.

    Raises `ModelError` naming those that there are.
    """
    found = gpus()
    if name == "cuda" and found:
        return f"cuda:{torch.cuda.current_device()}"
    if name == "cpu" or name in found:
        return name
    there = ", ".join(["cpu", *(f"{gpu} ({title})" for gpu, title in found.items())])
    do = "choose one of them" if found else "use cpu" if torch.version.cuda else "use cpu, or a PyTorch built for CUDA"
    raise ModelError(f"a device among {there}", repr(name), do)
