# Two commands: `make demo` (the loop, on this machine) and `make test` (everything we promise).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SEED   ?= 0
ROUNDS ?= 1
# Test files are spread over so many processes, which wait more than they compute; each keeps its own services, DDS
# domain and folders.
WORKERS ?= 4
# Tests and demo start hundreds of processes; none should compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE
# Two busy cores and two torch threads each are slower than one thread each (docs/trainer.md, "Speed").
export OMP_NUM_THREADS ?= 1
export MUJOCO_GL ?= egl

.PHONY: demo demo-smoke demo-seeds pretrain test lint types docs wheel stubs faults swap-kills gpu-check clean egl
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The versions that are tested together; pyproject.toml has ranges.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

$(VENV)/.demo: pyproject.toml setup.py constraints.txt | $(BIN)/python
	$(PIP) -e '.[sim]'
	touch $@

$(VENV)/.test: pyproject.toml setup.py constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.demo

egl:
	@sh config/install-egl.sh

demo: $(VENV)/.demo egl
	$(BIN)/gymnast demo --seed $(SEED) --rounds $(ROUNDS) $(ARGS)

demo-smoke: $(VENV)/.demo egl
	$(BIN)/gymnast demo --smoke --seed $(SEED) $(ARGS)

demo-seeds: $(VENV)/.demo egl
	$(BIN)/python -m benchmarks.demo_seeds $(ARGS)

pretrain: $(VENV)/.demo egl
	$(BIN)/gymnast pretrain $(ARGS)

test: $(VENV)/.test egl
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# What only a CUDA GPU can show, in eight minutes; --tiny runs the same code here.
gpu-check: $(VENV)/.test
	$(BIN)/python -m benchmarks.gpu_check --json runs/gpu_check.json $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy gymnast_core gymnast_client gymnast_ros cloud_trainer gymnast_cli

# Into build/site; a broken link, a missing page or a docstring that names no parameter ends it.
docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Into dist/; it needs no clone: pip install 'gymnast_ros-VERSION-py3-none-any.whl[sim]', then gymnast demo.
wheel: | $(BIN)/python
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

stubs: $(VENV)/.test
	$(BIN)/python -m gymnast_core.wire.generate

faults: $(VENV)/.test
	$(BIN)/python -m tests.faults.run --faults $(or $(N),10000) --log runs/faults-$(SEED).jsonl --seed $(SEED) $(ARGS)

swap-kills: $(VENV)/.test
	$(BIN)/python -m tests.bridge.swap_kills --kills $(or $(N),5000) --seed $(SEED) $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info
