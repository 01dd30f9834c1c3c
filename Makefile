# make demo   tune a small network under a robustness constraint (arguments: make demo ARGS="--fresh")
# make test   linter, types, tests, and the core's tests without TensorFlow
# `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
# What does not depend on which frameworks are installed need not be tested twice.
FRAMEWORK_FREE := study/test_conformance house/test_examples house/test_packaging benchmarks/test_record benchmarks/test_record_training cli/test_demo \
	benchmarks/test_fairness_benchmark benchmarks/test_fine_tuning_benchmark benchmarks/test_knobs \
	cli/test_compare study/test_preferences study/test_comparing study/test_feedback_loop study/test_session_answers

.PHONY: help demo docs test lint types unit core slow all-tests build clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

demo: $(STAMP)  ## tune learning rate and batch size of a small CNN under an FGSM constraint
	$(BIN)/rlhf-tune demo $(ARGS)

test: lint types unit core  ## everything that CI runs

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict
	$(BIN)/mypy

unit: $(STAMP)  ## all tests but the slow ones
	$(BIN)/python -m pytest -n 2 -m "not slow"

core: $(STAMP)  ## the core's tests as if TensorFlow and Keras were not installed
	RLHF_TUNE_TEST_WITHOUT=tensorflow,keras $(BIN)/python -m pytest -q -n 2 -m "not slow and not keras" \
		$(patsubst %,--ignore tests/%.py,$(FRAMEWORK_FREE))

slow: $(STAMP)  ## the long learning tests
	$(BIN)/python -m pytest -m slow

all-tests: unit slow core  ## every test, the long ones included

docs: $(STAMP)  ## the site, in docs/_build/html: notebooks are executed, warnings are errors
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html

build: $(STAMP)  ## wheel and source archive
	$(BIN)/python -m build

clean:  ## remove the virtual environment and what was built
	rm -rf $(VENV) build dist docs/_build *.egg-info

# A new machine has Python and make; everything else comes into the virtual environment, once.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed, but '$(PYTHON)' was not found; install it, or say make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1); say make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@echo "Installing, once; TensorFlow and PyTorch are large: a few minutes."
	@echo "1/2 making $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2/2 fetching what pyproject.toml asks for, in the versions of constraints.txt"
	@$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
