# Everything a developer or a CI machine runs. `make help` lists it.
# Needed: Python 3.11 and a package index that pip is configured for. After `make install` nothing uses the network.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS ?= 2
ARGS ?=

export HF_HUB_OFFLINE := 1
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_USAGE_STATS_ENABLED := 0
export TOKENIZERS_PARALLELISM := false
# Another checkout on the path would be tested in place of this one.
unexport PYTHONPATH

.PHONY: help install demo test mutants soak test-faults check lint format types docs bench clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Create .venv and install the pinned packages (once; again when pyproject.toml or constraints.txt change).

$(INSTALLED): pyproject.toml constraints.txt
	@python=""; \
	for candidate in python3.11 python3 python; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: Expected Python 3.11 as python3.11, python3 or python, found none. Install it (e.g. 'pyenv install 3.11' or 'apt install python3.11-venv') and repeat." >&2; \
	  exit 2; \
	fi; \
	if [ -x $(BIN)/python ] && ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	  echo "make: Expected Python 3.11 in $(VENV)/, found something else. Run 'make clean' and repeat." >&2; \
	  exit 2; \
	fi; \
	if [ ! -x $(BIN)/pip ]; then \
	  echo "==> Creating $(VENV) with $$($$python --version)"; \
	  "$$python" -m venv $(VENV); \
	fi
	@echo "==> Installing the packages of constraints.txt into $(VENV) (about 2 GB; minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip check
	@touch $@
	@echo "==> Installed. '$(BIN)/tacit --help' lists the commands."

demo: install ## Run the main job on the embedded data: a private federation with its report (half a minute).
	@echo "==> tacit simulate $(ARGS)"
	@$(BIN)/tacit simulate $(ARGS)

test: install ## Run all tests but the soak tests, in WORKERS processes of one thread; then some of the mutants, each of which must be noticed.
	@echo "==> pytest in $(WORKERS) processes"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not soak and not faults" $(ARGS)
	@if [ -z "$(ARGS)" ]; then $(BIN)/python -m tests.mutants.run --share 0.03 --after-tests; fi

mutants: install ## Break each line that privacy rests on, and see a test fail (10 minutes; ARGS="--only noise").
	@$(BIN)/python -m tests.mutants.run $(ARGS)

soak: install ## Run the tests that take minutes.
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak $(ARGS)

test-faults: install ## Run the whole matrix of faults of a deployment: kills, networks, disks, hostile nodes.
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults $(ARGS)

check: lint types test ## Everything a change has to pass: lint, types, tests.

lint: install ## Check style and format.
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "make: some files are not formatted; run 'make format'." >&2; exit 1; }

format: install ## Rewrite files in the common format.
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

types: install ## Check types (strict, in all packages).
	@echo "==> mypy"
	@$(BIN)/mypy

docs: install ## Build the API pages from docstrings into build/docs (half a minute).
	@echo "==> pdoc"
	@$(BIN)/python -m pdoc --docformat google --output-directory build/docs tacit shared client server simulations '!simulations.benchmarks' '!simulations.examples'
	@echo "==> Open build/docs/index.html"

bench: install ## Measure speed and memory in one table (under 15 minutes; ARGS=--all for the rest).
	@$(BIN)/tacit bench $(ARGS)

clean: ## Remove .venv and what tools left behind; runs/ stays.
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
