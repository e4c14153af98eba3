# make demo and make test set everything up by themselves; make venv does only that.
PYTHON ?= python3
VENV := .venv
# The PyTorch the suite is checked with. Another: make TORCH='torch==2.11.0'. Installed first, so that no later
# requirement pulls in a larger build.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
NATIVE := $(wildcard $(addprefix x2sam_rt/kernels/csrc/*/*.,h cpp cuh cu) tests/kernels/*/*.cpp)

.PHONY: venv demo test test-serve lint clean

venv: $(VENV)/installed

$(VENV)/installed: pyproject.toml CMakeLists.txt $(wildcard x2sam_rt/kernels/csrc/*/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

demo: venv
	$(BIN)/python -m x2sam_rt.cli.demo demo

test: venv lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/serve

# Servers, their load, and messages that nobody would write: what that needs beside is installed here.
test-serve: venv
	$(BIN)/pip install --quiet --editable ".[serve-test]"
	$(BIN)/python -m pytest tests/serve

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)

clean:
	rm -rf $(VENV) build demo
