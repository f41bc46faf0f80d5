# Each target does its own set-up: `make demo` and `make test` are all that a fresh machine needs.
PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/.runtime-ready
DEVELOPMENT := .venv/.development-ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1
TEST_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

.PHONY: demo test test-slow lint pictures bench-faults clean

demo: $(RUNTIME)  ## train faces from scratch in minutes and show them
	$(BIN)/openddpm train --recipe avatars-16 --output_dir runs/demo --overwrite_output_dir

test: $(DEVELOPMENT)  ## what CI runs
	$(TEST_ENV) $(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=90

test-slow: $(DEVELOPMENT)  ## the suites that take longer
	$(TEST_ENV) $(BIN)/python -m pytest -m slow

lint: $(DEVELOPMENT)  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pictures: $(DEVELOPMENT)  ## make the README's pictures again, from the run that `make demo` left
	$(BIN)/python docs/make_pictures.py runs/demo docs/pictures

bench-faults: $(DEVELOPMENT)  ## what common faults of training scripts cost: 15 to 20 minutes, without a GPU
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/what_slows.py --output_dir runs/what-slows \
	  --pictures docs/pictures --results benchmarks/what-slows.json

clean:
	rm -rf .venv runs logs

$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "openddpm needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(DEVELOPMENT): $(RUNTIME)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
