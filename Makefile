# make demo, make test and make check work on a fresh clone: they make .venv and install into it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip -qq --disable-pip-version-check install -c constraints.txt

.PHONY: demo test check clean

demo: $(VENV)/.installed
	$(BIN)/langedit demo --output out/demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) out

# torch first and by itself, so that its version is settled before anything depends on it.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("langedit needs Python 3.11 or newer; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch hatchling editables
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(INSTALL) --no-build-isolation -e '.[dev]'
	@touch $@ $(VENV)/.installed
