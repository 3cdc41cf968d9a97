# make demo            install, then learn from audio-visual digits (or: make demo VIDEOS=folder, SPEECH=folder)
# make test            install, then lint, types and all tests
# make quick           install, then the tests that take seconds
# make engines         install, also a Slurm and a Ray into .engines/; then the tests of deaths on these, minutes
# make bench           install, then all benchmarks at a small size (docs/performance.md)
# make gpu             install, then run on a GPU, in 8 minutes, what has never run on one (make gpu PYTHON=python3: with
#                      this interpreter, installing nothing)
# make install         the installing alone

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test quick engines bench gpu install lint

# Safe to repeat: a finished installation is recognised by its stamp.
install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "xdc needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } || \
	  { echo "This Python can neither make environments nor install packages: it lacks venv and pip."; exit 1; }
	@echo "Installing about 8 GB of packages into $(VENV) (torch and what it needs) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

ifdef VIDEOS
DEMO_RUN = runs/demo-$(shell basename "$(VIDEOS)" | tr -c 'A-Za-z0-9\n' '-')
demo: install
	@$(BIN)/xdc init $(DEMO_RUN) --videos "$(VIDEOS)" --keep
	@$(BIN)/xdc run $(DEMO_RUN)
else
DEMO_RUN = runs/demo$(if $(SPEECH),-speech)
DEMO_VIDEOS = media/digits$(if $(SPEECH),-speech)
demo: install
	@$(BIN)/xdc digits $(DEMO_VIDEOS) $(if $(SPEECH),--speech "$(SPEECH)")
	@$(BIN)/xdc init $(DEMO_RUN) --videos $(DEMO_VIDEOS)/manifest.csv --preset digits --keep
	@$(BIN)/xdc run $(DEMO_RUN)
endif

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A worker for each core, at most four; the tests of a file stay together, as they share what they make.
WORKERS = -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
test: lint
	$(BIN)/pytest $(WORKERS)

quick: install
	$(BIN)/pytest $(WORKERS) -m "not slow and not matrix and not engines_long"

# One after another: a cluster of two nodes is for itself. What cannot be fetched is said, and its tests are skipped.
engines: install
	@$(BIN)/python -m tests.engines.install || true
	$(BIN)/pytest -n 0 -m engines_long tests/engines

BENCH := runs/bench
BENCHMARK = PYTHONPATH=. $(BIN)/python benchmarks
bench: install
	$(BENCHMARK)/small_run.py $(BENCH) --clips 300
	$(BENCHMARK)/start.py --rounds 100 --out $(BENCH)/start.json
	$(BENCHMARK)/shard.py $(BENCH)/media --turns 3 --out $(BENCH)/shard.json
	$(BENCHMARK)/sandbox.py $(BENCH)/media
	$(BENCHMARK)/read.py $(BENCH) --out $(BENCH)/read.json
	$(BENCHMARK)/extract.py $(BENCH) --turns 3 --out $(BENCH)/extract.json
	$(BENCHMARK)/cluster.py --clips 10000 --k 64 --turns 3 --out $(BENCH)/cluster.json
	$(BENCHMARK)/label.py --rows 200000 --out $(BENCH)/label.json
	$(BENCHMARK)/train.py $(BENCH) --turns 3 --out $(BENCH)/train.json
	$(BENCHMARK)/index_rows.py $(BENCH)/rows --rows 100000 --out $(BENCH)/index_rows.json
	$(BENCHMARK)/orchestration.py $(BENCH) --rounds 1 --out $(BENCH)/orchestration.json
	$(BENCHMARK)/sources.py --sources 2000 --few 200 --out $(BENCH)/sources.json
	$(BENCHMARK)/plan_memory.py --sources 2000 --few 200 --out $(BENCH)/plan_memory.json
	$(BENCHMARK)/scale.py --units 500 2000 --out $(BENCH)/scale.json
	PYTHONPATH=.:benchmarks $(BIN)/python benchmarks/executors.py units $(BENCH)/units --units 200 --turns 3 \
	  --out $(BENCH)/executors.json
	$(BENCHMARK)/growth.py $(BENCH) --clips 50 --times 1 2 4 --out $(BENCH)/growth.json
	$(BENCHMARK)/gpu.py --device cpu --quick --no-compile --out $(BENCH)/gpu.json
	$(BENCHMARK)/plan.py

# Where PYTHON was given (not by this file) it has what it has, and nothing is installed.
ifeq ($(origin PYTHON),file)
gpu: install
	$(BENCHMARK)/gpu_check.py
else
gpu:
	$(PYTHON) benchmarks/gpu_check.py
endif
