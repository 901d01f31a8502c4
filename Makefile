# make demo and make test are all a newcomer needs. Both create .venv on first use.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test test-suite2p lint types contracts unit kernels fast install format clean

help:
	@echo "make demo     install into $(VENV) and run the whole chain on simulated animals (minutes)"
	@echo "make test     install into $(VENV), then lint, types, import contracts and all tests"
	@echo "make fast     the same without the tests marked slow"
	@echo "make format   format the code"
	@echo "make test-suite2p   compare the Suite2p reader with Suite2p itself, in a virtual environment of its own"

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/nuclr demo

test: lint types contracts unit kernels

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports

unit: $(STAMP)
	$(BIN)/python -m pytest -q --durations=15

# Triton decides when it is imported whether it interprets kernels, so these tests have a process of their own.
kernels: $(STAMP)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q --durations=5 tests_kernels

fast: $(STAMP) lint types contracts
	$(BIN)/python -m pytest -q -m "not slow"

# Suite2p brings torchvision, cellpose and numba, so it stays out of $(VENV). torchvision is built for one release
# of torch each: constraints.txt pins torch, and pip then takes the torchvision that fits.
SUITE2P_VENV ?= .venv-suite2p
SUITE2P_STAMP := $(SUITE2P_VENV)/.installed

$(SUITE2P_STAMP): pyproject.toml constraints.txt
	test -x $(SUITE2P_VENV)/bin/python || $(PYTHON) -m venv $(SUITE2P_VENV)
	echo '*' > $(SUITE2P_VENV)/.gitignore
	$(SUITE2P_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[suite2p]' pytest
	touch $@

test-suite2p: $(SUITE2P_STAMP)
	$(SUITE2P_VENV)/bin/python -m pytest -q tests_suite2p

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(SUITE2P_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
