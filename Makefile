# Two commands do everything on a machine with Python 3.11 and make: `make demo` and `make test`.
# `make check` is what to run while working: the linter and the quick tests.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= saved_models
# Two processes, a test file each, in the order of tests/conftest.py: most tests keep one core busy.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# Tests that compute with Keras's backend run on each of these too.
OTHER_BACKENDS := jax torch

.PHONY: demo check test lint docs docs-serve clean-demo
.DELETE_ON_ERROR:

demo: $(VENV)/.runtime
	$(BIN)/python -m tfprune.bin.demo --output_dir=$(DEMO_DIR)

check: lint
	$(PYTEST) -m "not slow"

test: lint
	$(PYTEST)
	set -e; for backend in $(OTHER_BACKENDS); do \
		echo "== the library's tests on $$backend"; \
		KERAS_BACKEND=$$backend $(PYTEST) -m "not one_backend" tests/network tests/sparsity \
			tests/channels tests/structured tests/models/test_efficientnet_lite.py \
			tests/sparse_training/test_trainer.py tests/sparse_training/test_callbacks.py; \
	done

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# site/index.html, to be opened from the disk; any warning is an error.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# The same on http://127.0.0.1:8000, made anew when a file changes.
docs-serve: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr=127.0.0.1:8000

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.runtime: requirements.txt pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet -r requirements.txt -e .
	touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt -e .
	touch $@ $(VENV)/.runtime

# Removes the demo's run folders, so that `make demo` trains anew.
clean-demo:
	rm -rf $(DEMO_DIR)/demo_dense $(DEMO_DIR)/demo_one_shot $(DEMO_DIR)/demo_iterative
