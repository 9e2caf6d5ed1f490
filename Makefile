# Two commands do all the set-up: `make run` (the main job) and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test lint format bench docs clean

run: .venv/run.stamp  ## compare SGD, AdamW and Muon on a small network; prints the path of the report
	$(BIN)/downslope compare digits

test: .venv/test.stamp  ## every test, one process a backend, one summary
	$(BIN)/python tests/run.py

lint: .venv/test.stamp  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/test.stamp  ## put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/test.stamp  ## the figures of benchmarks/README.md, some minutes each
	$(BIN)/python benchmarks/step_time.py
	$(BIN)/python benchmarks/frameworks.py
	$(BIN)/python benchmarks/orthogonality.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/profiling.py
	$(BIN)/python benchmarks/lr.py digits
	$(BIN)/python benchmarks/lr_simulated.py
	$(PIP) numdifftools  # a peer of the next one
	JAX_PLATFORMS=cpu $(BIN)/python benchmarks/gradcheck.py
	$(PIP) --no-deps pytorch_optimizer  # a peer of the next one
	$(BIN)/python benchmarks/grouping.py
	$(PIP) --no-deps sif2jax==0.0.8 optimistix lineax pytorch-minimize nlopt  # peers of the next two
	$(BIN)/python benchmarks/solvers.py  # with Ceres and dlib, where g++, libceres-dev and libdlib-dev are
	$(BIN)/python benchmarks/solver_fits.py
	$(BIN)/python benchmarks/solver_speed.py

docs: .venv/test.stamp  ## run every code block of the documentation
	$(BIN)/python tests/run.py docs

clean:
	rm -rf .venv runs

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[torch,compare]'
	touch $@

.venv/test.stamp: .venv/run.stamp
	$(PIP) -e '.[all,test,lint]'
	$(PIP) --no-deps timm torchvision  # their own requirements would replace torch by another build
	touch $@
