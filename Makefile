# Everything from a machine that has python3, pip and make.
PYTHON ?= python3
ROOT ?= data
BIN := .venv/bin
# Three processes on two cores, because tests wait as often as they compute. Tests of one group share a process.
SHARED := -n 3 --dist loadgroup

.PHONY: train test quick test-oldest test-newest check recipes lock clean always

train: .venv/installed  ## one run on the handwritten digits that come with scikit-learn
	$(BIN)/lamella train

test: .venv/installed check  ## every check and every test
	$(BIN)/python -m pytest $(SHARED) --durations=20

# They compute more than they wait, and a third process costs more to start than it gives.
quick: .venv/installed  ## the fast tests, in about 90 s: what to run after each change
	$(BIN)/python -m pytest -n 2 -m 'not slow'

# Old libraries use what newer ones beside them have deprecated.
test-oldest: .venv-oldest/installed  ## every test with the oldest versions that pyproject.toml allows
	.venv-oldest/bin/python -m pytest $(SHARED) -W ignore::DeprecationWarning -W ignore::FutureWarning

test-newest: .venv-newest/installed  ## every test with the newest versions that pyproject.toml allows
	.venv-newest/bin/python -m pytest $(SHARED)

check: .venv/installed  ## format, lint and types: what the commit hooks and CI run
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/installed: INSTALL = --require-hashes -r requirements.lock
.venv/installed: requirements.lock pyproject.toml

.venv-oldest/installed: INSTALL = --upgrade --resolution lowest-direct --all-extras -r pyproject.toml
.venv-oldest/installed: pyproject.toml

.venv-newest/installed: INSTALL = --upgrade --all-extras -r pyproject.toml
.venv-newest/installed: always

# Bytecode is compiled here because importing torch without it takes twice as long, at every start.
.venv/installed .venv-oldest/installed .venv-newest/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet 'uv==0.13.*'
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --compile-bytecode $(INSTALL)
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --no-deps --no-build-isolation --editable .
	touch $@

# A newer version may have been published since the last time.
always:

recipes: .venv/installed  ## the figures of the recipes in docs/recipes.md, with the data in ROOT
	$(BIN)/python bench/recipes.py $(ROOT) --output outputs/recipes

lock:  ## write requirements.lock again from pyproject.toml
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --all-extras \
	  --no-header --no-annotate pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .venv-oldest .venv-newest
