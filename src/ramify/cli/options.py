"""Options that belong to a method: their types come from its signature."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

import ramify
from ramify.errors import OptionError
from ramify.types import SamplingParams, SpeculationParams

# How models are held and run: the same wherever a command loads one.
Dtype = Annotated[str, typer.Option(help="float32 or float64; on a GPU also bfloat16 or float16.")]
Executor = Annotated[str, typer.Option(help="auto, torch, compiled, int8, int8-weights or int4-weights.")]
Device = Annotated[str, typer.Option(help="cpu, or cuda, cuda:0, cuda:1 ... for an NVIDIA GPU.")]
KVDtype = Annotated[str | None, typer.Option("--kv-dtype", show_default=False,
                                             help="Of cached keys and values: bfloat16 or int8; default: the dtype.")]

WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def method_named(name: str) -> Callable[..., Any]:
    """The search of that name; dashes may stand for underscores. Raises `OptionError` with the list."""
    try:
        return ramify.METHODS[name.replace("-", "_")]
    except KeyError:
        raise OptionError(f"a method among {', '.join(ramify.METHODS)}", repr(name), "pick one of them") from None


def method_options(search: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword options of a search."""
    parameters = inspect.signature(search).parameters.values()
    return {field.name: field for field in parameters if field.kind is field.KEYWORD_ONLY}


def settable(search: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Those that --set can give: not the reward, which has its flag, and no Python functions."""
    hints = get_type_hints(search)
    return {name: field for name, field in method_options(search).items()
            if name != "reward" and get_origin(hints[name]) is not Callable}


def parse_settings(settings: list[str], search: Callable[..., Any], flags: Collection[str] = ()) -> dict[str, Any]:
    """Turn `key=value` texts into options of the search, of sampling and of speculation, with the types they declare.

    Args:
        settings: the texts.
        search: the method.
        flags: options that were given by a flag of their own.

    Raises:
        OptionError: not of the form key=value, an unknown key (the known ones are listed), a key given twice,
            or a value of the wrong type.
    """
    hints = {**get_type_hints(SamplingParams), **get_type_hints(SpeculationParams), **get_type_hints(search)}
    own, sampling, ahead = settable(search), SamplingParams.names(), SpeculationParams.names()
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise OptionError("--set KEY=VALUE", repr(setting), "write the key, an equals sign and the value")
        if key not in (*own, *sampling, *ahead):
            known = (f"{search.__name__} ({', '.join(own)}), of sampling ({', '.join(sampling)}) "
                     f"or of speculation ({', '.join(ahead)})")
            raise OptionError(f"an option of {known}", repr(key), "rename or remove it")
        if key in parsed or key in flags:
            raise OptionError(f"{key} once", "it twice", "remove one")
        parsed[key] = parse_value(key, value, hints[key])
    return parsed


def parse_value(key: str, text: str, hint: Any) -> Any:
    """One value as its type hint asks. Text stays text for strings and for rewards, which go by name.

    Raises `OptionError` naming the key and the type.
    """
    choices = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        if type(None) in choices and text.lower() == "none":
            return None
        hint = next(choice for choice in choices if choice is not type(None))
    origin = get_origin(hint) or hint
    try:
        if origin is Literal:
            return {str(choice): choice for choice in get_args(hint)}[text]
        if origin is bool:
            return WORDS[text.lower()]
        if origin in (int, float):
            return origin(text)
        if origin is tuple:
            return tuple(json.loads(text)) if text.startswith("[") else (text,)
        if origin is dict:
            return {int(token): float(bias) for token, bias in json.loads(text).items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        needed = " or ".join(map(str, get_args(hint))) if origin is Literal else NAMES[origin]
        raise OptionError(f"{needed} for {key}", repr(text), f"write --set {key}=VALUE") from None
    return text


NAMES = {int: "a whole number", float: "a number", bool: "true or false",
         tuple: 'a text or a JSON list such as ["\\n"]', dict: 'a JSON object such as {"17": -2.5}'}
