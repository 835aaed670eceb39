# Each target is enough by itself on a fresh machine with Python 3.11 or later and a C compiler.
PYTHON ?= python3
BIN := .venv/bin
# How many processes run the tests; each takes 1 to 2 GB.
WORKERS ?= 2

.PHONY: help quickstart readme capabilities speed test test-slow test-gpu lint format clean

help:
	@echo "make quickstart   train a detector on generated images, evaluate it, write its report (about 9 minutes)"
	@echo "make readme       measure the backbones again, write the README's table of them, draw the schedules in docs/"
	@echo "make capabilities try each family in each pipeline that is installed, write docs/capabilities.md"
	@echo "make speed        measure cost curves, backbones and processes, write their tables in docs/ (about 20 minutes)"
	@echo "make test         run the tests"
	@echo "make test-slow    run the tests that take minutes"
	@echo "make test-gpu     run the tests that need a CUDA device"
	@echo "make lint         ruff and mypy"
	@echo "make format       let ruff format and mend what it can"
	@echo "make clean        remove .venv, build leftovers and caches; runs/ stays"

.venv/.installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'vertebra needs Python 3.11 or later; say which with make PYTHON=...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

quickstart: .venv/.installed
	$(BIN)/vertebra train configs/runs/quickstart.yaml

readme: .venv/.installed
	$(BIN)/python -m vertebra.tools.facts README.md
	$(BIN)/vertebra schedules --output docs/schedules.png

capabilities: .venv/.installed
	VERTEBRA_WRITE_CAPABILITIES=1 $(BIN)/python -m pytest -q tests/backbones/adapters/test_capabilities.py

speed: .venv/.installed
	mkdir -p runs
	$(BIN)/vertebra benchmark costs --json runs/costs.json --plot docs/costs.png --write docs/speed.md
	$(BIN)/vertebra benchmark backbones --json runs/backbones.json --write docs/backbones.md
	$(BIN)/vertebra benchmark processes --json runs/processes.json --write docs/scaling.md
	$(BIN)/vertebra benchmark processes --model-on-paper --write docs/scaling.md

# One thread each: two processes of two threads get in each other's way.
test: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

test-slow: .venv/.installed
	$(BIN)/python -m pytest -m slow

test-gpu: .venv/.installed
	$(BIN)/python -m pytest -m gpu

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy backbones heads tools

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
