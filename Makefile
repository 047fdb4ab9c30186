# Everything a newcomer needs: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint bench format clean
.DEFAULT_GOAL := demo

# torch comes first and pinned: the plain name may bring gigabytes of CUDA libraries to a machine without a GPU.
$(VENV)/run.done: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once, a minute or two)"
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed; call make with PYTHON=..."'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[report]'
	@touch $@

$(VENV)/dev.done: $(VENV)/run.done
	@$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/run.done
	@$(BIN)/f2llm build recipes/mini.toml

test: $(VENV)/dev.done
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/dev.done
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/dev.done
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/dev.done
	@$(BIN)/f2llm bench encode
	@$(BIN)/f2llm bench query

clean:
	rm -rf $(VENV) build
