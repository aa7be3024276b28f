# Each target sets up what it needs on a machine that has Python 3.11 or newer, and make.

PYTHON ?= python3
DEV := .cache/dev/bin

# Handed to scripts/new.py through the environment exactly as typed: `value` stops make from expanding a $ in a name.
override ARGS := $(value ARGS)
override OUT := $(value OUT)
export ARGS OUT

.DEFAULT_GOAL := help
.PHONY: help new test test-real test-hours lint format bench pins readme dev

help: ## What can be made here
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

new: ## A new service beside this folder; OUT= names another, ARGS="--no-input scale_tier=large" answers
	@$(PYTHON) scripts/new.py

test: dev ## All that needs no server
	@$(DEV)/python -m pytest -m "not real" -n auto

test-real: dev ## The same promises against real programs; what is not installed is named and skipped, in CI it fails
	@$(DEV)/python -m pytest -m "real and not hours" -n 2 --dist loadfile

test-hours: dev ## Each alert within the time that its runbook says, with the rules as generated; an hour and a half
	@$(DEV)/python -m pytest -m hours -n 6

lint: dev ## Style, types, shell, YAML and workflows
	$(DEV)/ruff format --check .
	$(DEV)/ruff check .
	$(DEV)/mypy
	$(DEV)/shellcheck .ci/run
	$(DEV)/yamllint --strict .github tests/manifest.yaml
	$(DEV)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: dev ## What ruff can put right
	$(DEV)/ruff format .
	$(DEV)/ruff check --fix .

bench: dev ## What the service's observability costs a request
	@$(DEV)/python bench/bench.py

pins: dev ## The newest versions, into constraints.txt here and in the service
	@$(DEV)/python scripts/pins.py

readme: dev ## The table of the tiers in README.md, from cookiecutter.json
	@$(DEV)/python scripts/readme.py

dev:
	@$(PYTHON) scripts/environment.py dev
