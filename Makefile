# Every way to build, check and run Headrace. CI calls nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
MEMBERS := libs/headrace libs/kit $(wildcard services/*) examples/flights
GENERATED := $(addprefix libs/headrace/src/headrace/,topics.py reasons.py oip */v1)
PYTEST := $(BIN)/python -m pytest
# Integration tests mostly wait for their servers, of which each worker has its own.
UNIT_WORKERS ?= 2
INTEGRATION_WORKERS ?= 3
NAME ?= loop
MINUTES ?= 30
# Without an address ours are asked, each by its suite.
SUITES := $(notdir $(patsubst %/README.md,%,$(wildcard contracts/conformance/*/README.md)))
SERVICE ?= $(if $(ADDR),inference,$(SUITES))
# Faults are injected only by the tests that say so.
unexport HEADRACE_FAIL

.PHONY: help setup check fix test unit contracts integration spark faults fuzz e2e protos baseline lock tidy up demo conformance bench bench-peers

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/ready ## Make .venv from the hash-pinned locks

.venv/ready: requirements/bootstrap.lock requirements/dev.lock $(addsuffix /pyproject.toml,$(MEMBERS))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
	  || { echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements/dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(addprefix -e ,$(MEMBERS))
	@touch $@

demo: setup ## The closed loop on real flights, from nothing to promoted models
	$(BIN)/headrace demo flights --json .headrace/demo/summary.json

up: setup ## Start Kafka and the six services; Ctrl-C stops them
	$(BIN)/headrace up

check: setup ## Format, lint, types, declared imports, architecture: under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy libs/headrace/src libs/kit/src examples/flights/src $(wildcard services/*/src)
	$(BIN)/lint-imports
	for member in $(MEMBERS); do (cd $$member && $(CURDIR)/$(BIN)/deptry --no-ansi src); done
	$(PYTEST) -q tests/architecture

fix: setup ## Format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: check unit contracts integration conformance spark faults e2e ## Everything, on real parts

unit: setup ## Unit tests of every member, and a short fuzz; no network
	$(PYTEST) -q -n $(UNIT_WORKERS) -m "not integration and not e2e" libs services examples tests/fuzz

contracts: setup ## Protos, topics, reasons, examples, pictures and generated code agree
	$(BIN)/buf lint
	$(BIN)/buf breaking --against contracts/baseline.binpb
	$(PYTEST) -q tests/contracts
	$(BIN)/python contracts/generate.py
	@stale=$$(git status --porcelain -- $(GENERATED)); test -z "$$stale" \
	  || { echo "Generated files differ from the committed ones:"; echo "$$stale"; exit 1; }

integration: setup ## Adapters against a real Kafka, PostgreSQL and S3 server
	$(PYTEST) -q -n $(INTEGRATION_WORKERS) --dist loadfile -m integration libs services tests/integration

spark: setup ## Views on PySpark in local mode, bit for bit; the first time 456 MB are downloaded
	$(PYTEST) -q -m spark tests/spark

faults: setup ## Kills, cuts, repeats and bad input, against a ledger and an oracle
	$(PYTEST) -q -n $(INTEGRATION_WORKERS) -m faults tests/faults

fuzz: setup ## Mutated files and requests for MINUTES of CPU time (30): make fuzz [SEED=N] [TARGET=onnx|hot|...]
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(TARGET),--target $(TARGET))

e2e: setup ## The whole platform: the demo, kills, compose and chart
	$(PYTEST) -q e2e

protos: setup ## Generate stubs, topics and reasons from contracts/ and protos/
	$(BIN)/python contracts/generate.py

baseline: setup ## Hold later protos to these: what they say now may not break any more
	$(BIN)/buf build --exclude-source-info -o contracts/baseline.binpb

lock: setup ## Write requirements/*.lock from the pyproject files
	$(BIN)/python requirements/export.py

tidy: setup ## Print the longest functions and files
	$(BIN)/python tests/architecture/outliers.py

conformance: $(addprefix conformance-,$(SERVICE)) ## Black-box laws of our services, or of another: SERVICE=inference|registry [ADDR=HOST:PORT]

conformance-%: setup
	$(PYTEST) -q contracts/conformance/$* $(if $(ADDR),--addr $(ADDR)) $(if $(REST_ADDR),--rest-addr $(REST_ADDR)) \
	  $(if $(TOKEN),--token $(TOKEN)) $(if $(READER_TOKEN),--reader-token $(READER_TOKEN))

bench: setup ## Measure alone on the machine: make bench NAME=loop|stream|ingest|freshness|...
	$(BIN)/python -m benchmarks $(NAME)

bench-peers: setup ## Install what the benchmarks compare with, each into .headrace/peers
	$(BIN)/python -m benchmarks.peers
