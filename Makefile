# Everything a developer or a newcomer runs. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
DEVSTACK := PYTHONPATH=deploy/local $(BIN)/python -m devstack
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --no-emit-index-url --universal \
	--python-version 3.11 --custom-compile-command "make lock"
SEEDS ?= 200
UV_PIN := deploy/local/pins/uv/requirements

.PHONY: help demo down clean check test simulate lock generated bench
.DEFAULT_GOAL := help

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.venv/installed: requirements.txt $(UV_PIN).txt pyproject.toml
	@PYTHON=$(PYTHON) deploy/local/venv.sh

demo: .venv/installed ## Install what is missing, start everything on loopback, and watch a deposit go through
	@PYTHONPATH=deploy/local $(BIN)/python -m devstack.demo

down: ## Stop everything that `make demo` started, and only that
	@PYTHONPATH=deploy/local $(PYTHON) -m devstack down

clean: ## The same, and remove .local/
	@PYTHONPATH=deploy/local $(PYTHON) -m devstack clean

check: .venv/installed ## Format, lint, types, import walls, and the tests that need no service
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/core tests/workers tests/cli

test: check ## All tests: the above, the generated files, and everything on real services
	deploy/local/check-generated.sh
	$(DEVSTACK) install --tests
	$(BIN)/pytest tests/simulation
	$(BIN)/pytest tests/component

simulate: .venv/installed ## Run simulated worlds: SEEDS=1000 for the first 1000, SEEDS=17-17 for one and its story, JOBS=2
	@PYTHONPATH=tests $(BIN)/python -m simulation $(SEEDS) $(JOBS)

generated: .venv/installed ## Make the generated files anew
	$(BIN)/python -m wallet_cli.asyncapi > asyncapi.yaml

bench: .venv/installed ## The measurements that need no service
	$(BIN)/python bench/block_decode.py
	$(BIN)/python bench/matching.py

lock: .venv/installed ## Pin the dependencies: add --upgrade by UPGRADE=--upgrade
	$(COMPILE) $(UPGRADE) --all-extras pyproject.toml -o requirements.txt
	$(COMPILE) -c requirements.txt $(UV_PIN).in -o $(UV_PIN).txt
