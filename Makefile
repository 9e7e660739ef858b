# make demo: the main job on real data.   make test: the tests.   README.md says what you will see.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Where torch comes from. On a machine without a GPU set it to PyTorch's index of CPU builds (README.md):
# make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

TREES ?= $(HOME)/.cache/edgewright/trees

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
FASHION := /usr/share/datasets/fashion-mnist
AS_ROOT := $(shell command -v apt-get >/dev/null 2>&1 && test "$$(id -u)" = 0 && echo yes)

.DEFAULT_GOAL := help
.PHONY: help install demo data teacher lint test test-slow test-devices test-reliability wheel clean

help:
	@echo "make demo       install into $(VENV), get the data, build the footwear sorter, write its report"
	@echo "make test       install, then run the tests"
	@echo "make test-slow  install, then run the long tests as well"
	@echo "make test-devices  try bundles out in other systems, arm64 among them"
	@echo "make test-reliability  kills, bad disks and hostile inputs, at length"
	@echo "make lint       ruff and mypy"
	@echo "make teacher    train the demo's teacher again and put it into examples/footwear"
	@echo "make wheel      build the wheel into dist/"
	@echo "make clean      remove what make demo built; $(VENV) and downloads stay"

demo: install data
	@$(BIN)/edgewright build examples/footwear/build.toml

teacher: install data
	$(BIN)/edgewright build examples/footwear/teacher.toml
	cp examples/footwear/out-teacher/models/teacher.safetensors examples/footwear/teacher.safetensors

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install data
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: install data
	$(BIN)/python -m pytest -m "not hardware and not reliability"

# Bundles in other systems: a clean Debian, an arm64 one by qemu, Python 3.8, a package. Wants root, a network,
# mmdebstrap and qemu-user-static; the systems are kept in TREES.
test-devices: install
	EDGEWRIGHT_TREES=$(TREES) $(BIN)/python -m pytest -m slow tests/pipeline/test_release_devices.py

# Builds killed two hundred times, bad disks, a million hostile inputs: an hour on two cores.
test-reliability: install
	$(PIP) --editable '.[all,dev,fuzz]'
	$(BIN)/python -m pytest -m "reliability or not reliability" tests/reliability
	$(BIN)/python -m tests.reliability.fuzz_all build/fuzz --seconds 7200

wheel: install
	$(BIN)/python -m build --wheel

clean:
	rm -rf examples/*/out examples/*/out-teacher examples/*/out-sweep examples/*/.edgewright build dist

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "edgewright needs Python 3.10 or newer; name it: make PYTHON=python3.12 …"; exit 3; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || $(PYTHON) -m venv $(VENV) \
	  || { test "$(AS_ROOT)" && apt-get install -y python3-venv && $(PYTHON) -m venv --clear $(VENV); } \
	  || { echo "no virtual environment could be made; as root: apt-get install python3-venv"; exit 3; }
	@echo "installing into $(VENV); the first time this takes a few minutes"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	@$(PIP) --editable '.[all,dev]'
	@touch $@

# A cache or the package may be there already; else the package is installed when that is possible without
# asking anybody, and what is left is a download by the build itself, checked against pinned digests.
data: install
	@test -e $(FASHION)/train-images-idx3-ubyte.gz \
	  || $(BIN)/python -m pipeline.datasets.fashion_mnist \
	  || { test "$(AS_ROOT)" && { apt-get install -y dataset-fashion-mnist >/dev/null 2>&1 \
	       || { apt-get update >/dev/null 2>&1; apt-get install -y dataset-fashion-mnist >/dev/null 2>&1; }; }; } \
	  || $(BIN)/python -m pipeline.datasets.fashion_mnist --download
