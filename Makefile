# The two commands of the README. Each makes .venv if there is none and installs what it needs, once.
#   make demo   solve three problems with four methods, side by side
#   make test   ruff, mypy, import-linter, and every test that is not slow
# A Linux machine without an NVIDIA GPU is served better by PyTorch's CPU wheels: name their index in
# PIP_EXTRA_INDEX_URL and pip prefers them; without it the ordinary wheel is installed and works too.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint slow clean

demo: $(VENV)/.core
	$(BIN)/ramify demo

test: lint
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: needed Python 3.11 or newer; got $$($(PYTHON) --version); run make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) "$$(grep ^torch== requirements.txt)"
	$(PIP) -r requirements.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.core
	$(PIP) -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
