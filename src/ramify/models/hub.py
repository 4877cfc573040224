"""Where a model's files are: a local folder, the embedded family, or the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from ramify.errors import ModelError

EMBEDDED = Path(__file__).parent.parent / "minis" / "weights"
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt"]
# subfolders hold other formats, "consolidated" files a second copy of the weights
UNWANTED = ["*/*", "consolidated*"]


def find_folder(name_or_path: str) -> Path:
    """The local folder of a model, downloaded first if it is a hub id that is not in the cache.

    Raises:
        ModelError: no such folder, and no such model on the hub or the hub out of reach.
    """
    path = Path(name_or_path).expanduser()
    if name_or_path and path.is_dir():
        return path
    if path.is_file():
        raise ModelError("a model folder", f"the file {path}", "pass the folder that holds it")
    if name_or_path.startswith("mini-math"):
        return _embedded(name_or_path)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name_or_path):
        raise ModelError("a model folder or hub id", f"{name_or_path!r}, which is not there", "check the path")
    return _download(name_or_path)


def embedded_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in EMBEDDED.glob("*/config.json"))


def _embedded(name: str) -> Path:
    if (EMBEDDED / name).is_dir():
        return EMBEDDED / name
    raise ModelError(f"an embedded model among {embedded_models()}", repr(name), "choose one of them or pass a folder")


def _download(repo: str) -> Path:
    """Fetch weights and texts, never pickles or code. HF_HUB_OFFLINE and HF_HOME are respected."""
    from huggingface_hub import snapshot_download  # slow to import, and most runs need no hub

    try:
        return Path(snapshot_download(repo, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except Exception as error:  # a download can fail in any layer, and each has errors of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"the model {repo!r}", f"no folder of that name, and from the Hugging Face hub: {reason}",
            "check the name and the connection, or download it and pass its folder",
        ) from error  # fmt: skip
