# What a developer needs, by name. Every target is safe to repeat; what stands already is not redone.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules
.NOTPARALLEL:

PORT ?= $(or $(INTENT_PORT),8080)
ARGS ?=
# Files of tests that run side by side; AT_ONCE= for one after the other, as a debugger wants it.
AT_ONCE ?= -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Which tests: others need more than the development packages.
TESTS ?= not ray and not train and not browser
BIN := .venv/bin

# Installs the named set of locked packages into .venv; says nothing when it stands already.
define install
	@for python in $(BIN)/python $(PYTHON) python3.11 python3.12 python3.13 python3; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			exec $$python tools/environment.py $(1); \
		fi; \
	done; \
	echo "shopintent needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11" >&2; \
	exit 1
endef

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: run
run: environment-serve-cpu weights ## serve the default model on 127.0.0.1:8080 (PORT=9000 for another port)
	@INTENT_PORT=$(PORT) $(BIN)/shopintent serve --hints

.PHONY: test
test: environment-dev weights ## set up and run the tests (ARGS="-k batch" for some of them)
	@$(BIN)/python -m pytest $(AT_ONCE) -m "$(TESTS)" $(ARGS)

.PHONY: fuzz
fuzz: environment-dev ## try the running service with 5,000 requests made from its OpenAPI document
	@$(BIN)/python -m tests.fuzz.fuzzing $(ARGS)

.PHONY: test-browser
test-browser: environment-dev ## try the pages in headless Chromium, axe-core included (needs chromium and npm)
	@for program in $$(command -v chromium || echo chromium-browser) npm; do \
		command -v $$program >/dev/null || { echo "the tests of the pages need $$program" >&2; exit 2; }; \
	done
	@$(BIN)/python -m pytest $(AT_ONCE) -m browser $(ARGS)

.PHONY: test-train
test-train: environment-train ## run the tests that need torch
	@$(BIN)/python -m pytest $(AT_ONCE) -m train $(ARGS) || { code=$$?; [ $$code -eq 5 ] && exit 0 || exit $$code; }

.PHONY: check
check: environment-dev ## lint, formatting, types, import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: format
format: environment-dev ## format the code and mend what lint can mend by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: train
train: environment-train ## train the default model (DATA=folder of the public data sets)
	@test -n "$(DATA)" || { echo "say where the data sets are: make train DATA=folder" >&2; exit 2; }
	@$(BIN)/python -m training train-default --data $(DATA) $(ARGS)

.PHONY: bench
bench: environment-dev weights ## measure speed and memory; the last line is JSON
	@$(BIN)/shopintent bench $(ARGS)

.PHONY: study
study: environment-train weights ## what formats and decodings cost and gain: docs/study.md; resumes (ARGS="--quick")
	@$(BIN)/python -m study $(ARGS)

.PHONY: image-check
image-check: ## build Dockerfile.cpu without a Docker engine and try the image (root, debootstrap, buildah)
	@python3 tools/image_check.py $(ARGS)

.PHONY: test-ray
test-ray: environment-ray ## run bulk labelling on a real Ray cluster on this machine
	@$(BIN)/python -m pytest -m ray $(ARGS)

.PHONY: build
build: environment-dev ## make the wheel and the source archive in dist/
	@$(BIN)/hatchling build

.PHONY: hooks
hooks: environment-dev ## run the checks before each commit from now on
	@$(BIN)/pre-commit install

.PHONY: lock
lock: environment-dev ## resolve the locked requirements anew (UPGRADE=--upgrade to move all of them)
	@sh tools/lock.sh $(UPGRADE)

.PHONY: clean
clean: ## remove caches and build results; keeps .venv and the built weights
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	@find app study tests tools training -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: clean-all
clean-all: clean ## remove .venv and the built weights too: back to a fresh clone
	@rm -rf .venv model_store/.cache
	@find model_store -name weights -type d -prune -exec rm -rf {} +

.PHONY: environment-serve-cpu environment-dev environment-ray environment-train
environment-serve-cpu:
	$(call install,serve-cpu)
environment-dev:
	$(call install,dev)
environment-ray:
	$(call install,ray)
environment-train:
	$(call install,train)

.PHONY: weights
weights:
	@if [ -d model_store/storefront ]; then $(BIN)/shopintent models build; fi
