# make demo   tune a small network under a robustness constraint (arguments: make demo ARGS="--fresh")
# make test   linter, types, tests, and the core's without any extra
# `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
TIMES ?= 50
CASES ?= 10000
# Of what no extra matters to, once is enough: examples and packages, people and browsers, kills and full disks.
NO_EXTRA_MATTERS := study/test_conformance house/test_examples house/test_packaging house/test_light_core house/test_sizes \
	faults/test_determinism faults/test_failing_studies faults/test_faulty_storage faults/test_files faults/test_kill_matrix \
	faults/test_source cli/test_compare study/test_preferences study/test_comparing study/test_feedback_loop study/test_session_answers
# Where PyTorch could lean on TensorFlow or CleverHans: its adapter, and what measures and gates its models.
PYTORCH := $(wildcard tests/integrations/test_torch_*.py tests/gate/test_*.py tests/fine_tuning/test_*.py) \
	tests/integrations/test_adversarial_by_hand.py tests/integrations/test_served.py tests/safety/test_undeserved.py
LIGHT := .venv-light
# The newest Python that is promised; pyenv keeps several beside each other.
LIGHT_PYTHON ?= $(or $(lastword $(sort $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python))),$(shell command -v python3.13))

.PHONY: help demo docs test lint types unit core pytorch light slow faults test-faults audit all-tests build sizes clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

demo: $(STAMP)  ## tune learning rate and batch size of a small CNN under an FGSM constraint
	$(BIN)/rlhf-tune demo $(ARGS)

test: lint types unit core  ## what a change must pass; CI runs the longer ones too

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict
	$(BIN)/mypy

unit: $(STAMP)  ## all tests but the slow ones
	$(BIN)/python -m pytest -n 2 -m "not slow"

core: $(STAMP)  ## the core's tests as if no extra were installed
	RLHF_TUNE_TEST_WITHOUT=torch,tensorflow,keras,cleverhans,gymnasium $(BIN)/python -m pytest -q -n 2 \
		-m "not slow and not keras" $(NO_EXTRA_MATTERS:%=--ignore tests/%.py)

pytorch: $(STAMP)  ## PyTorch's tests as if TensorFlow, Keras and CleverHans were not installed
	RLHF_TUNE_TEST_WITHOUT=tensorflow,keras,cleverhans $(BIN)/python -m pytest -q -n 2 -m "not slow and not keras" $(PYTORCH)

light:  ## the core's tests where nothing but the core is installed, on Python 3.13 if it is found
	@if [ -z "$(LIGHT_PYTHON)" ]; then echo "no Python 3.13 was found; say make light LIGHT_PYTHON=/path/to/python"; else \
		$(LIGHT_PYTHON) -m venv --clear $(LIGHT) && \
		$(LIGHT)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
			--editable . hypothesis pytest pytest-xdist && \
		$(LIGHT)/bin/python -m pytest -q -n 2 -m "not slow and not keras" $(NO_EXTRA_MATTERS:%=--ignore tests/%.py); fi

slow: $(STAMP)  ## the long learning tests
	$(BIN)/python -m pytest -n 2 -m slow

faults: $(STAMP)  ## kill every command 50 times, and 10,000 odd inputs a parser (hours; TIMES=5 CASES=500)
	$(BIN)/python -m tests.faults.kill_matrix --times $(TIMES)
	RLHF_TUNE_TEST_CASES=$(CASES) $(BIN)/python -m pytest -q -m "slow or not slow" tests/faults
	$(BIN)/python -m tests.faults.fuzz --runs $(CASES)
	$(BIN)/python -m tests.faults.soak

test-faults: faults

audit: $(STAMP)  ## known weaknesses of the pinned packages; fails where the index cannot be asked about one
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

all-tests: unit slow core pytorch light  ## every test, the long ones included

docs: $(STAMP)  ## the site, in docs/_build/html: notebooks are executed, warnings are errors
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html

build: $(STAMP)  ## wheel and source archive
	$(BIN)/python -m build

sizes: $(STAMP)  ## install the wheel with each extra into an empty environment; docs/install.md has the table
	$(BIN)/python packaging/sizes.py $(ARGS)

clean:  ## remove the virtual environment and what was built
	rm -rf $(VENV) $(LIGHT) build dist docs/_build *.egg-info

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
