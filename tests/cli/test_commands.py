"""The other commands: view, methods, env, and what all of them share."""

import json
import os
import subprocess
import sys

import pytest
from typer.main import get_command

import ramify as package
from ramify.cli import main
from ramify.errors import CapacityError
from ramify.search import METHODS
from ramify.trace import Trace


@pytest.fixture
def two_requests(tmp_path):
    path = tmp_path / "run.jsonl"
    with Trace(path) as trace:
        for request, prompt in enumerate(("first question", "second question")):
            trace.write("request", request=request, prompt=prompt, method="best_of_n", n=2, options={})
            trace.write("fork", request=request, candidate="", children=["0", "1"])
            trace.write("drop", request=request, candidate="1", tokens=3)
    return path


def test_view_lists_many_and_shows_one(ramify, two_requests):
    code, out, _ = ramify("view", two_requests)
    assert code == 0 and "2 requests" in out and "second question" in out and "dropped at" not in out
    code, out, _ = ramify("view", two_requests, "--request", 2)
    assert code == 0 and "second question" in out and "first" not in out and "✗ dropped at 3" in out
    assert "interrupted" in out


def test_view_for_machines(ramify, two_requests):
    code, out, _ = ramify("view", two_requests, "--json")
    requests = json.loads(out)["requests"]
    assert code == 0 and [request["prompt"] for request in requests] == ["first question", "second question"]
    assert requests[0]["candidates"][1]["dropped_at"] == 3 and not requests[0]["complete"]


def test_view_mistakes(ramify, two_requests, tmp_path):
    code, _, err = ramify("view", two_requests, "--request", "3")
    assert code == 2 and "between 1 and 2" in err
    two_requests.write_text(two_requests.read_text()[:-9])
    code, _, err = ramify("view", two_requests)
    assert code == 2 and "run.jsonl line 6" in err


def test_methods_show_law_cost_and_options(ramify):
    code, out, _ = ramify("methods")
    assert code == 0 and all(name in out for name in METHODS)
    code, out, _ = ramify("methods", "best-of-n")
    assert code == 0 and "Law: " in out and "Cost: " in out and "n=16" in out
    cards = json.loads(ramify("methods", "--json")[1])
    assert list(cards) == list(METHODS) and cards["best_of_n"]["options"] == {"n": 16}
    assert ramify("methods", "nope")[0] == 2


def test_env_reports_versions_threads_and_paths(ramify):
    facts = json.loads(ramify("env", "--json")[1])
    assert facts["versions"]["ramify"] == package.__version__ and facts["versions"]["torch"]
    assert facts["machine"]["torch threads"] == 1
    assert os.path.isdir(facts["paths"]["ramify"])
    code, out, _ = ramify("env")
    assert code == 0 and package.__version__ in out and "torch threads" in out


@pytest.fixture
def tiny_demo(ramify, model, reward, monkeypatch):
    """`ramify demo` with the tiny model in place of the embedded one."""
    load = package.load
    monkeypatch.setattr(package, "load", lambda name: load(model, reward=reward))
    return lambda *args: ramify("demo", "--problems", 2, "-n", 4, "--max-tokens", 8, *args)


def test_demo_compares_four_methods(tiny_demo):
    code, out, _ = tiny_demo()
    assert code == 0 and out.count("Problem ") == 2 and out.count("wrong") == 8 and "★" in out
    assert all(out.count(method) >= 3 for method in ("sample", "best_of_n", "speculative_rejection", "treebon"))


def test_demo_totals_add_up(tiny_demo):
    told = json.loads(tiny_demo("--json")[1])
    for method, total in told["totals"].items():
        rows = [row for row in told["results"] if row["method"] == method]
        assert len(rows) == total["problems"] == 2 and total["correct"] == sum(row["correct"] for row in rows)
        assert total["forward_tokens"] == sum(sum(row["forward_tokens"].values()) for row in rows)
        assert total["flops"] == sum(row["flops"] for row in rows)
        assert all(("reward" in row["forward_tokens"]) == (method != "sample") for row in rows)


def commands():
    """Every command and subcommand of the application, as (argument list, whether it is a group)."""

    def below(command, path):
        children = getattr(command, "commands", {})
        yield path, bool(children)
        for name, child in children.items():
            yield from below(child, [*path, name])

    return list(below(get_command(main.app), []))


@pytest.mark.parametrize(("command", "group"), commands())
def test_help_fits_a_screen_and_every_command_speaks_json(ramify, command, group):
    code, out, _ = ramify(*command, "--help")
    assert code == 0 and len(out.splitlines()) <= 50
    assert group or "--json" in out


def test_an_error_of_ours_ends_with_1(ramify, monkeypatch):
    def fail(path):
        raise CapacityError("more room", "less", "buy some")

    monkeypatch.setattr("ramify.cli.view.read_trace", fail)
    assert ramify("view", "x") == (1, "", "error: needed more room; got less; buy some\n")


def test_brackets_in_an_error_are_shown(ramify):
    assert "[red]" in ramify("view", "[red]")[2]


def view_into(where, trace):
    """The command in a shell of its own, its standard output going to `where`."""
    command = f"{sys.executable} -c 'from ramify.cli.main import run; run()' view {trace} --json {where}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True)


def test_a_full_stdout_is_one_line(two_requests):
    done = view_into("> /dev/full", two_requests)
    assert done.returncode == 2 and done.stderr.startswith("error: needed room to write standard output")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_closed_pipe_is_no_error(two_requests):
    assert view_into("| true", two_requests).stderr == ""


def test_the_version(ramify):
    assert ramify("--version")[1] == f"ramify {package.__version__}\n"


def test_no_command_shows_the_help(ramify):
    code, out, _ = ramify()
    assert code == 2 and "Commands" in out
