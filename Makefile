# Every target sets up .venv by itself; `make` alone lists them.
PYTHON ?= python3
OUT ?= runs/demo
JOBS ?= 2
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

# torch goes first, so that its version is settled before anything else asks for one
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,plot,hub]'
	@touch $@

# A short spin: on a machine that is busy with other work, threads that wait for each other spin their time away.
demo: $(READY) ## train on the embedded digits, draw the run
	GOMP_SPINCOUNT=3000 $(BIN)/onecycle train digits --epochs 20 --out $(OUT)
	@echo "Its picture is $(OUT)/curves.png"

test: $(READY) ## run every test and every example of the documentation
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS)

lint: $(READY) ## check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(READY) ## measure speed and quality (bench/RESULTS.md has the last numbers)
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/cost.py
	$(BIN)/python bench/quality.py
	$(BIN)/python bench/defaults.py

clean: ## remove .venv, caches and builds; runs/ stays
	rm -rf .venv build dist bench/out .*_cache .hypothesis src/*.egg-info
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +
