# Every target sets up .venv by itself; `make` alone lists them.
PYTHON ?= python3
OUT ?= runs/demo
JOBS ?= 2
BIN := .venv/bin
READY := .venv/.ready
HOSTS := .venv-hosts

.DEFAULT_GOAL := help
.PHONY: help demo test slow hosts lint site bench clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

# torch goes first, so that its version is settled before anything else asks for one
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --no-compile -c constraints.txt torch
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[dev,plot,hub]'
	@touch $@

# A short spin: on a machine that is busy with other work, threads that wait for each other spin their time away.
demo: $(READY) ## train on the embedded digits, draw the run
	GOMP_SPINCOUNT=3000 $(BIN)/onecycle train digits --epochs 20 --out $(OUT)
	@echo "Its picture is $(OUT)/curves.png"

test: $(READY) ## run the tests, but for the slow ones, and every example of the documentation
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m 'not slow'

slow: $(HOSTS)/.ready ## run the slow tests: whole clusters, kills and compilers that quicker tests stand for
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m slow --ignore tests/hosts
	OMP_NUM_THREADS=1 $(HOSTS)/bin/python -m pytest -n $(JOBS) -W default -m slow tests/hosts

# An environment on top of .venv: what is there is seen, and what else the hosts need is installed as listed.
$(HOSTS)/.ready: $(READY) tests/hosts/requirements.txt
	$(PYTHON) -m venv --clear --without-pip $(HOSTS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(HOSTS)/base.pth
	mv $(HOSTS)/base.pth $$($(HOSTS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	$(BIN)/pip --python $(HOSTS) install -q --no-deps --no-compile -r tests/hosts/requirements.txt
	@touch $@

hosts: $(HOSTS)/.ready ## test the adapters, trackers and exports against their real hosts
	OMP_NUM_THREADS=1 $(HOSTS)/bin/python -m pytest -n $(JOBS) -W default -m 'hosts and not slow' tests/hosts tests/test_docs.py src/onecycle/adapters

lint: $(READY) ## check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

site: $(READY) ## build the pages of docs/ as a site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "It begins at site/index.html"

bench: $(READY) ## measure speed and quality (bench/RESULTS.md has the last numbers)
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/cost.py
	$(BIN)/python bench/quality.py
	$(BIN)/python bench/defaults.py

clean: ## remove .venv, caches and builds; runs/ stays
	rm -rf .venv $(HOSTS) build dist site bench/out .*_cache .hypothesis src/*.egg-info
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +
