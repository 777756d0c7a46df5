# The two commands of a fresh clone: `make demo` and `make test`. PYTHON names the interpreter that makes .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Tests start dozens of interpreters: with an empty value each finds the package compiled, whatever the shell says.
test test-extras: export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-extras check docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.package ## run the main job on the bundled world; results in out/demo
	$(BIN)/rag-clip demo --out out/demo

test: $(VENV)/.development ## run the tests in three processes, since some wait; each takes whole files
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

test-extras: $(VENV)/.extras ## the same with every extra installed; fails if a test is skipped that could run
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --complete

check: $(VENV)/.development ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	.ci/types $(BIN)/mypy
	$(BIN)/pytest -m slow tests/test_types.py

docs: $(VENV)/.docs ## build the site of docs/ in out/site
	$(BIN)/zensical build --clean --strict --config-file mkdocs.yml

CAPTIONS := rag_clip/demo/assets/corpus.parquet
bench: $(VENV)/.development ## measure everything at a small size; each script of tests/benchmarks/ takes larger ones
	$(BIN)/python tests/benchmarks/ratios.py
	$(BIN)/python tests/benchmarks/cleaning.py
	$(BIN)/python tests/benchmarks/ingest.py embed $(CAPTIONS) --limit 500
	$(BIN)/python tests/benchmarks/recall.py $(CAPTIONS) --limit 3000
	$(BIN)/python tests/benchmarks/noise.py
	$(BIN)/python tests/benchmarks/classify.py
	$(BIN)/python tests/benchmarks/recipes.py
	$(BIN)/python tests/benchmarks/openness.py --images 10000 --candidates 2000

clean: ## remove the environment, build products and caches
	rm -rf $(VENV) build dist out *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.package: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.development: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.package

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

$(VENV)/.extras: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@ $(VENV)/.development $(VENV)/.package
