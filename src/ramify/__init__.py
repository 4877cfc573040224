"""Ramify: better and cheaper answers from a language model at inference time.

    import ramify

    llm = ramify.load("mini-math")
    print(llm.generate("Ann has 3 apples and buys 4. How many?", method="treebon", n=16).text)

`load`, `LLM` and `METHODS` are imported when they are first used, so that `import ramify` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ramify.errors import (
    BackendError,
    CapacityError,
    DataError,
    ModelError,
    OptionError,
    PromptError,
    RamifyError,
    RewardError,
    StorageError,
    UserError,
)
from ramify.pause import no_collection
from ramify.types import Candidate, Result, SamplingParams, Usage

if TYPE_CHECKING:
    from ramify.api import LLM, load
    from ramify.search import METHODS

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Candidate",
    "CapacityError",
    "DataError",
    "LLM",
    "METHODS",
    "ModelError",
    "OptionError",
    "PromptError",
    "RamifyError",
    "Result",
    "RewardError",
    "SamplingParams",
    "StorageError",
    "Usage",
    "UserError",
    "load",
]

_LAZY = {"LLM": "ramify.api", "METHODS": "ramify.search", "load": "ramify.api"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ramify' has no attribute {name!r}")
    with no_collection():
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
