# Everything here works from a fresh checkout on a machine with Python 3.11 or newer. What is installed goes into
# $(VENV), except for the servers and interpreters that `make test` talks to: these are Debian packages, installed
# only where we are root.

VENV ?= .venv
PYTEST_ARGS ?=
SOAK_ARGS ?=
BENCH_ARGS ?=
# Processes that the tests run in: more than a small machine has cores, for half of the time is waiting.
WORKERS ?= 6
bin := $(VENV)/bin

.PHONY: help test coverage mutations soak soak-short bench flat counted demo docs reference lint hooks oldest wheel clean servers
.NOTPARALLEL:

help:
	@echo "make test    run all tests, against real XMPP servers where they can be had (PYTEST_ARGS=... goes to pytest)"
	@echo "make coverage   how much of the code they reach, branch by branch"
	@echo "make mutations  whether the unit tests notice ten mistakes in the code"
	@echo "make soak    hold the gateway under load and faults, more than an hour (SOAK_ARGS=... names scenarios, --seed)"
	@echo "make soak-short  some seconds of each of its scenarios, without the figures about time and memory"
	@echo "make bench   measure the gateway beside other ways to do the same (BENCH_ARGS=--help)"
	@echo "make flat    measure whether a message costs the same however much there is beside it"
	@echo "make counted count the instructions that a message costs, and compare with the baseline"
	@echo "make demo    see the gateway at work in this terminal, without an XMPP server"
	@echo "make docs    build the documents into docs/_build/html"
	@echo "make reference  renew the manual pages, and what docs/*.md show of the settings and of the example files"
	@echo "make lint    ruff and mypy"
	@echo "make hooks   have ruff and mypy run before each commit"
	@echo "make oldest  run the unit tests with the oldest versions that setup.cfg allows (PYTEST_ARGS=... goes to pytest)"
	@echo "make wheel   build the wheel into dist/"
	@echo "make clean   remove all of it"

test: $(VENV)/.test servers
	$(bin)/python -m pytest -q -rs -n $(WORKERS) $(PYTEST_ARGS)

coverage: $(VENV)/.test servers
	$(bin)/python -m coverage erase
	$(bin)/python -m coverage run -m pytest -q -rs -n $(WORKERS) $(PYTEST_ARGS)
	$(bin)/python -m coverage combine -q
	$(bin)/python -m coverage report

mutations: $(VENV)/.test
	$(bin)/python -m tests.mutations

soak: $(VENV)/.test servers
	$(bin)/python -m tests.soak $(SOAK_ARGS)

soak-short: $(VENV)/.test servers
	$(bin)/python -m pytest -q -rs -n $(WORKERS) tests/soak $(PYTEST_ARGS)

# In an environment of its own, because nothing but this needs what it compares the gateway with.
bench:
	@$(MAKE) --no-print-directory VENV=.bench .bench/.bench
	@.ci/prepare peers
	.bench/bin/python benchmarks/bench.py --out docs/bench $(BENCH_ARGS)

flat: $(VENV)/.run
	$(bin)/python benchmarks/flat.py --out docs/bench $(BENCH_ARGS)

counted: $(VENV)/.test
	@.ci/prepare counting
	$(bin)/python benchmarks/counted.py

demo: $(VENV)/.run
	@$(bin)/python -m component_http.playground.demo

docs: $(VENV)/.docs
	$(bin)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

reference: $(VENV)/.run
	@$(bin)/python docs/reference.py

lint: $(VENV)/.test $(VENV)/.dev
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

hooks: $(VENV)/.test $(VENV)/.dev
	$(bin)/pre-commit install

oldest: $(VENV)/.dev
	$(bin)/tox -q -e oldest -- $(PYTEST_ARGS)

wheel: | $(bin)/python
	rm -rf build dist
	$(bin)/python -m pip wheel -q --disable-pip-version-check --no-deps -w dist .
	@ls dist/*.whl

clean:
	rm -rf $(VENV) .bench benchmarks/peers/node/node_modules build dist docs/_build component_http.egg-info twisted/plugins/dropin.cache
	rm -rf .tox .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache _trial_temp*
	find . -name __pycache__ -prune -exec rm -rf {} +

servers:
	@.ci/prepare servers

$(bin)/python:
	@.ci/prepare environment $(VENV)

# A stamp for each set of requirements, named after its extra in setup.cfg.
$(VENV)/.run: setup.cfg pyproject.toml | $(bin)/python
	@echo "installing component-http into $(VENV)"
	@$(bin)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test $(VENV)/.docs $(VENV)/.dev $(VENV)/.bench: $(VENV)/.%: setup.cfg pyproject.toml | $(bin)/python
	@echo "installing component-http and what is needed for $* into $(VENV)"
	@$(bin)/python -m pip install -q --disable-pip-version-check -e '.[$*]'
	@touch $@
