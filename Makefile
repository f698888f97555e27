# Needs Python >= 3.11 with pip, and make. Everything else is installed into .venv.
#
#   make demo     examples/flights.py on a local cluster: its answer, what each stage took, what the store held
#   make test     the test suite
#   make check    lint, formatting, types, generated code, habits of the code
#   make bench    every benchmark beside Ray, into benchmarks/RESULTS.md; BENCH="tasks_sync --rounds 5" for some
#   make format   formats the code, and fixes what the linter can fix

VENV := .venv
BIN := $(VENV)/bin
# The first Python on the path that is new enough.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$name; break; fi; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check
BENCH ?=

.PHONY: help demo test check bench format wheel clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.demo
	$(BIN)/python examples/flights.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/generate_proto.py --check
	$(BIN)/mypy src daemons
	$(BIN)/python -m pytest -q tests/tidy

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py $(BENCH)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.made
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .

# Stamps: a second run installs nothing unless pyproject.toml changed.

# Some systems ship Python without ensurepip; there the pip that does exist installs one into the environment.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "shoal needs Python 3.11 or newer on the path (or make PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) 2>/dev/null || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@touch $@

# Bytecode comes with the installation of a wheel, but not with an editable one: without it every process compiles its modules.
$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(PIP) install --quiet --editable '.[examples]'
	$(BIN)/python -m compileall -q src daemons
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	$(PIP) install --quiet --editable '.[dev]'
	$(BIN)/python -m compileall -q src daemons
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
