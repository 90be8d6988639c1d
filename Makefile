# Everything from a machine that has python3, pip and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test check lock clean

train: .venv/installed  ## one run on the handwritten digits that come with scikit-learn
	$(BIN)/lamella train

test: .venv/installed check  ## every check and every test
	$(BIN)/python -m pytest -n 3 --durations=20  # they wait as often as they compute

check: .venv/installed  ## format, lint and types: what the commit hooks and CI run
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Bytecode is compiled here because importing torch without it takes twice as long, at every start.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet 'uv==0.13.*'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

lock:  ## write requirements.lock again from pyproject.toml
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --all-extras \
	  --no-header --no-annotate pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv
