# Two commands do everything on a machine with Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= saved_models
# The library's tests run once on each backend, in a process each.
OTHER_BACKENDS := jax torch

.PHONY: demo test lint clean-demo
.DELETE_ON_ERROR:

demo: $(VENV)/.runtime
	$(BIN)/python -m tfprune.bin.train --flagfile=flags/demo_dense.flags --output_dir=$(DEMO_DIR)
	$(BIN)/python -m tfprune.bin.train --flagfile=flags/demo_one_shot.flags --output_dir=$(DEMO_DIR)
	$(BIN)/python -m tfprune.bin.train --flagfile=flags/demo_iterative.flags --output_dir=$(DEMO_DIR)
	$(BIN)/python -m tfprune.bin.export --experiment=demo_dense --output_dir=$(DEMO_DIR)
	$(BIN)/python -m tfprune.bin.export --experiment=demo_iterative --output_dir=$(DEMO_DIR)
	$(BIN)/python -m tfprune.bin.compare --output_dir=$(DEMO_DIR) \
		--experiments=demo_dense,demo_one_shot,demo_iterative

# Two processes, a test file each: most tests keep one core busy.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile
	set -e; for backend in $(OTHER_BACKENDS); do \
		echo "== the library's tests on $$backend"; \
		KERAS_BACKEND=$$backend $(BIN)/python -m pytest -n 2 --dist loadfile tests/sparsity; \
	done

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

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
