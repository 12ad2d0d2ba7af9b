# Everything a developer or a newcomer types. Each target sets up what it needs and reuses it.
#
#   make demo     runs the main job           make test    runs every test
#   make ci       what .ci/run runs           make help    lists the rest

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
ARGS ?=
# Processes that run tests; ARGS="-n 0" runs them in one, as a debugger needs it.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --durations=40 --durations-min=5
BENCH ?= ingest
PACKAGES := service loadgen megaphone demo dashboards
COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --strip-extras \
	--generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

# The interpreter: PYTHON if given, else one of these; .ci/interpreter says which. A shim that names
# a version nobody installed fails the trial run and is passed over.
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python /usr/bin/python3)

.PHONY: help setup lock demo broker test lint fmt format type tidy unit simulation sim integration bench dashboards docs ci clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## Create or reuse .venv from the hash-locked requirements

# Runs again only when the lock or the project's metadata changed. The project itself is installed
# editable with the locked setuptools, so that this step asks the network for nothing.
$(STAMP): requirements/dev.txt pyproject.toml
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		if ! found=$$(.ci/interpreter $(CANDIDATES)); then \
			echo "No Python 3.11 or newer with venv was found (tried: $(strip $(CANDIDATES)));" \
				"install one, or name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; \
			exit 2; \
		fi; \
		echo "setting up $(VENV) with $$("$$found" -V)"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		--requirement requirements/dev.txt
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-index --no-deps --no-build-isolation --editable .
	@touch $@

lock: setup ## Compile the requirements locks from pyproject.toml (UPGRADE=--upgrade for new versions)
	$(COMPILE) $(UPGRADE) --extra demo --extra dev --output-file requirements/dev.txt pyproject.toml
	$(COMPILE) $(UPGRADE) --constraint requirements/dev.txt --output-file requirements/runtime.txt \
		pyproject.toml
	$(COMPILE) $(UPGRADE) --output-file requirements/peers/bytewax.txt requirements/peers/bytewax.in
	$(COMPILE) $(UPGRADE) --output-file requirements/peers/quixstreams.txt \
		requirements/peers/quixstreams.in

demo: setup ## Run the main job, e.g. make demo ARGS="--seconds 60 --rate 100000"
	@$(BIN)/python -m demo $(ARGS)

broker: setup ## Run a local Kafka until Ctrl-C and print its address
	@$(BIN)/megaphone broker

test: setup ## Run every test (ARGS="tests/unit -k name" to choose)
	@$(PYTEST) $(ARGS)

lint: setup ## ruff, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

fmt: setup ## Format the code and sort its imports
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

tidy: setup ## The house rules: layers, limits, bans
	@$(BIN)/python -m pytest tests/tidy $(ARGS)

unit: setup ## Unit tests and properties
	@$(PYTEST) tests/unit examples/tests tests/property $(ARGS)

simulation: setup ## The cluster in one process, seeded
	@$(PYTEST) tests/simulation $(ARGS)

sim: setup ## Ten times as many schedules of the progress protocol, and forty times the cluster's
	@MEGAPHONE_PROGRESS_SEEDS=50000 MEGAPHONE_SIM_SEEDS=1000 $(PYTEST) \
		tests/simulation tests/property/test_progress_membership.py $(ARGS)

integration: setup ## Real processes on a real broker
	@$(PYTEST) tests/integration $(ARGS)

bench: setup ## Run a benchmark: make bench BENCH=ingest ARGS="--output json"
	@$(BIN)/megaphone bench $(BENCH) $(ARGS)

dashboards: setup ## Write the Grafana dashboards from their definition
	@$(BIN)/python -m dashboards

docs: setup ## Write docs/reference from the code and build the documents as a site, strictly
	@$(BIN)/python -m service.reference_docs docs
	@$(BIN)/mkdocs build --quiet --strict
	@echo "build/site/index.html"

# Fastest part first. The tests run as `make test`, the command the README gives; pyproject.toml says
# in which order: tidy, unit, property, simulation, integration, bench.
ci: lint ## What CI runs
	@CI=true $(MAKE) test

clean: ## Remove what make created
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build demo-report *.egg-info
