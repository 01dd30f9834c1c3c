# make demo   tune a small network under a robustness constraint (arguments: make demo ARGS="--fresh")
# make test   linter, types, tests, and the core's tests without TensorFlow
# `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
TIMES ?= 50
CASES ?= 10000
# What does not depend on which frameworks are installed need not be tested twice.
FRAMEWORK_FREE := study/test_conformance house/test_examples house/test_packaging benchmarks/test_record benchmarks/test_record_training cli/test_demo \
	benchmarks/test_fairness_benchmark benchmarks/test_fine_tuning_benchmark benchmarks/test_knobs \
	faults/test_determinism faults/test_failing_studies faults/test_faulty_storage faults/test_files faults/test_kill_matrix \
	faults/test_source cli/test_compare study/test_preferences study/test_comparing study/test_feedback_loop study/test_session_answers

.PHONY: help demo test lint types unit core slow faults test-faults audit all-tests build clean

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

faults: $(STAMP)  ## kill every command 50 times, and 10,000 odd inputs a parser (hours; TIMES=5 CASES=500)
	$(BIN)/python -m tests.faults.kill_matrix --times $(TIMES)
	RLHF_TUNE_TEST_CASES=$(CASES) $(BIN)/python -m pytest -q -m "slow or not slow" tests/faults
	$(BIN)/python -m tests.faults.fuzz --runs $(CASES)
	$(BIN)/python -m tests.faults.soak

test-faults: faults

audit: $(STAMP)  ## known weaknesses of the pinned packages, where the network allows
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

all-tests: unit slow core  ## every test, the long ones included

build: $(STAMP)  ## wheel and source archive
	$(BIN)/python -m build

clean:  ## remove the virtual environment and what was built
	rm -rf $(VENV) build dist *.egg-info

# A new machine has Python and make; everything else comes into the virtual environment, once.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed, but '$(PYTHON)' was not found; install it, or say make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1); say make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@echo "Installing into $(VENV) (once; TensorFlow and PyTorch are large) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
