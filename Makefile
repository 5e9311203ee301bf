# Every target sets up .venv by itself; a second run installs nothing.
PYTHON ?= python3.11
PORT ?= 5000
# Python compiles what it imports; to compile all that is installed, 23 000 files, would take a minute.
# Some containers forbid that what is imported is kept compiled: every process would then compile it again, for seconds.
unexport PYTHONDONTWRITEBYTECODE
PIP := .venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt
# The tests of two files run side by side: many wait for processes. `PROCESSES=0` for one after the other.
PROCESSES ?= 2
PYTEST := .venv/bin/python -m pytest -n $(PROCESSES)
RUNTIME := .venv/runtime.stamp
DEV := .venv/dev.stamp

help: ## this list (PYTHON=… names another interpreter, 3.11 or newer)
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(RUNTIME) ## all of it, small: simulate, sweep, report (minutes on two cores)
	.venv/bin/sm-search demo

ui: $(RUNTIME) ## MLflow's pages on http://127.0.0.1:5000, from outputs/ (PORT=… takes another port)
	@.venv/bin/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2> /dev/null || { echo 'error: port $(PORT) is taken, perhaps by an earlier make ui: see http://127.0.0.1:$(PORT), or take another: make ui PORT=5001' >&2; exit 1; }
	mkdir -p outputs
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false .venv/bin/mlflow ui --workers 1 --host 127.0.0.1 --port $(PORT) --backend-store-uri sqlite:///outputs/mlflow.db --artifacts-destination outputs/artifacts

test: $(DEV) ## the tests, without the long ones
	$(PYTEST)

test-long: $(DEV) ## the tests marked slow, cluster or gpu
	$(PYTEST) -m 'slow or cluster or gpu'

test-all: $(DEV) ## both
	$(PYTEST) -m 'not benchmark'

bench: $(DEV) ## measured ratios of the simulator
	.venv/bin/python -m pytest -m benchmark tests/benchmarks/test_physics.py -s

# On a GPU machine the Python that has PyTorch, elsewhere ours: the check asks for no other set-up.
gpu-check: ## what a GPU makes of it: throughput, memory, one result for a seed (≤ 6 minutes; TINY=--tiny rehearses)
	$(or $(wildcard .venv/bin/python),python3) tests/benchmarks/gpu_check.py $(TINY) --out $${OUT:-outputs/gpu-check}

lint: $(DEV) ## style, types, and who may import whom
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'error: $(PYTHON) is not a Python 3.11 or newer; name one: make PYTHON=…' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'error: $(PYTHON) has no venv module; on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv .venv

# The development set-up contains the run-time one, so it spares that one's install.
$(RUNTIME): pyproject.toml constraints.txt | .venv/bin/python
	@echo 'Installing into .venv (some minutes, once)'
	@$(PIP) -e .
	@touch $(RUNTIME)

$(DEV): pyproject.toml constraints.txt | .venv/bin/python
	@echo 'Installing into .venv (some minutes, once)'
	@$(PIP) -e '.[dev,cluster]'
	@touch $(RUNTIME) $(DEV)

.PHONY: help demo ui test test-long test-all bench gpu-check lint
