# senet_lab: every command sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/ready
STUDIES := $(patsubst sweeps/ablation/%.yaml,%,$(wildcard sweeps/ablation/*.yaml))

.DEFAULT_GOAL := help
.PHONY: help setup test test-all check tables publish clean

help:  ## list the commands
	@echo "make <command> [ARGS=\"data=cifar10 seeds=5 …\"]"
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | \
	  while IFS="$$(printf '\t')" read -r name text; do printf '  %-14s %s\n' "$$name" "$$text"; done
	@echo "studies: $(STUDIES)"

# uv resolves nothing here: the lock names every version and hash. It is installed into the environment itself, because
# Debian's own pip may not install outside of one.
$(READY): requirements.lock
	@echo "setting up $(VENV) (once; about 6 GB with PyTorch)"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || $(RUN) -m uv --version >/dev/null 2>&1 || $(RUN) -m pip install --quiet uv
	@uv=$$(command -v uv || echo "$(RUN) -m uv"); \
	  $$uv pip install --quiet --compile-bytecode --python $(RUN) --require-hashes -r requirements.lock
	@touch $@

setup: $(READY)  ## install the locked environment into .venv (every command does so by itself)

sweep-%: $(READY)  ## run a study, e.g. `make sweep-ratio`; ARGS="…" overrides anything
	@$(RUN) -m senet_lab.run +ablation=$* $(ARGS)

test: $(READY)  ## the tests (a few minutes)
	@$(RUN) -m pytest -m "not slow" $(ARGS)

test-all: $(READY)  ## every test, the slow ones too
	@$(RUN) -m pytest $(ARGS)

check: $(READY)  ## ruff, mypy, import-linter
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy && $(VENV)/bin/lint-imports --no-cache

clean:  ## remove the environment; results and records stay
	@rm -rf $(VENV)
