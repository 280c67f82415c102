# Every target that runs Python makes .venv first, with a Python for which the OpenFHE wheel imports.
BIN := .venv/bin
STAMP := .venv/.installed
ENGINE := .venv/.engine
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
NATIVE := $(wildcard hetal/native/CMakeLists.txt hetal/native/src/* hetal/native/kernels/*)

.PHONY: help .venv native demo test test-full test-sanitizers check protos format clean

help:
	@echo 'make demo       train on encrypted breast-cancer data against a server on this machine'
	@echo 'make test       the default test suite'
	@echo 'make test-full  also the tests at 128-bit parameters (minutes and gigabytes each)'
	@echo 'make test-sanitizers  the native engine under the address, undefined and thread sanitizers'
	@echo 'make check      ruff, mypy, import-linter, and whether the generated protos are fresh'
	@echo 'make format     apply ruff fixes and formatting'
	@echo 'make protos     generate hetal/_pb from protos/'
	@echo 'make native     compile the native engine where its sources changed'
	@echo 'make .venv      only the environment'
	@echo 'make clean      remove the environment, caches and build outputs'

.venv: $(ENGINE)

native: $(ENGINE)

# An editable install: Python files are used where they lie. The engine is compiled by the next rule, with build tools that
# the first one installs, so that a later build compiles only what changed.
$(STAMP): pyproject.toml scripts/find_python
	@HETAL_PYTHON=$(BIN)/python scripts/find_python >/dev/null 2>&1 || \
	  { python=$$(scripts/find_python) && echo "making .venv with $$python" && "$$python" -m venv --clear .venv; }
	SKBUILD_WHEEL_CMAKE=false $(PIP) install --editable '.[dev]'
	@$(BIN)/python -c 'import openfhe' || \
	  { echo 'OpenFHE is installed in .venv but does not import; install CPython 3.10 on glibc 2.35 or newer.' >&2; exit 1; }
	@touch $(STAMP)

$(ENGINE): $(STAMP) $(NATIVE)
	SKBUILD_BUILD_DIR=build/engine $(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'from hetal.native import available; available() or \
	  print("No C++ compiler was found: hetal is installed without its native engine, and OpenFHE serves.")'
	@touch $(ENGINE)

demo: $(ENGINE)
	$(BIN)/hetal demo

test: $(ENGINE)
	$(BIN)/pytest -q

test-full: $(ENGINE)
	$(BIN)/pytest -q -m 'full or not full'

test-sanitizers: $(ENGINE)
	PYTHON=$(BIN)/python scripts/sanitize.sh address,undefined
	PYTHON=$(BIN)/python scripts/sanitize.sh thread

check: $(ENGINE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict hetal
	$(BIN)/lint-imports
	PYTHON=$(BIN)/python scripts/generate_protos.sh --check

protos: $(ENGINE)
	PYTHON=$(BIN)/python scripts/generate_protos.sh

format: $(ENGINE)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
