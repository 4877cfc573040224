"""Chat templates, rendered in a sandbox: they come with model files, so they are not trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ramify.errors import PromptError


def render_chat(
    template: str, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, special: Mapping[str, str]
) -> str:
    """`messages` as `template` writes them, with the names and functions that Hugging Face templates expect.

    Raises:
        PromptError: messages without a role, or a template that fails or refuses them.
    """
    for message in messages:
        if not isinstance(message, Mapping) or "role" not in message:
            raise PromptError('messages like {"role": "user", "content": "..."}', repr(message), "add its role")
    try:
        return _compile(template).render(
            messages=[dict(message) for message in messages], add_generation_prompt=add_generation_prompt,
            tools=None, documents=None, **special,
        )  # fmt: skip
    except Exception as error:  # a template is a program: it can fail in any way
        needed = "messages that the chat template accepts"
        raise PromptError(needed, str(error), "change their roles or order") from None


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.globals["raise_exception"] = _raise
    sandbox.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return sandbox.from_string(template)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:  # fmt: skip
    """JSON as it is: Jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
