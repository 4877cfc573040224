"""Method options from the command line get the types that the method declares."""

import inspect
import re
from collections.abc import Callable
from typing import Literal, get_type_hints

import pytest
import torch

import ramify.cli.bench
from ramify.cli.bench_engine import engine
from ramify.cli.bench_speculative import speculative
from ramify.cli.generate import generate
from ramify.cli.methods import describe
from ramify.cli.options import Executor, KVDtype, method_named, parse_settings, parse_value
from ramify.cli.plan import plan
from ramify.errors import OptionError
from ramify.search import METHODS


def search(prompt, *, reward: object, alpha: float = 0.5, layers: int = 4, segment: int | None = None,
           guide: object = None, answer: Callable[[str], str] = str, vote: Literal["plain", "weighted"] = "plain",
           greedy: bool = False): ...


@pytest.mark.parametrize(("setting", "expected"), [
    ("alpha=0.25", 0.25), ("alpha=1", 1.0), ("layers=3", 3), ("segment=none", None), ("segment=7", 7),
    ("guide=folder/of=model", "folder/of=model"), ("vote=weighted", "weighted"), ("greedy=True", True),
    ("greedy=0", False), ("top_k=5", 5), ("top-k=5", 5), ("min_p=.1", 0.1), ("stop=END", ("END",)),
    ('stop=["a", "b"]', ("a", "b")), ('logit_bias={"3": -1}', {3: -1.0}), ("ignore_eos=yes", True),
])
def test_values_are_typed(setting, expected):
    [(key, value)] = parse_settings([setting], search).items()
    assert key == setting.partition("=")[0].replace("-", "_")
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(("setting", "message"), [
    ("alpha=much", "a number for alpha"), ("layers=2.5", "a whole number for layers"),
    ("greedy=maybe", "true or false"), ("vote=none", "plain or weighted"), ("logit_bias=3", "JSON object"),
    ("stop=[", "JSON list"), ("alpha", "KEY=VALUE"),
    ("alhpa=1", r"option of search \(alpha, layers, segment, guide, vote, greedy\), of sampling \(max_tokens"),
    ("reward=r", "an option of"),  # it has a flag of its own
    ("answer=str", "an option of"),  # functions come from Python
])
def test_mistakes_are_named(setting, message):
    with pytest.raises(OptionError, match=message):
        parse_settings([setting], search)


def test_an_option_is_given_once():
    with pytest.raises(OptionError, match="layers once"):
        parse_settings(["layers=1", "layers=2"], search)
    with pytest.raises(OptionError, match="max_tokens once"):
        parse_settings(["max_tokens=1"], search, ["max_tokens"])


def test_none_is_a_value_only_where_it_is_declared():
    assert parse_value("x", "none", str) == "none"
    with pytest.raises(OptionError):
        parse_value("x", "none", int)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_declares_what_the_command_line_needs(name):
    hints = get_type_hints(METHODS[name])
    card = describe(METHODS[name])
    assert set(card["options"]) <= set(hints)
    assert card["summary"].endswith(".") and card["law"] and card["cost"]
    assert "Law" not in card["law"] and "Cost" not in card["law"]


def test_methods_go_by_name_with_dashes_too():
    assert method_named("best-of-n") is METHODS["best_of_n"]
    with pytest.raises(OptionError, match=r"best_of_n, .*treebon"):
        method_named("best")


def test_help_names_what_models_can_be_loaded_as():
    """It is written out, since the lists are in rooms that take a second to import."""
    from ramify.api import ROUNDED
    from ramify.models.executors import EXECUTORS

    for option, names in ((Executor, EXECUTORS), (KVDtype, ROUNDED)):
        [told] = option.__metadata__
        assert set(names) <= set(re.findall(r"[\w-]+", told.help))


@pytest.mark.parametrize("command", [generate, plan, ramify.cli.bench.search, engine, speculative])
def test_every_command_that_loads_a_model_says_how(command):
    parameters = inspect.signature(command).parameters
    how = [parameters[name].default for name in ("dtype", "executor", "kv_dtype", "device")]
    assert how == ["float32", "auto", None, "cpu"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", [
    ["generate", "hi"], ["plan"], ["bench", "search", "--problems", "1"], ["bench", "speculative"],
    ["reward", "check"]], ids=" ".join)
def test_every_command_asks_for_the_device_that_it_is_told(ramify, command):
    code, out, err = ramify(*command, "--device", "cuda:9")
    assert code == 2 and out == "" and "a device among cpu" in err and "'cuda:9'" in err and "use cpu" in err
