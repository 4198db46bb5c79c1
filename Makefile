# Two commands do everything: `make demo` and `make test`. Each sets itself up.
#
# PYTHON       the interpreter the virtual environment is made with (3.11 or newer)
# TORCH_INDEX  an extra package index for PyTorch; on Linux without a GPU,
#              https://download.pytorch.org/whl/cpu saves several GB of CUDA packages
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/'

$(VENV)/installed: pyproject.toml constraints.txt tests/requirements-reference.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement tests/requirements-reference.txt
	@touch $@

setup: $(VENV)/installed  ## make .venv with the pinned dependencies

demo: setup  ## the main job on real scanned digits, offline: fit, evaluate, predict
	$(BIN)/topgraft fit digits --strategy head --out runs/demo --overwrite
	$(BIN)/topgraft evaluate runs/demo digits
	$(BIN)/python -c "from PIL import Image; import topgraft as tg; \
		Image.fromarray(tg.open_images('digits').test[0].array).save('runs/digit.png')"
	$(BIN)/topgraft predict runs/demo runs/digit.png

test: setup  ## run the tests
	$(BIN)/python -m pytest --numprocesses 2

check: setup  ## lint, format, types, generated signatures, import contracts, dependencies, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/generate_api.py --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry src
	$(BIN)/codespell

bench: setup  ## measure; the scripts that need real photos say how to give them
	$(BIN)/python -m benchmarks

clean:  ## remove what the commands above made
	rm -rf $(VENV) runs build dist
