# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
S3 := .venv-s3
S3_INSTALLED := $(S3)/installed
RUN := runs/demo
export DS_ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)

.PHONY: demo test test-slow test-selfplay lint types clean

# torch first and alone: a range would draw in gigabytes of CUDA
$(INSTALLED): pyproject.toml constraints.txt
	@echo "== install"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# the object store of the tests: apart, because it replaces parts of the standard library (eventlet)
$(S3_INSTALLED): constraints.txt
	@echo "== install the S3 server of the tests"
	$(PYTHON) -m venv $(S3)
	$(S3)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt swift
	@touch $@

demo: $(INSTALLED)
	@echo "== generate"
	$(BIN)/generate recipes/demo.toml $(RUN)/corpus
	@echo "== audit"
	$(BIN)/audit $(RUN)/corpus
	@echo "== train on state"
	$(BIN)/train $(RUN)/corpus --run $(RUN)/state --preset tiny --inputs state \
		--ranks 2 --batch 16 --micro-batch 8 --updates 600 --loss.policy binary
	@echo "== train on pixels and state"
	$(BIN)/train $(RUN)/corpus --run $(RUN)/pixels --preset tiny --inputs pixels+state \
		--ranks 2 --batch 8 --micro-batch 4 --updates 150 --loss.policy binary
	@echo "== evaluate"
	$(BIN)/evaluate random $(RUN)/state $(RUN)/pixels expert --corpus $(RUN)/corpus \
		--runs 100 --output $(RUN)

test: $(INSTALLED) $(S3_INSTALLED)
	$(BIN)/pytest -n auto --dist loadgroup -m "not slow"

test-slow: $(INSTALLED) $(S3_INSTALLED)
	$(BIN)/pytest -m slow

# two rounds, killed on the way; CI runs it too
test-selfplay: $(INSTALLED)
	$(BIN)/pytest -m slow tests/test_selfplay_run.py

lint: $(INSTALLED)
	$(BIN)/ruff check .

# mypy must see the folders under the names they install as
types: $(INSTALLED)
	@mkdir -p build/types && ln -sfn $(CURDIR) build/types/palaestra
	MYPYPATH=build/types $(BIN)/mypy --explicit-package-bases --namespace-packages \
		$(foreach room,shards generate train evaluate,build/types/palaestra/$(room))

clean:
	rm -rf $(VENV) $(S3) runs build *.egg-info
