# Each target sets up what it needs; see README.md.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null)
ARGS   ?=
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: help setup demo test e2e behaviours lint format bench soak mutations clean

help: ## What can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "setting up $(VENV) ..."
ifneq ($(UV),)
	@test -x $(BIN)/python || $(UV) venv -q --python $(PYTHON) $(VENV)
	@$(UV) pip install -q --python $(BIN)/python -c constraints.txt -e '.[agent,hub,dev,uvloop]'
else
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[agent,hub,dev,uvloop]'
endif
	@touch $@

setup: $(VENV)/.ready ## What all the others need, in .venv: flotilla, flotilla-hub, flotilla-agent

demo: $(VENV)/.ready ## A hub and six clusters on this machine, to watch and play with (ARGS=--once plays by itself)
	$(BIN)/flotilla demo $(ARGS)

test: $(VENV)/.ready ## Unit, property and contract tests; needs no Go and no cluster
	$(BIN)/python -m pytest $(ARGS)

e2e: $(VENV)/.ready ## The whole story against real kube-apiservers (builds them once per machine; needs Go)
	@tests/tools/chromium.sh >/dev/null
	@tests/tools/docker-registry.sh >/dev/null
	@tests/tools/prometheus.sh >/dev/null
	@tools=$$(tests/tools/build.sh) && FLOTILLA_TOOLS=$$tools $(BIN)/python -m pytest tests/contract tests/e2e --real -v $(ARGS)

behaviours: $(VENV)/.ready ## The contract suite on both API servers, simulated and real, as one table
	@tools=$$(tests/tools/build.sh) && FLOTILLA_TOOLS=$$tools $(BIN)/python -m tests.tools.behaviours $(ARGS)

bench: $(VENV)/.ready ## Speed and size against a real kube-apiserver: a table, and bench.json
	@tools=$$(tests/tools/build.sh) && FLOTILLA_TOOLS=$$tools PATH=$$tools:$$PATH $(BIN)/python -m tests.bench $(ARGS)

soak: $(VENV)/.ready ## Simulated rollouts with faults, many seeds (SEEDS=5000 FROM=0 MINUTES=0); what fails says how to play it again
	$(BIN)/python -m tests.tools.soak --seeds $(or $(SEEDS),5000) --from $(or $(FROM),0) --minutes $(or $(MINUTES),0)

mutations: $(VENV)/.ready ## Breaks each rule of rollouts in turn, and shows which test says so
	$(BIN)/python -m tests.tools.mutations $(ARGS)

lint: $(VENV)/.ready ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready ## Put the code into the project's form
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format -q .

clean: ## Remove what was set up here (the built API servers stay in the user's cache)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
