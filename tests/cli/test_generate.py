"""`ramify generate` end to end on a tiny model: results, resuming, and every mistake a user can make."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

import ramify as package
from ramify.trace import read_rows

SHORT = ("--max-tokens", "12", "-n", "4")


@pytest.fixture
def generate(ramify, model, reward):
    """The command with the tiny model and reward."""
    return lambda *args: ramify("generate", "--model", model, "--reward", reward, *SHORT, *args)


def write_prompts(path, count):
    path.write_text("".join(json.dumps({"id": f"p{at}", "prompt": f"how many {at}?"}) + "\n" for at in range(count)))
    return path


def ids(path):
    return [row["id"] for _, row in read_rows(path)]


def stable(result):
    """A result without its clock."""
    return {**result, "usage": {**result["usage"], "wall_seconds": 0}}


def test_the_answer_goes_to_stdout_and_the_cost_to_stderr(generate):
    code, out, err = generate("how many?")
    assert code == 0 and out.endswith("\n") and out.count("\n") == 1
    assert "best_of_n · reward" in err and "4 candidates" in err and "FLOPs" in err


def test_json_is_what_python_returns(generate, model, reward):
    code, out, _ = generate("how many?", "--json", "--method", "speculative-rejection", "--set", "alpha=0.25",
                            "--set", "chunk=4", "--seed", "3")
    llm = package.load(model, reward=reward)
    result = llm.generate("how many?", "speculative_rejection", n=4, alpha=0.25, chunk=4, max_tokens=12, seed=3)
    told = json.loads(out)
    assert code == 0 and stable(told) == stable(json.loads(json.dumps(result.to_dict())))
    assert {"text", "reward", "finish_reason", "method", "seed", "candidates", "usage", "warnings"} <= set(told)


def test_flags_take_underscores(generate):
    dashes, underscores = (json.loads(generate("how many?", flag, "3", "--json")[1]) for flag in
                           ("--max-tokens", "--max_tokens"))
    assert stable(dashes) == stable(underscores) and max(row["tokens"] for row in dashes["candidates"]) == 3


def test_a_method_without_a_reward_loads_none(ramify, model):
    code, out, _ = ramify("generate", "how many?", "--model", model, "--method", "sample", *SHORT, "--json")
    assert code == 0 and json.loads(out)["reward"] is None


def test_a_batch_writes_one_row_per_prompt(generate, tmp_path):
    prompts, out = write_prompts(tmp_path / "p.jsonl", 5), tmp_path / "out.jsonl"
    code, printed, err = generate("--prompts", prompts, "--out", out, "--json")
    assert code == 0 and sorted(ids(out)) == [f"p{at}" for at in range(5)]
    assert json.loads(printed) == {
        "prompts": 5, "answered": 5, "answered_before": 0, "interrupted": False, "failed": []}
    assert "5 of 5 prompts answered" in err
    row = next(row for _, row in read_rows(out) if row["id"] == "p3")
    alone = json.loads(generate("how many 3?", "--json")[1])
    assert {key: row[key] for key in ("text", "reward", "method", "seed")} == {
        key: alone[key] for key in ("text", "reward", "method", "seed")}
    assert row["prompt"] == "how many 3?" and row["options"]["n"] == 4


def test_without_out_the_rows_go_to_stdout(generate, tmp_path):
    code, out, _ = generate("--prompts", write_prompts(tmp_path / "p.jsonl", 3))
    assert code == 0 and sorted(json.loads(line)["id"] for line in out.splitlines()) == ["p0", "p1", "p2"]


def test_the_next_run_does_only_what_is_missing(generate, tmp_path):
    prompts, out, trace = write_prompts(tmp_path / "p.jsonl", 3), tmp_path / "out.jsonl", tmp_path / "run.jsonl"
    generate("--prompts", prompts, "--out", out, "--trace", trace)
    before = out.read_text()
    write_prompts(prompts, 5)
    code, printed, err = generate("--prompts", prompts, "--out", out, "--json", "--trace", trace)
    assert code == 0 and json.loads(printed)["answered_before"] == 3 and "3 by earlier runs" in err
    assert out.read_text().startswith(before) and sorted(ids(out)) == [f"p{at}" for at in range(5)]
    assert sum(row["event"] == "result" for _, row in read_rows(trace)) == 5
    code, printed, _ = generate("--prompts", prompts, "--out", out, "--json")
    assert code == 0 and json.loads(printed)["answered"] == 0
    generate("--prompts", prompts, "--out", out, "--seed", "1")
    assert len(ids(out)) == 10  # other options are other results, in the same file


def test_an_interrupt_keeps_what_is_finished(generate, tmp_path, monkeypatch):
    prompts, out = write_prompts(tmp_path / "p.jsonl", 6), tmp_path / "out.jsonl"
    stream = package.LLM.stream

    def interrupted(self, *args, **options):
        for done, item in enumerate(stream(self, *args, **options)):
            if done == 2:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(package.LLM, "stream", interrupted)
        code, printed, err = generate("--prompts", prompts, "--out", out, "--json")
    assert code == 130 and len(ids(out)) == 2 and json.loads(printed)["interrupted"]
    assert "interrupted: 2 of 6 prompts answered" in err and "goes on from there" in err
    assert generate("--prompts", prompts, "--out", out)[0] == 0
    assert sorted(ids(out)) == [f"p{at}" for at in range(6)]


def test_ctrl_c_for_real(tmp_path, model, reward):
    prompts, out = write_prompts(tmp_path / "p.jsonl", 2000), tmp_path / "out.jsonl"
    command = [sys.executable, "-c", "from ramify.cli.main import run; run()", "generate", "--model", model,
               "--reward", reward, "--prompts", str(prompts), "--out", str(out), "-n", "16", "--max-tokens", "16"]
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listening) as process:
        while process.poll() is None and not (out.exists() and out.stat().st_size):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130 and "Traceback" not in err
    kept = ids(out)
    assert 0 < len(kept) == len(set(kept)) < 2000
    assert f"interrupted: {len(kept)} of 2000 prompts answered" in " ".join(err.split())


def test_a_prompt_that_fails_is_reported_and_tried_again(generate, tmp_path):
    prompts, out = write_prompts(tmp_path / "p.jsonl", 3), tmp_path / "out.jsonl"
    long = {"id": "long", "prompt": "x" * 600}
    prompts.write_text(json.dumps(long) + "\n" + prompts.read_text())
    for _ in range(2):
        code, printed, err = generate("--prompts", prompts, "--out", out, "--json")
        assert code == 2 and "prompt 'long' (line 1)" in err and "512 tokens" in err
        assert [failure["line"] for failure in json.loads(printed)["failed"]] == [1]
    assert sorted(ids(out)) == ["p0", "p1", "p2"]


def test_a_full_disk_keeps_whole_results(generate, tmp_path, disk_of):
    prompts, out = write_prompts(tmp_path / "p.jsonl", 8), tmp_path / "out.jsonl"
    generate("--prompts", prompts, "--out", out)
    size = out.stat().st_size // 2
    out.unlink()
    with disk_of(size):
        code, _, err = generate("--prompts", prompts, "--out", out)
    assert code == 2 and "needed room and permission to write" in err and "is kept" in err
    assert 0 < len(ids(out)) < 8
    assert generate("--prompts", prompts, "--out", out)[0] == 0 and len(set(ids(out))) == len(ids(out)) == 8


def test_the_trace_tells_the_run(generate, ramify, tmp_path):
    trace = tmp_path / "run.jsonl"
    result = json.loads(generate("how many?", "--method", "treebon", "--set", "layers=3", "--set", "children=2",
                                 "--json", "--trace", trace)[1])
    seen = json.loads(ramify("view", trace, "--json")[1])["requests"]
    assert len(seen) == 1 and seen[0]["chosen"] == result["chosen"] and seen[0]["usage"] == result["usage"]
    leaves = {row["id"] for row in result["candidates"]}
    assert leaves <= {row["id"] for row in seen[0]["candidates"]}
    dropped = {row["id"]: row["dropped_at"] for row in result["candidates"] if row["state"] == "dropped"}
    assert dropped == {row["id"]: row["dropped_at"] for row in seen[0]["candidates"] if row["state"] == "dropped"}


@pytest.mark.parametrize(("args", "message"), [
    ([], "a PROMPT or --prompts"), (["hi", "--prompts", "p.jsonl"], "both"),
    (["hi", "--out", "o.jsonl"], "--prompts for --out"), (["  "], "a prompt"), ([""], "a prompt"),
    (["x" * 600], "512 tokens"), (["hi", "--temperature", "-1"], "temperature"),
    (["hi", "--method", "best"], "a method among"), (["hi", "--set", "alpha=1"], "an option of best_of_n"),
    (["hi", "--set", "top_p=2"], "top_p in (0, 1]"), (["hi", "--prompts"], "requires an argument"),
    (["hi", "--method", "sample"], "a method that takes a reward"), (["hi", "--dtype", "int8"], "a dtype among"),
    (["hi", "--executor", "fast"], "an executor among"),
    (["hi", "--executor", "int8", "--dtype", "float64"], "float32 weights"),
    (["hi", "--kv-dtype", "int4"], "bfloat16, int8"), (["hi", "--kv-dtype", "int8", "--dtype", "float64"], "float64"),
    (["hi", "--frobnicate"], "No such option"), (["--prompts", "missing.jsonl"], "No such file"),
])
def test_mistakes_end_with_2_and_a_reason(generate, args, message):
    code, out, err = generate(*args)
    assert code == 2 and message in err and out == ""


def test_zero_candidates(ramify, model, reward):
    code, _, err = ramify("generate", "hi", "--model", model, "--reward", reward, "-n", "0")
    assert code == 2 and "n of at least 1" in err


def test_a_model_that_is_not_there(ramify, tmp_path):
    code, _, err = ramify("generate", "hi", "--model", tmp_path / "none")
    assert code == 2 and err.startswith("error: needed") and len(err.strip().splitlines()) == 1


def test_a_policy_is_no_reward(ramify, model):
    code, _, err = ramify("generate", "hi", "--model", model, "--reward", model)
    assert code == 2 and "scalar reward head" in err


def test_a_bad_line_costs_no_model_load(ramify, tmp_path):
    prompts = write_prompts(tmp_path / "p.jsonl", 20)
    lines = prompts.read_text().splitlines()
    lines[16] = lines[16][:-1]
    prompts.write_text("\n".join(lines))
    code, _, err = ramify("generate", "--prompts", prompts, "--model", "/nowhere", "--out", tmp_path / "out.jsonl")
    assert code == 2 and "line 17" in err and not os.path.exists(tmp_path / "out.jsonl")


def test_an_out_file_that_is_not_ours_is_left_alone(generate, tmp_path):
    prompts, out = write_prompts(tmp_path / "p.jsonl", 1), tmp_path / "notes.txt"
    out.write_text("Dear diary\nno line end")
    code, _, err = generate("--prompts", prompts, "--out", out)
    assert code == 2 and "notes.txt line 1" in err and out.read_text() == "Dear diary\nno line end"
