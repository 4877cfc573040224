"""The public surface: sorted, importable, small, and light to import."""

import subprocess
import sys

import pytest

import ramify


def test_all_is_sorted_and_small():
    assert ramify.__all__ == sorted(ramify.__all__)
    assert len(set(ramify.__all__)) == len(ramify.__all__) <= 20


@pytest.mark.parametrize("name", ramify.__all__)
def test_every_public_name_is_importable_and_documented(name):
    value = getattr(ramify, name)
    assert value.__doc__


def test_every_lazy_name_is_public():
    assert set(ramify._LAZY) <= set(ramify.__all__)
    assert set(dir(ramify)) == set(ramify.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = ramify.lod


def heavy_modules_after(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has imported after running the code."""
    probe = f"{code}\nimport sys\nprint('loaded:', *{{m.split('.')[0] for m in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.rsplit("loaded:", 1)[1].split())
    return loaded & {"torch", "transformers", "numpy", "tokenizers", "huggingface_hub", "jinja2", "matplotlib"}


def test_importing_ramify_imports_nothing_heavy():
    assert heavy_modules_after("import ramify; ramify.SamplingParams()") == set()


def test_the_probe_sees_a_heavy_import():
    assert heavy_modules_after("import numpy") == {"numpy"}


def test_the_command_line_help_imports_nothing_heavy():
    code = "from typer.testing import CliRunner\nfrom ramify.cli.main import app\n" \
           "for args in (['--help'], ['generate', '--help'], ['view', '--help'], ['env', '--help']):\n" \
           "    assert CliRunner().invoke(app, args).exit_code == 0, args"
    assert heavy_modules_after(code) == set()
