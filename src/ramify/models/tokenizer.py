"""Text to token ids and back, on the tokenizers library, with the model's own chat template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from ramify.errors import ModelError, PromptError
from ramify.models.chat import render_chat
from ramify.models.config import token_ids
from ramify.models.files import read_json

Message = Mapping[str, Any]
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """A model folder's tokenizer.json, special tokens and chat template.

    eos_ids: every id that ends an answer, from generation_config.json (else config.json) and the tokenizer's own
    eos_token. fingerprint: equal for tokenizers whose ids mean the same tokens.
    """

    def __init__(self, folder: Path) -> None:
        """Read `folder`.

        Raises:
            ModelError: no tokenizer.json there, or a damaged one.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            do = "save it there with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            raise ModelError(f"tokenizer.json in {folder}", "none", do)
        try:
            self.backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"a readable {path}", str(error), "download the model again") from error
        # both are settings of a training script that some files carry along; a prompt is never cut in silence
        self.backend.no_truncation()
        self.backend.no_padding()
        settings = read_json(folder / "tokenizer_config.json", default={})
        self.special = {**_special(read_json(folder / "special_tokens_map.json", default={})), **_special(settings)}
        self.template = _template(folder, settings)
        self.bos_id = self._id("bos_token")
        self.adds_bos = self._adds_bos(settings.get("add_bos_token"))
        self.eos_ids = self._eos_ids(folder)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; no special token is added, those written out in the text are recognised."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens skipped."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def token_text(self, token: int) -> str:
        """One token as text, special tokens included; half a character shows as U+FFFD."""
        return self.backend.decode([token], skip_special_tokens=False)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as the model was trained to read it.

        Raises:
            PromptError: no chat template, or one that refuses these messages.
        """
        if self.template is None:
            raise PromptError("a model with a chat template", "a model without one", "pass the prompt as a string")
        return render_chat(self.template, messages, add_generation_prompt, self.special)

    def encode_prompt(self, prompt: str | Sequence[Message]) -> list[int]:
        """Ids of a prompt. A string is one user message if the model has a chat template, else raw text.

        The beginning-of-sequence token comes once: from the template if that writes it, otherwise, for raw text,
        from the tokenizer's settings.

        Raises:
            PromptError: an empty prompt, messages without a template, or malformed messages.
        """
        if not prompt:
            raise PromptError("a prompt", "an empty one", "pass some text")
        if not isinstance(prompt, str):
            return self.encode(self.render(prompt))
        if self.template is not None:
            return self.encode(self.render([{"role": "user", "content": prompt}]))
        ids = self.encode(prompt)
        if self.bos_id is not None and self.adds_bos and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    @cached_property
    def closing_ids(self) -> list[int]:
        """What the chat template writes after an assistant's turn; without a template the end-of-sequence id."""
        if self.template is None:
            return list(self.eos_ids[:1])
        mark = "ramify-turn"
        turns = [{"role": "user", "content": mark}, {"role": "assistant", "content": mark}]
        return self.encode(self.render(turns, add_generation_prompt=False).rpartition(mark)[2])

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.vocabulary.values()) + 1

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token and its id, added tokens included. Made when it is asked for: it takes megabytes."""
        return self.backend.get_vocab(with_added_tokens=True)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the vocabulary: where two are equal, ids can pass from one model to the other."""
        pairs = sorted(self.vocabulary.items(), key=lambda pair: pair[1])
        return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()

    def _id(self, name: str) -> int | None:
        text = self.special.get(name)
        return None if text is None else self.backend.token_to_id(text)

    def _adds_bos(self, setting: bool | None) -> bool:
        if setting is not None:
            return setting
        return self.bos_id is not None and self.backend.encode("", add_special_tokens=True).ids[:1] == [self.bos_id]

    def _eos_ids(self, folder: Path) -> tuple[int, ...]:
        stated = read_json(folder / "generation_config.json", default={}).get("eos_token_id")
        if stated is None:
            stated = read_json(folder / "config.json", default={}).get("eos_token_id")
        own = self._id("eos_token")
        return tuple(sorted({*token_ids(stated), *token_ids(own)}))


def _special(settings: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens' texts; a file holds each as a string or as an object with `content`."""
    texts = {}
    for name in (name for name in SPECIAL if settings.get(name) is not None):
        token = settings[name]
        text = token.get("content") if isinstance(token, dict) else token
        if not isinstance(text, str):
            raise ModelError(f"{name} as text in the tokenizer's files", repr(token), "download the model again")
        texts[name] = text
    return texts


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template: its own file wins over the field, of several the one named default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        return next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template
