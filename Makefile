# make quickstart   sets up and runs the main job: train, prune, measure, report
# make test         sets up and runs lint, types and the tests, in at most ten minutes on two cores
# make test-all     the same with the slow tests, which take as long again
# make check        lint and types alone
# make report DIR=runs/...   writes a study's report again
# make results      renews what is made from published studies: pictures, pages, numbers in texts; with
#                   STUDY=runs/... NAME=name it packs that study into results/name first
# make devices      runs the C engine on emulated ARM processors (packages: see benchmarks/devices.py)

VENV   ?= .venv
PYTHON ?= python3
RECIPE ?= recipes/quickstart.yaml
OUT    ?= runs/quickstart
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# published data sets and longer reference cases, where they lie beside the clone; else tests use tests/data
ifneq ($(wildcard ../shared),)
export PRUNECAST_DATA      ?= $(abspath ../shared/data)
export PRUNECAST_REFERENCE ?= $(abspath ../shared/reference)
endif

.PHONY: quickstart test test-all check report results devices clean

quickstart: $(VENV)/.user
	$(BIN)/prunecast study run $(RECIPE) --out $(OUT)

test: check
	$(PYTEST) -m "not slow"

test-all: check
	$(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/house_style.py src

report: $(VENV)/.user
	$(BIN)/prunecast report $(DIR)

results: $(VENV)/.dev
	$(BIN)/python tools/publish.py $(STUDY) $(if $(STUDY),results/$(NAME))

devices: $(VENV)/.dev
	$(BIN)/python benchmarks/devices.py
	$(BIN)/python tools/quoted_numbers.py

$(VENV)/.user: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.user

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
