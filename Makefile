# make demo and make test are all a newcomer needs. Both create .venv on first use.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test test-suite2p test-report test-slurm results lint types contracts unit kernels kernels-matrix compile-gates fast install format clean

help:
	@echo "make demo     install into $(VENV) and run the whole chain on simulated animals (minutes)"
	@echo "make test     install into $(VENV), then lint, types, import contracts and all tests"
	@echo "make fast     the same without the tests marked slow"
	@echo "make format   format the code"
	@echo "make test-suite2p   compare the Suite2p reader with Suite2p itself, in a virtual environment of its own"
	@echo "make test-report    open the report in Chromium; as root it installs chromium and chromium-driver where they are absent"
	@echo "make test-slurm     train in a Slurm of one machine; as root it installs slurmctld, slurmd and munge where they are absent"
	@echo "make results DATA=FOLDER  run the commands of docs/results again and write their numbers into the pages (an hour)"
	@echo "make kernels-matrix compile the kernels with the oldest and the newest triton, in virtual environments of their own (10 minutes)"
	@echo "make compile-gates  the same again in the environments that are there, without a look at the package index"

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

# Two processes, whatever the machine: some tests measure memory and time, and more would disturb them. One thread
# each: several wait for each other by spinning, which makes two processes on two cores several times slower.
unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=15

# Triton decides when it is imported whether it interprets kernels, so these tests have a process of their own.
kernels: $(STAMP)
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=5 tests_kernels

fast: $(STAMP) lint types contracts
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

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

# The report in a real browser. CI must have one; elsewhere the tests say what is missing and are left out.
test-report: $(STAMP)
	sh tests_report/browser.sh
	$(BIN)/python -m pytest -q --durations=5 tests_report

test-slurm: $(STAMP)
	sh tests_slurm/slurm.sh
	PATH="$$PATH:/usr/sbin"; command -v slurmctld >/dev/null || exit 0; \
	  bash tests_slurm/slurm_here.sh $(BIN)/python -m pytest -q --durations=5 tests_slurm; code=$$?; \
	  if [ $$code = 75 ]; then echo "Training under Slurm is not tried: Slurm does not start here."; exit 0; fi; exit $$code

# The compile gate with other versions of triton than that of constraints.txt: the oldest that pyproject.toml takes
# (torch 2.11 ships it) and the newest that the package index has. The gate needs torch to import the kernels, not to
# compile them, so both environments have the torch of constraints.txt and differ in triton alone; it is put in after
# torch, which may ask for another.
TRITON_VENVS ?= .venv-triton
TRITON_OLDEST := 3.6.0
MATRIX := oldest newest
MATRIX_OUT ?= build/kernels-matrix
GATE_OPTIONS ?=
MATRIX_PIP = $(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts

$(TRITON_VENVS)/%/.installed: constraints.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	echo '*' > $(TRITON_VENVS)/.gitignore
	$(call MATRIX_PIP,$(@D)) -c constraints.txt numpy torch
	touch $@

kernels-matrix: $(MATRIX:%=$(TRITON_VENVS)/%/.installed)
	$(call MATRIX_PIP,$(TRITON_VENVS)/oldest) triton==$(TRITON_OLDEST)
	$(call MATRIX_PIP,$(TRITON_VENVS)/newest) --upgrade triton
	@$(MAKE) --no-print-directory compile-gates

# Every environment has its turn, also after one that failed; one failure fails the target.
compile-gates:
	@failed=; for which in $(MATRIX); do \
		env -u TRITON_INTERPRET PYTHONPATH=kernels TRITON_CACHE_DIR=$(abspath $(TRITON_VENVS))/$$which/cache \
			$(TRITON_VENVS)/$$which/bin/python -m nuclr_kernels.compile_check \
			--out $(MATRIX_OUT)/$$which $(GATE_OPTIONS) || failed="$$failed $$which"; \
	done; \
	test -z "$$failed" || { echo "kernels do not pass with triton of $(TRITON_VENVS):$$failed"; exit 1; }

# Every number of docs/results, an hour on two cores. DATA is the folder of recordings that docs/results/mea.md names.
ONLY ?= mea,simulated
results: $(STAMP)
	$(BIN)/python benchmarks/evaluation_results.py --only $(ONLY) $(if $(DATA),--data $(DATA))

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(SUITE2P_VENV) $(TRITON_VENVS) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
