# A fresh machine with Python 3.11 or later and make is enough:
#
#     make demo      balance a toy pool, show what that did
#     make test      the whole suite
#
# Both set up .venv themselves, once: a stamp in it stands for each set of packages, older than pyproject.toml means install.

PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test lint types bench docs wheels clean
.DELETE_ON_ERROR:
.NOTPARALLEL: # one pip at a time in .venv

help: ## show this
	@echo "make TARGET [PYTHON=python3.12]"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/core.stamp ## balance the toy pool into run-demo/, and show what that did
	$(BIN)/metaclip curate curation/toy_pool.jsonl --metadata metadata/toy.txt --t 2 --out run-demo/ --overwrite
	@$(BIN)/python curation/demo.py run-demo/
	@echo
	@echo "To look at:"
	@echo "  run-demo/card.md           the account: settings, rows lost by reason, head and tail"
	@echo "  run-demo/entries.parquet   each entry with its count, probability, and pairs expected and kept"
	@echo "  run-demo/curated/          the pairs that were kept"
	@echo
	@echo "To try next:"
	@echo '  $(BIN)/metaclip explain "a photo of a dog" --run run-demo/'
	@echo "  $(BIN)/metaclip curate YOUR_PAIRS.parquet --out run/        # by the shipped list of 500,000 entries"

test: .venv/test.stamp ## run the suite, except what is marked slow, gpu, network or browser
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: .venv/lint.stamp ## look for mistakes and for other than our format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/lint.stamp ## check the types of the package
	$(BIN)/mypy

bench: .venv/bench.stamp ## measure speed and memory; METACLIP_DATA names the folder of real data
	@set -e; for name in match curate extract dump; do echo "== $$name"; $(BIN)/python -m tests.bench.bench_$$name; done

docs: .venv/docs.stamp ## build the documentation into build/docs/; a broken link or a failing notebook is an error
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/doctrees . build/docs
	@echo "build/docs/index.html"

wheels: .venv/wheels.stamp ## build the sdist and the wheels of all platforms into dist/
	$(BIN)/python -m build --no-isolation --sdist
	@set -e; for target in $$($(BIN)/python -c 'import hatch_build; print(*hatch_build.TARGETS)'); do \
	  METACLIP_TARGET=$$target $(BIN)/python -m build --no-isolation --wheel; done

clean: ## remove .venv and everything made here
	rm -rf .venv run-demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "metaclip needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

SOURCES := pyproject.toml hatch_build.py $(wildcard metaclip/native/src/*) metaclip/native/build.py

.venv/core.stamp: .venv/bin/python $(SOURCES)
	@echo "setting up .venv: the core (about 20 s and 0.5 GB at first)"
	@$(INSTALL) -e .
	@touch $@

.venv/test.stamp: .venv/bin/python $(SOURCES)
	@echo "setting up .venv: the core and what the tests need"
	@$(INSTALL) -e '.[test,build,crawl]'
	@touch $@ .venv/core.stamp

.venv/bench.stamp: .venv/test.stamp
	@$(INSTALL) -e '.[bench]'
	@touch $@

.venv/lint.stamp: .venv/core.stamp pyproject.toml
	@echo "setting up .venv: ruff and mypy"
	@$(INSTALL) -e '.[lint]'
	@touch $@

.venv/docs.stamp: .venv/core.stamp pyproject.toml
	@echo "setting up .venv: Sphinx, and what the notebook needs (0.5 GB)"
	@$(INSTALL) -e '.[docs]'
	@touch $@

.venv/wheels.stamp: .venv/bin/python pyproject.toml
	@echo "setting up .venv: zig, which compiles for all platforms (0.4 GB)"
	@$(INSTALL) 'build>=1.2.2' 'hatchling>=1.27' 'ziglang>=0.13'
	@touch $@
