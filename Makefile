# Everything runs in .venv, which is made on first use from what pyproject.toml says.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard kernels/*)

.PHONY: demo test test-torch check bench bench-live samples clean

demo: $(VENV)/.base  ## anonymise and annotate a sample with a real model
	mkdir -p out
	$(BIN)/vidai run samples/face.mp4 out/anonymized.mp4 --pipeline anonymize -y
	$(BIN)/vidai run samples/face.mp4 out/annotated.mp4 --model centerface --records out/annotated.jsonl -y
	$(BIN)/vidai probe out/annotated.mp4

test: $(VENV)/.test  ## the whole test suite
	$(BIN)/python -m pytest

test-torch: $(VENV)-torch/.test  ## torch modules as detectors, in an environment of their own
	$(VENV)-torch/bin/python -m pytest tests/test_torch.py

check: $(VENV)/.check  ## lint, format, types: exactly what CI checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench  ## every figure of the README, on this machine
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/host_overhead.py

bench-live: $(VENV)/.bench  ## the same of live streams: half an hour
	$(BIN)/python benchmarks/live.py
	$(BIN)/python benchmarks/soak.py --minutes 20 --streams 8 --chaos

samples: $(VENV)/.base  ## make samples/*.mp4 and docs/demo.png anew
	$(BIN)/pip install --quiet scikit-image
	$(BIN)/python samples/make_samples.py
	$(BIN)/python samples/make_picture.py

# Each stamp installs one set of extras; the kernels are compiled on the way.
$(VENV)/.base: $(SOURCES) | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.check: $(VENV)/.test
	$(BIN)/pip install --quiet --editable '.[test,check]'
	touch $@

# This version of torch runs on a CPU alone; it is large, hence apart from the rest.
$(VENV)-torch/.test: $(SOURCES)
	$(PYTHON) -m venv $(VENV)-torch
	$(VENV)-torch/bin/pip install --quiet torch==2.13.0 onnxscript onnx pytest hypothesis
	$(VENV)-torch/bin/pip install --quiet --editable .
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "make: $(PYTHON) cannot make virtual environments: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(VENV)-torch .simdriver build out vidai/*.so *.egg-info
