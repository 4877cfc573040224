"""Reading a model folder's JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ramify.errors import ModelError


def read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object in a JSON file; `default`, if given, for a file that does not exist.

    Raises:
        ModelError: a missing file without default, or one that does not hold a JSON object.
    """
    if not path.is_file():
        if default is not None:
            return default
        raise ModelError(f"{path.name} in {path.parent}", "none", "download the model again or check the path")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise ModelError(f"JSON in {path}", str(error), "download the file again") from None
    if not isinstance(value, dict):
        raise ModelError(f"a JSON object in {path}", type(value).__name__, "download the file again")
    return value
