# make demo: train, evaluate and picture five small nets.  make test: everything that the tests need, then the tests.
# make gpu-check: what only a GPU can show, into gpu-check.md.
# All call make build: .venv with skreg, its extras and the compiled operators. PYTHON picks the interpreter.
PYTHON ?= python3
TORCH ?= torch==2.14.1 torchvision==0.29.1
VENV := .venv
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)
PYTEST_OPTIONS ?=

.PHONY: demo test build lint format clean gpu-check

demo: build
	$(VENV)/bin/python examples/demo.py

test: build
	$(VENV)/bin/python -m pytest $(PYTEST_OPTIONS)

build: $(VENV)/built

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet "setuptools>=77" ninja $(TORCH)
	touch $@

$(VENV)/built: $(VENV)/ready $(SOURCES)
	$(VENV)/bin/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	$(VENV)/bin/python -m skreg
	touch $@

gpu-check: build
	$(VENV)/bin/python benchmarks/gpu_check.py

lint: build
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $$(find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

format: build
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/clang-format -i $$(find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

clean:
	rm -rf $(VENV) build dist *.egg-info skreg/*.so
