# The two commands of the README are `make demo` and `make test`; everything else serves them.
# Needs only git, python3 (3.11 or later) and make. Everything is installed into .venv, nothing outside it is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_CONFIG ?= configs/quickstart/demo.yaml
PYTEST_ARGS ?=

# CI gets the exact versions of constraints.txt, people get the bounds of pyproject.toml.
ifeq ($(CI),true)
  CONSTRAIN := --constraint constraints.txt
  STAMP := $(VENV)/.installed-ci
else
  CONSTRAIN :=
  STAMP := $(VENV)/.installed
endif

# Two multi-threaded torch programs on one machine slow each other 10 to 30 times, and the networks of the
# demo and the tests are too small to gain from threads.
export OMP_NUM_THREADS ?= 1

.PHONY: help install demo test test-all test-floor test-wheel nightly lint format build docs docs-links clean bench bench-check bench-gpu
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '%-15s %s\n' "$$name" "$$text"; done

install: $(STAMP) ## make .venv and install attnorm with everything the commands and tests need

demo: $(STAMP) ## compare BatchNorm, SE and Attentive Normalization on handwritten digits (under 3 minutes)
	@$(BIN)/attnorm compare --config $(DEMO_CONFIG)

test: $(STAMP) ## run the test suite
	@$(BIN)/python -m pytest -n 2 -m 'not slow' $(PYTEST_ARGS)

test-all: $(STAMP) ## run the test suite with the longer forms of its tests
	@$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

FLOOR := .venv-floor
test-floor: $(FLOOR)/.installed ## run the test suite with the oldest versions that pyproject.toml allows
	@$(FLOOR)/bin/python -m pytest -n 2 -m 'not slow' $(PYTEST_ARGS)

build: $(STAMP) ## make the source distribution and the wheel in dist/
	@rm -rf dist
	@$(BIN)/python -m hatchling build

test-wheel: build ## install what is in dist/ into new environments and use it there (6 minutes, needs a network)
	@$(BIN)/python -m pytest tests/release/clean_environments.py $(PYTEST_ARGS)

NIGHTLY_REPORT ?= build/nightly.xml
nightly: export ATTNORM_NIGHTLY := 1
nightly: $(STAMP) ## hold every promise of docs/reliability.md in its long form and count what it went through (an hour)
	@$(BIN)/python -m pytest -n 2 --junitxml=$(NIGHTLY_REPORT) $(PYTEST_ARGS) $$($(BIN)/python -m benchmarks.reliability --tests)
	@$(BIN)/python -m benchmarks.reliability --junit $(NIGHTLY_REPORT)

lint: $(STAMP) ## check formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(STAMP) ## apply the formatter and the linter's safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A benchmark is of the whole machine: all cores, whatever the rest of this file runs with.
BENCH_THREADS ?= $(shell getconf _NPROCESSORS_ONLN)
BENCH_ARGS ?=
bench bench-check: export OMP_NUM_THREADS := $(BENCH_THREADS)

bench: $(STAMP) ## measure what AN costs, layers, networks and detectors, and write docs/performance.md (40 minutes)
	@$(BIN)/python -m benchmarks.layer_cost
	@$(BIN)/python -m benchmarks.step_cost
	@$(BIN)/python -m benchmarks.network_cost
	@$(BIN)/python -m benchmarks.families_cost
	@$(BIN)/python -m benchmarks.detector_cost
	@$(BIN)/python -m benchmarks.sync_cost
	@$(BIN)/python -m benchmarks.performance_table

bench-check: $(STAMP) ## fail if AN became slower than the committed figures; BENCH_ARGS=--short for a minute of it
	@$(BIN)/python -m benchmarks.check $(BENCH_ARGS)

bench-gpu: $(STAMP) ## check and measure the CUDA kernels, layers and networks on this machine's device (9 minutes)
	@$(BIN)/python -m benchmarks.gpu $(BENCH_ARGS)

docs: $(STAMP)-docs ## build the documentation site, build/site/index.html; warnings, lost links among them, are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build # with --quiet, warnings would not be counted, and be no errors
	@echo "the site: build/site/index.html"

docs-links: $(STAMP)-docs ## ask for every address that the pages link to outside the site (needs a network; never in CI)
	@$(BIN)/python docs/site/external_links.py

clean: ## remove .venv, builds and caches; results in runs/ stay
	rm -rf $(VENV) $(FLOOR) build dist .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# What pyproject.toml names in its lowest version, and of what those need the newest that fits.
$(FLOOR)/.installed: pyproject.toml | $(STAMP)
	@$(BIN)/uv venv --quiet --clear --python 3.11 $(FLOOR)
	@$(BIN)/uv pip install --compile-bytecode --python $(FLOOR)/bin/python --resolution lowest-direct --editable '.[train]' --group dev
	@touch $@

# The stamp is touched last, so an interrupted installation is taken up again by the next make.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "attnorm needs Python 3.11 or later, and '$(PYTHON)' was not found. Install it, or name yours: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "attnorm needs Python 3.11 or later, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1). Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment. On Debian or Ubuntu: apt install python3-venv, then make again" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade >/dev/null
	@echo "Installing into $(VENV) (PyTorch is a download of several GB with its CUDA libraries) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAIN) uv || \
	  echo "uv is not available; going on with pip, which takes longer"
	@{ test -x $(BIN)/uv && $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $(CONSTRAIN) --editable '.[train]' --group dev; } || { \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' && \
	  $(BIN)/python -m pip install --disable-pip-version-check $(CONSTRAIN) --editable '.[train]' --group dev; }
	@touch $@

$(STAMP)-docs: $(STAMP)
	@{ test -x $(BIN)/uv && $(BIN)/uv pip install --quiet --python $(BIN)/python $(CONSTRAIN) --group docs; } || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAIN) --group docs
	@touch $@
