# Needs make and a Python of 3.11 or later, no more: everything else goes into a virtual environment of its own.
# Another Python: make test PYTHON=python3.13 VENV=.venv313

VENV := .venv
PYTHON = $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PY := $(VENV)/bin/python
# Twice quiet: errors only, nothing about indexes and caches.
INSTALL := $(PY) -m pip install -qq --disable-pip-version-check --constraint constraints.txt

# More for pytest: make test ARGS="-k lock -x"
ARGS :=

SOURCES := $(wildcard statefile tests examples benchmarks)

# These would let modules from outside the environment in.
unexport PYTHONHOME PYTHONPATH

# An environment that was moved or copied, or whose Python is gone or not ours to run, is made anew.
ifneq ($(shell cat $(VENV)/made 2>/dev/null && $(PY) -c '' 2>/dev/null && echo runs),$(CURDIR) runs)
STALE := always
endif

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test coverage lint types format bench build clean always

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/package ## install the package and show what it does
	@$(PY) examples/demo.py

test: $(VENV)/group-tests ## run the whole suite, the slow storms included
	@$(PY) -m pytest --numprocesses 2 --dist worksteal $(ARGS)

coverage: $(VENV)/group-tests ## run the suite and show the lines and branches it misses
	@$(PY) -m coverage erase
	@$(PY) -m coverage run -m pytest $(ARGS)
	@$(PY) -m coverage combine --quiet
	@$(PY) -m coverage report

lint: $(VENV)/group-lint ## look for mistakes and for what the formatter would change
	@$(PY) -m ruff check $(SOURCES)
	@$(PY) -m ruff format --check $(SOURCES)

types: $(VENV)/group-lint $(VENV)/group-tests $(VENV)/group-bench ## check the types, with mypy and with pyright
	@$(PY) -m mypy $(SOURCES)
	@$(PY) -m pyright --pythonpath $(PY)

format: $(VENV)/group-lint ## mend what ruff can mend
	@$(PY) -m ruff check --fix $(SOURCES)
	@$(PY) -m ruff format $(SOURCES)

bench: $(VENV)/group-bench ## measure, beside other locks and the bare system calls
	@$(PY) -m benchmarks $(ARGS)

build: $(VENV)/group-build ## build the source distribution and the wheel into dist/
	@rm -rf dist
	@PIP_CONSTRAINT=constraints.txt $(PY) -m build --outdir dist

clean: ## remove what the other targets made
	rm -rf $(VENV) dist .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache docs/_build
	find statefile tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# Each file says that a step is done; it is done again when what it was made from has changed.
$(VENV)/made: $(STALE)
	@test -n '$(PYTHON)' || { echo 'No Python of 3.11 or later with venv here: install one, or say PYTHON=...' >&2; exit 1; }
	@echo 'Making $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) --upgrade pip
	@echo '$(CURDIR)' > $@

$(VENV)/package: pyproject.toml constraints.txt $(VENV)/made
	@echo 'Installing statefile into $(VENV)'
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/group-%: $(VENV)/package
	@echo 'Installing what $* needs into $(VENV)'
	@$(INSTALL) --group $*
	@touch $@
