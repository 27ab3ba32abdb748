PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOWEST := .venv-lowest

# ONNX Runtime for the machine at hand: cpu, or gpu on a CUDA machine. They exclude each other.
RUNTIME ?= cpu

# Of pyproject.toml's range: the torch that fbgemm (make bench) and torchvision (make zoo) are built for. CI tries the other end.
TORCH ?= torch==2.13.0

# Without its dependencies, which the extra distributed has: its own bring the CUDA build of fbgemm.
TORCHREC := torchrec==1.8.0

.PHONY: venv demo check docs test long coverage lint lowest triton bench fuzz attack zoo clean

venv: $(VENV)/.made-$(RUNTIME)

$(VENV)/.made-$(RUNTIME): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[export,$(RUNTIME),plot,serve,ray,thirdparty,distributed,dev]' '$(TORCH)'
	$(BIN)/python -m pip install --quiet --no-deps '$(TORCHREC)'
	touch $@

# The main job, end to end, on data made on the fly: train, export, validate, time.
demo: venv
	$(BIN)/python benchmarks/demo.py --out demo-out

# A real Triton Inference Server for tests and trials (Linux on x86-64). It has an interpreter of its own: it wants NumPy 1.
triton: .triton/installed

.triton/installed: benchmarks/triton_server/__init__.py | venv
	$(BIN)/python benchmarks/triton_server install .triton

test: lint triton lowest
	$(BIN)/python -m pytest -n 2 -m "not long" --durations=40 --durations-min=4

# The tests that make test leaves out for their time.
long: venv triton
	$(BIN)/python -m pytest -n 2 -m long

# The lower bounds of pyproject.toml are true: a smoke test with the lowest direct version of everything, in a venv of its own.
lowest: $(LOWEST)/.made
	$(LOWEST)/bin/python -m pytest tests/cli/test_help.py tests/cli/test_smoke.py

$(LOWEST)/.made: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet $$($(PYTHON) tests/lowest.py export cpu) pytest hypothesis
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

# The site, from docs/ and mkdocs.yml, in site/. Its environment is its own: pages need nothing of the package.
docs: .venv-docs/.made
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.venv-docs/.made: pyproject.toml
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip install --quiet $$($(PYTHON) tests/lowest.py --as-stated docs)
	touch $@

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p amtl_export
	$(BIN)/mypy benchmarks
	$(BIN)/mypy --explicit-package-bases tests

# Before each commit: ruff, mypy on the package, and the tests that need no exported model, no server and no network.
check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p amtl_export
	$(BIN)/python -m pytest -n 2 -m "not network" $(FAST)

# Those that export bundles are left to make test.
FAST := $(filter-out $(addprefix tests/,data/test_shared_vocabularies.py data/test_unknown.py models/test_field_dims.py), \
	$(wildcard $(addsuffix /test_*.py,$(addprefix tests/,data models principal source tables)))) \
	tests/cli/test_flags.py tests/cli/test_help.py \
	$(addprefix tests/test_,docs.py files.py house.py install.py metrics.py project.py spec.py)

# What of the package the tests of make check reach, by room, into benchmarks/results; tests/reached.py takes any others.
coverage: venv
	$(BIN)/python -m pip install --quiet 'coverage>=7.10'
	$(BIN)/python tests/reached.py -- -n 2 -m "not network" $(FAST)

# Thousands of spoilt bundles and runs through every command, and processes that are killed: hours.
attack: venv
	$(BIN)/python benchmarks/attack --out benchmarks/results

bench: venv triton
	$(BIN)/python -m pip install --quiet $$($(PYTHON) tests/lowest.py --as-stated peers)
	$(BIN)/python benchmarks/lookup.py --out benchmarks/results
	$(BIN)/python benchmarks/growth.py $$(ls benchmarks/results/*-lookup-*.json | tail -1)
	$(BIN)/python benchmarks/first_layer.py --out benchmarks/results
	$(BIN)/python benchmarks/candidates.py --out benchmarks/results
	$(BIN)/python benchmarks/peers.py --out benchmarks/results
	$(BIN)/python benchmarks/pooling.py --out benchmarks/results
	$(BIN)/python benchmarks/infer_synthetic_1m.py --out benchmarks/results
	$(BIN)/python benchmarks/infer_ml_1m.py --out benchmarks/results
	$(BIN)/python benchmarks/serving.py --out benchmarks/results
	$(BIN)/python benchmarks/scale.py --out benchmarks/results
	$(BIN)/python benchmarks/epoch.py --out benchmarks/results
	$(BIN)/python benchmarks/score.py --out benchmarks/results

# The native operators under sanitizers: a million drawn nodes for each instruction set, sound and wrong ones.
fuzz: venv
	$(BIN)/python benchmarks/fuzz_native.py --out benchmarks/results

# Models of six libraries, exported and compared: docs/zoo.md. Four contradict the others' pins, so pip gets no say.
zoo: venv
	$(BIN)/python -m pip install --quiet $$($(PYTHON) tests/lowest.py --as-stated zoo)
	$(BIN)/python -m pip install --quiet --no-deps recbole==1.2.1 fuxictr==2.3.10 pytorch-widedeep==1.7.0 '$(TORCHREC)'
	$(BIN)/python benchmarks/zoo/run.py --workers 2 --out benchmarks/results --docs docs/zoo.md

clean:
	rm -rf $(VENV) $(LOWEST) .venv-docs .triton build dist site demo-out *.egg-info
