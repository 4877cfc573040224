"""The rules of the house that no tool checks: short files and nothing left unfinished."""

import re
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "ramify"
WALL = 500
LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b|pragma: no cover")


def too_long(files):
    return {file.name: count for file in files if (count := len(file.read_text().splitlines())) > WALL}


def leftovers(files):
    return [f"{file.name}:{number}" for file in files
            for number, line in enumerate(file.read_text().splitlines(), 1) if LEFTOVER.search(line)]


def test_no_file_passes_the_wall():
    assert too_long(SRC.rglob("*.py")) == {}


def test_nothing_is_left_unfinished():
    assert leftovers(SRC.rglob("*.py")) == []


def test_the_checks_catch_what_they_forbid(tmp_path):
    long, unfinished = tmp_path / "long.py", tmp_path / "unfinished.py"
    long.write_text("x = 1\n" * (WALL + 1))
    unfinished.write_text("x = 1\nraise NotImplementedError\n")
    assert too_long([long, unfinished]) == {"long.py": WALL + 1}
    assert leftovers([long, unfinished]) == ["unfinished.py:2"]
