# One file to set up, run, test and check. `make` alone lists the targets.
# PYTHON=python3.12 chooses the interpreter (3.11 or newer); without it the first that fits is taken.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
ARGS ?=
# Processes that run tests. Each takes about 3 GB of memory.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# pip's log goes to a file; a person sees the large downloads and any error.
SHOW_DOWNLOADS = tee -a $(VENV)/install.log | awk '\
	/^ *Downloading .*[0-9] MB\)/ { print "  " $$2 " " $$3 " " $$4; fflush() } \
	/^Installing collected/ { print "  installing ..."; fflush() }'

SOURCES := smallai_assistant plugins tests bench examples docs
PLUGINS := $(sort $(notdir $(wildcard plugins/smallai_*)))
BENCHES := $(sort $(filter-out __init__ __main__ canary data gpu%,$(basename $(notdir $(wildcard bench/*.py)))))
GPU_BENCHES := $(sort $(filter gpu%,$(basename $(notdir $(wildcard bench/*.py)))))

# If PYTHON names another interpreter than the one .venv was made with, .venv is made again.
ifneq ($(PYTHON),)
ifneq ($(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null),True)
$(error PYTHON=$(PYTHON) is no Python 3.11 or newer. Name one that is: make PYTHON=/path/to/python3.12)
endif
ifneq ($(shell $(PYTHON) -V),$(shell $(BIN)/python -V 2>/dev/null))
$(shell rm -f $(VENV)/.made $(VENV)/.base $(VENV)/.dev)
endif
endif

.PHONY: help
help:  ## list the targets
	@grep -E '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sort -t: -k1,1 | awk -F ':.*  ## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

# -- set up --------------------------------------------------------------------------------------------------

$(VENV)/.made:
	@python=""; \
	for candidate in $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "smallai-assistant needs Python 3.11 or newer, and none was found." >&2; \
		echo "Install one and name it: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -m pip -V > /dev/null 2>&1 || [ "$$($(BIN)/python -V)" != "$$("$$python" -V)" ]; then \
		echo "Making $(VENV) with $$("$$python" -V)"; \
		if ! "$$python" -m venv --clear $(VENV); then \
			echo "The venv module is missing or broken. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
			rm -rf $(VENV); exit 1; \
		fi; \
	fi
	@touch $@

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing the assistant (torch and the rest, about 1 GB; a few minutes)"
	@$(PIP_INSTALL) -e '.[train,llamacpp]' | $(SHOW_DOWNLOADS)
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "Installing the tools for tests and checks"
	@$(PIP_INSTALL) -e '.[dev]' | $(SHOW_DOWNLOADS)
	@touch $@

.PHONY: install models
install: $(VENV)/.base  ## set up .venv with what the assistant needs
models: $(VENV)/.base  ## fetch the starter models, about 750 MB, once
	@$(BIN)/smallai models pull starter

# -- use -----------------------------------------------------------------------------------------------------

.PHONY: chat demo
chat: models  ## talk to the assistant in the terminal
	@$(BIN)/smallai chat $(ARGS)
demo: models  ## a tour of the four tasks, about two minutes
	@$(BIN)/smallai demo

# -- check ---------------------------------------------------------------------------------------------------

.PHONY: test test-all test-gpu check lint format types layers docs docs-check pictures wheel
# One process for each core; the tests of one file stay together, so that a model is loaded once for them. The files come
# in the order of `tests/conftest.py`, the longest first.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
test: $(VENV)/.dev  ## run the tests, real small models included; about ten minutes on two cores
	@$(PYTEST) -m "not slow and not gpu" $(ARGS)
test-all: $(VENV)/.dev  ## run all tests, the slow ones too
	@$(PYTEST) $(ARGS)
test-gpu: $(VENV)/.dev  ## run the tests that need CUDA
	@$(BIN)/python -m pytest -m gpu $(ARGS)
# The tests build the wheel into an empty environment, import it bare, and run the code of the docs.
check: lint types layers docs-check test-all  ## everything that must pass before a commit lands
lint: $(VENV)/.dev  ## ruff: rules and format
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
format: $(VENV)/.dev  ## put the code into ruff's format
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)
types: $(VENV)/.dev  ## mypy, strict
	@$(BIN)/mypy
layers: $(VENV)/.dev  ## import-linter: who may import whom
	@PYTHONPATH=.:plugins $(BIN)/lint-imports
docs: $(VENV)/.dev  ## write the generated parts of the documentation, build it into site/
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
docs-check: $(VENV)/.dev  ## fail if a generated part differs from the code; build the documentation
	@$(BIN)/python docs/generate.py --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
pictures: $(VENV)/.dev models  ## make the pictures of the README again; the report's needs Chromium
	@$(BIN)/python docs/pictures.py
wheel: $(VENV)/.dev  ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist . > /dev/null
	@ls dist/*.whl

# -- measure -------------------------------------------------------------------------------------------------

.PHONY: bench bench-gpu clean
bench: $(VENV)/.dev models  ## measure every figure of docs/benchmarks.md
	@missed=""; for name in $(BENCHES); do \
		echo "== $$name"; $(BIN)/python -m bench $$name || missed="$$missed $$name"; \
	done; if [ -n "$$missed" ]; then echo "missed a figure:$$missed" >&2; exit 1; fi
bench-gpu: $(VENV)/.dev models  ## measure what needs CUDA
	@missed=""; for name in $(GPU_BENCHES); do \
		echo "== $$name"; $(BIN)/python -m bench $$name || missed="$$missed $$name"; \
	done; if [ -n "$$missed" ]; then echo "missed a figure:$$missed" >&2; exit 1; fi

clean:  ## remove what was built; .venv and models stay
	@rm -rf build dist site *.egg-info plugins/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
