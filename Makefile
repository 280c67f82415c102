# Every target that runs Python makes .venv first, with a Python for which the OpenFHE wheel imports.
BIN := .venv/bin
STAMP := .venv/.installed
NATIVE := $(wildcard hetal/native/CMakeLists.txt hetal/native/src/* hetal/native/kernels/*)

.PHONY: help .venv demo test test-full check protos format clean

help:
	@echo 'make demo       train on encrypted breast-cancer data against a server on this machine'
	@echo 'make test       the default test suite'
	@echo 'make test-full  also the tests at 128-bit parameters (minutes and gigabytes each)'
	@echo 'make check      ruff, mypy, import-linter, and whether the generated protos are fresh'
	@echo 'make format     apply ruff fixes and formatting'
	@echo 'make protos     generate hetal/_pb from protos/'
	@echo 'make .venv      only the environment'
	@echo 'make clean      remove the environment, caches and build outputs'

.venv: $(STAMP)

# An editable install: Python files are used where they lie, the engine is compiled anew when one of its sources changed.
$(STAMP): pyproject.toml scripts/find_python $(NATIVE)
	@HETAL_PYTHON=$(BIN)/python scripts/find_python >/dev/null 2>&1 || \
	  { python=$$(scripts/find_python) && echo "making .venv with $$python" && "$$python" -m venv --clear .venv; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/python -c 'import openfhe' || \
	  { echo 'OpenFHE is installed in .venv but does not import; install CPython 3.10 on glibc 2.35 or newer.' >&2; exit 1; }
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/hetal demo

test: $(STAMP)
	$(BIN)/pytest -q

test-full: $(STAMP)
	$(BIN)/pytest -q -m 'full or not full'

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict hetal
	$(BIN)/lint-imports
	PYTHON=$(BIN)/python scripts/generate_protos.sh --check

protos: $(STAMP)
	PYTHON=$(BIN)/python scripts/generate_protos.sh

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
