# The stable verbs. Each works from a bare clone: Python 3.11+ with venv, and make.
.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-field check docs sync format wheels bench load soak up down lock clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Twice the cores of a small machine: tests wait for servers about as long as they compute.
WORKERS ?= 4
export UV_PYTHON_DOWNLOADS := never
# Tests and demo start many processes; each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

help:  ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

# pip is used once, to bring in the pinned uv; everything else comes from the hashed lock file. What is compiled here
# is compiled once, and not by each of the processes that start at the same time.
$(VENV)/.ready: requirements.lock pyproject.toml tools/build_backend.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.lock)"
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/.ready  ## take 200 orders through everything, then prove that none was lost
	$(BIN)/mesctl demo

test: $(VENV)/.ready  ## all tests: no Docker, no root
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not bench and not soak"

# One file for each area, and every unit test.
QUICK := tests/unit $(addprefix tests/integration/test_,sharding_directory.py sharding_sessions.py \
	readreplica_sessions.py partitions_apply.py migrations_run.py messaging_delivery.py services_flow.py \
	pricing_jobs.py project_commands.py)

test-quick: $(VENV)/.ready  ## a developer's minutes: units, and the main way of each area
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not bench and not soak and not long" $(QUICK)

test-field: $(VENV)/.ready  ## the tests whose inputs are from public reports of other projects
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m field

check: $(VENV)/.ready  ## format, lint, types, import contracts, documentation, migrations, statements
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.async_to_sync --check
	$(BIN)/python -m tools.house --check
	$(BIN)/python -m tools.docs
	$(BIN)/mesctl migrate lint
	$(BIN)/mesctl shards citus preflight --offline --tree mes --statements tests/integration/mes_statements.sql

docs: $(VENV)/.ready  ## build the documentation in build/docs; a broken link fails it
	$(BIN)/python -m tools.docs

sync: $(VENV)/.ready  ## write what is generated for threads from what is written for asyncio
	$(BIN)/python -m tools.async_to_sync

format: $(VENV)/.ready  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheels: $(VENV)/.ready  ## build the three wheels into build/wheels
	$(BIN)/python -m tools.wheels

bench: $(VENV)/.ready  ## measure; ONLY=name,... for some; writes build/bench.json
	$(BIN)/python -m tests.benchmarks $(if $(ONLY),--only $(ONLY))

load: $(VENV)/.ready  ## load the services beyond what they can do; writes build/load.html and build/load.json
	$(BIN)/python -m tests.load $(if $(PROFILES),--profiles $(PROFILES)) $(if $(SECONDS),--seconds $(SECONDS))

soak: $(VENV)/.ready  ## long chaos runs
	$(BIN)/python -m pytest -m soak
	MES_STORAGE_KILL_EVERY=1 $(BIN)/python -m pytest -n $(WORKERS) -m kills

up: $(VENV)/.ready  ## start the platform and leave it running
	$(BIN)/mesctl up

down: $(VENV)/.ready  ## stop what `make up` started
	$(BIN)/mesctl down

lock: $(VENV)/.ready  ## resolve pyproject.toml again into the hashed lock file
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras \
		--no-emit-index-url --custom-compile-command "make lock" -o requirements.lock pyproject.toml

clean:  ## remove the venv and everything that was built
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache *.egg-info
