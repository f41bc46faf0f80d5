# Each target does its own set-up: `make demo` and `make test` are all that a fresh machine needs.
PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/.runtime-ready
DEVELOPMENT := .venv/.development-ready
BENCH := .venv/.bench-ready
MUTANTS := .venv/.mutants-ready
BENCH_OUT ?= benchmarks/results
SAMPLED := $(if $(wildcard runs/demo/model_index.json),runs/demo,runs/bench/short)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
TEST_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
TEST_PROCESSES ?= 2
PYTEST = $(TEST_ENV) $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal

.PHONY: demo test test-slow lint pictures bench bench-growth bench-quality gpu-check bench-bugs references mutants clean

demo: $(RUNTIME)  ## train faces from scratch in minutes and show them
	$(BIN)/openddpm train --recipe avatars-16 --output_dir runs/demo --overwrite_output_dir

test: $(DEVELOPMENT)  ## what CI runs
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-fail-under=90

test-slow: $(DEVELOPMENT)  ## the suites that take longer
	$(PYTEST) -m slow

lint: $(DEVELOPMENT)  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pictures: $(DEVELOPMENT)  ## make pictures of README and docs again, from the run that `make demo` left and one that goes wrong
	test -e runs/too-fast/model_index.json || \
	  $(BIN)/openddpm train --recipe digits-8 --seed 7 --learning_rate 0.024 --output_dir runs/too-fast
	-$(BIN)/openddpm compare runs/too-fast digits-8  # outside: exit status 1
	test -e runs/demo/verify.html || $(BIN)/openddpm verify runs/demo
	$(BIN)/python docs/make_pictures.py runs/demo runs/too-fast docs/pictures

bench: $(BENCH)  ## how fast, without a GPU: 13 to 15 minutes on two cores with nothing else running
	$(BIN)/python benchmarks/throughput.py --output_dir runs/bench/throughput --results $(BENCH_OUT)/throughput-cpu.json
	test -e $(SAMPLED)/model_index.json || $(BIN)/openddpm train --recipe avatars-16 --max_train_steps 300 \
	  --output_dir $(SAMPLED) --overwrite_output_dir
	$(BIN)/python benchmarks/sampling.py $(SAMPLED) --num_images 192 --num_reference 1024 --results $(BENCH_OUT)/sampling.json \
	  --picture docs/pictures/sampling.png
	$(BIN)/python benchmarks/around.py --images runs/bench/throughput/16x16/images-2400 --results $(BENCH_OUT)/around.json
	$(BIN)/python benchmarks/performance_page.py --results_dir $(BENCH_OUT)

bench-growth: $(BENCH)  ## rate and memory for 1,000 to 1,000,000 images: 3 GB of disk
	$(BIN)/python benchmarks/growth.py --output_dir runs/bench/growth --results $(BENCH_OUT)/growth.json
	$(BIN)/python benchmarks/performance_page.py --results_dir $(BENCH_OUT)

bench-quality: $(BENCH)  ## how soon it has learned, beside the plain loop: an hour and a quarter, 43 minutes with JOBS=2
	$(BIN)/python benchmarks/time_to_quality.py --output_dir runs/bench/quality --jobs $(or $(JOBS),1) \
	  --results $(BENCH_OUT)/time-to-quality.json --figure docs/pictures/time-to-quality.png
	$(BIN)/python benchmarks/performance_page.py --results_dir $(BENCH_OUT)

gpu-check: $(DEVELOPMENT)  ## all that a GPU has to tell: half an hour with one (STEPS="batch-16 run" for some); DRY=1 tries it without
	DEADLINE=$(or $(DEADLINE),2400) OUT=runs/gpu-check PYTHON=$(BIN)/python bash benchmarks/gpu/check.sh $(STEPS)
	test -n "$(DRY)" || { cp runs/gpu-check/gpu.json $(BENCH_OUT)/gpu.json && \
	  $(BIN)/python benchmarks/performance_page.py --results_dir $(BENCH_OUT); }

bench-bugs: $(DEVELOPMENT)  ## what common bugs of training scripts cost: 15 to 20 minutes, without a GPU
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/what_slows.py --output_dir runs/what-slows \
	  --pictures docs/pictures --results benchmarks/what-slows.json

references: $(RUNTIME)  ## train the published runs again, eight seeds each: NAME=digits-8 for one of them
	$(BIN)/python benchmarks/make_references.py $(NAME)

mutants: $(MUTANTS)  ## which small changes to the code no test beside it sees: hours; MODULE=diffusion/process for one
	$(TEST_ENV) $(BIN)/python tests/mutations/mutants.py $(MODULE)

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

$(MUTANTS): $(DEVELOPMENT)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[mutants]'
	touch $@

$(BENCH): $(DEVELOPMENT)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@
