"""How kernels are compiled, and where the result is kept.

Numba looks at the source file of a compiled function to know whether what it kept is still right, but not at the
files of the functions that it calls. So the folder for compiled code is named after the sources of all kernels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import binding
from numba import config, njit

# Sums may be reordered, so that they become vector operations; infinities and NaNs keep their meaning.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


def _digest() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def cache_folder() -> Path:
    """Where compiled kernels are kept: in NUMBA_CACHE_DIR if that is set, else in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(config.CACHE_DIR or home) / "ramify" / f"kernels-{_digest()}"


FOLDER = cache_folder()


def compiled(function: Callable[..., Any] | None = None, *, parallel: bool = False) -> Any:
    """Decorator: machine code without the GIL, kept for the next process. Where FOLDER cannot be written, Numba
    falls back to places of its own."""
    if function is None:
        return lambda function: compiled(function, parallel=parallel)
    before, config.CACHE_DIR = config.CACHE_DIR, str(FOLDER)
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH, parallel=parallel)(function)
    finally:
        config.CACHE_DIR = before


def _features() -> str:
    """The instruction sets that Numba compiles for, as LLVM writes them: "+avx2,-avx512f,..."."""
    return str(config.CPU_FEATURES) if config.CPU_FEATURES is not None else binding.get_host_cpu_features().flatten()


def has(feature: str) -> bool:
    """Whether kernels may use an instruction set, by LLVM's name."""
    return f"+{feature}" in _features().split(",")
