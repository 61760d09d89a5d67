# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STRUCT ?= examples/li6ps5cl.cif
OUT    ?= runs/demo
MEASURED ?= $(or $(TMPDIR),/tmp)/mdistill-measured.jsonl
PYTEST := OMP_NUM_THREADS=1 MDISTILL_QUIET=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --durations=40
BENCHMARKS := student_accuracy student_drift teacher_trajectory student_dynamics analyse_argyrodite long_stride student_speed transport

.PHONY: demo test test-rest test-all lint bench docs trust clean

$(BIN)/mdistill-installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[sevennet,chgnet,engines,molecules,xtb,d3,dft,dask,executorlib,dev,docs]"
	touch $@

demo: $(BIN)/mdistill-installed
	$(BIN)/mdistill distill $(STRUCT) --teacher sevennet-0 --temperatures 500 700 900 --quick --out $(OUT)

test: $(BIN)/mdistill-installed
	$(PYTEST) -m "not slow"

test-rest: $(BIN)/mdistill-installed
	$(PYTEST) -m slow

test-all: test test-rest

lint: $(BIN)/mdistill-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/lint-imports
	$(BIN)/python tests/house_rules.py

bench: $(BIN)/mdistill-installed
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done
	$(BIN)/python -m benchmarks.tables

docs: $(BIN)/mdistill-installed
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html

trust: $(BIN)/mdistill-installed
	: > $(MEASURED)
	@echo "measured values go to $(MEASURED)"
	MDISTILL_MEASURED=$(MEASURED) $(MAKE) test-all
	$(BIN)/python tests/trust_page.py $(MEASURED)

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build
