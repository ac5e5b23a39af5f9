# Every target makes .venv by itself and uses it again; nothing but Python 3.11, make and a package registry is needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# With the extra `dist` (Postgres, Ray, object store): the tests and mypy need it, the demo does not.
WHOLE := $(VENV)/.installed-whole
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DAGSTER_DISABLE_TELEMETRY := 1

.PHONY: help install demo test ui lint bench clean

help:
	@echo "make demo   run the whole pipeline on embedded data (no network, no server)"
	@echo "make test   run all tests"
	@echo "make ui     open the Dagster UI on http://127.0.0.1:3000 (COHORTLOOM_HOME, default ./.cohortloom)"
	@echo "make lint   ruff and mypy"
	@echo "make bench  run the benchmarks that need no peer packages"
	@echo "make clean  remove .venv and caches (never COHORTLOOM_HOME)"

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed: install it or say make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { echo "Python 3.11 or 3.12 is needed, $(PYTHON) is another: say make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	@touch $@

$(WHOLE): $(STAMP)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[demo,dev,dist,explain,hpo]'
	@touch $@

install: $(WHOLE)

demo: $(STAMP)
	$(BIN)/cohortloom demo

# Two processes, each with one thread: so two cores are used all the time; a file's tests stay in one process.
test: $(WHOLE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

ui: $(STAMP)
	$(BIN)/cohortloom ui

lint: $(WHOLE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/orchestration.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/support.py
	$(BIN)/python benchmarks/code_blocks.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find assets benchmarks pipeline resources tests -name __pycache__ -type d -prune -exec rm -rf {} +
