# One way to run each thing. Every target sets up what it needs in .venv first; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Threads wait for each other asleep: on a busy machine spinning ones keep each other from their cores.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help setup demo test test-fast bench lint format clean

help:
	@echo "make demo       make a small classifier forget, and erase a concept from a pipeline (about 6 minutes)"
	@echo "make test       lint and the whole test suite"
	@echo "make test-fast  the tests that take seconds"
	@echo "make bench      what each stage costs in time and memory"
	@echo "make format     format and fix the code"
	@echo "make clean      remove .venv and out/"

setup: $(READY)

# torch is named exactly and first: an open range would pull another build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(READY)

demo: $(READY)
	$(BIN)/python examples/demo.py --output out/demo
	$(BIN)/python examples/erase_concept.py --concept dress --output out/demo/erased

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Two test processes of one thread each: on two cores that is faster, and steadier, than one process of two threads.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

bench: $(READY)
	$(BIN)/python benchmarks/bench.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) out
