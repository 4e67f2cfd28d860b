# One way to run each thing. Every target sets up what it needs in .venv first; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Threads wait for each other asleep: on a busy machine spinning ones keep each other from their cores.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help setup demo space test test-fast test-browser browser bench bench-large docs lint format clean

help:
	@echo "make setup      install everything into .venv, as the other targets do when they need it"
	@echo "make demo       make a small classifier forget, and erase a concept from a pipeline (about 7 minutes); with VERBOSE=--verbose also losses and warnings"
	@echo "make space      the pages of the Hugging Face Space on http://127.0.0.1:7860, without network"
	@echo "make test       lint, the documentation and the whole test suite"
	@echo "make test-fast  the tests that take seconds"
	@echo "make test-browser  press the Space's buttons in a headless Chromium; screenshots in out/screenshots"
	@echo "make docs       the documentation, in out/docs/index.html"
	@echo "make bench      what each stage costs in time and memory"
	@echo "make bench-large  memory of erasing from pipelines of real geometry, by stage, one of each kind: up to 14 GB, and about half an hour; what is in out/large is not run again"
	@echo "make lint       what the linter and the formatter object to"
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
	$(BIN)/python examples/demo.py --output out/demo $(VERBOSE)
	$(BIN)/python examples/erase_concept.py --concept dress --output out/demo/erased $(VERBOSE)

space: $(READY)
	HF_HUB_DISABLE_TELEMETRY=1 $(BIN)/python spaces_demo/app.py

# A warning is an error: a name in a docstring that does not exist, a link that leads nowhere.
docs: $(READY)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --doctree-dir out/doctrees docs out/docs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Two test processes of one thread each: on two cores that is faster, and steadier, than one process of two threads.
# The browser's tests come after the others: they watch clocks.
test: lint docs browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not browser"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not browser"

test-browser: $(READY) browser
	OMP_NUM_THREADS=1 SCISSORHANDS_NEED_BROWSER=1 $(BIN)/python -m pytest -m browser

# A Chromium of the system. Where there is none, root installs it; anyone else is told what to install, and its tests are skipped.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-dejavu-core >/dev/null; \
	else echo "No Chromium: install it (Debian, Ubuntu: sudo apt-get install chromium fonts-dejavu-core) for the browser tests."; fi

bench: $(READY)
	$(BIN)/python benchmarks/bench.py

bench-large: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/large.py --output out/large --save

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) out
