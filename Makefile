# senet_lab: every command sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/ready
STUDIES := $(sort $(patsubst sweeps/ablation/%.yaml,%,$(wildcard sweeps/ablation/*.yaml)))
NAME ?= design
PUBLISHED = $(shell find results -name trials.csv -not -path 'results/local/*' 2>/dev/null | sort)

.DEFAULT_GOAL := help
.PHONY: help setup search test test-slow mutations chaos real-images docs pictures notebooks check audit tables report optuna-dashboard publish lock clean

help:  ## list the commands
	@echo "make <command> [ARGS=\"data=cifar10 seeds=5 …\"]"
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | \
	  while IFS="$$(printf '\t')" read -r name text; do printf '  %-16s %s\n' "$$name" "$$text"; done
	@echo "studies: $(filter-out networks_%,$(STUDIES)), and those of the paper in one network as one plan: all"
	@echo "studies of networks: $(filter networks_%,$(STUDIES))"

# uv resolves nothing here: the lock names every version and hash. Where uv is missing it is installed into the
# environment itself, because Debian's own pip may not install outside of one.
$(READY): requirements.lock
	@echo "setting up $(VENV): about 6 GB with PyTorch, once"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || $(RUN) -m uv --version >/dev/null 2>&1 || $(RUN) -m pip install --quiet uv
	@uv="$$(command -v uv || echo $(RUN) -m uv)"; \
	  $$uv pip install --quiet --compile-bytecode --python $(RUN) --require-hashes -r requirements.lock
	@touch $@

setup: $(READY)  ## install the locked environment into .venv (every command does so by itself)

sweep-%: $(READY)  ## run a study, e.g. `make sweep-ratio`; `make sweep-all` the paper's seven in one network
	@$(RUN) -m senet_lab.run +ablation=$* $(ARGS)

search: $(READY)  ## run a search of sweeps/search/, e.g. `make search NAME=tabular`
	@$(RUN) -m senet_lab.run +search=$(NAME) $(ARGS)

tables: $(READY)  ## regenerate the published tables from their trials.csv
	@$(RUN) -m senet_lab table $(PUBLISHED)

report: $(READY)  ## every study on one HTML page (results/local/report.html): tables, plots, filters
	@$(RUN) -m senet_lab report $(ARGS)

publish: $(READY)  ## copy finished tables from results/local to results (ARGS names single ones)
	@$(RUN) -m senet_lab publish $(ARGS)

optuna-dashboard: $(READY)  ## the store's studies in a browser (ARGS="--port 8081 --storage URL")
	@$(RUN) -m senet_lab optuna-dashboard $(ARGS)

test: $(READY)  ## the tests, on up to four cores
	@$(RUN) -m pytest -m "not slow" -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(READY)  ## the tests that take minutes each, two at a time
	@$(RUN) -m pytest -m slow -n 2 --dist=loadfile --no-loadscope-reorder $(ARGS)

mutations: $(READY)  ## faults put into copies of the tree, and whether the tests notice (ARGS="--only verdict")
	@$(RUN) tests/mutations.py $(ARGS)

chaos: $(READY)  ## 100 faults at random moments in small studies, and what becomes of them (ARGS="--faults 10 --to results")
	@PYTHONPATH=. $(RUN) tests/chaos.py $(ARGS)

real-images: $(READY)  ## train the studies of real images where they were left (DATA=DIR holds CIFAR-10)
	@$(RUN) -m benchmarks.real_images $(DATA) $(ARGS)

docs: $(READY)  ## the documentation as a site (site/index.html)
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict -q

pictures: $(READY)  ## the pictures of the documentation, from real runs (needs Chromium)
	@$(RUN) docs/pictures.py

notebooks: $(READY)  ## run the notebooks of examples/ again, and keep their outputs
	@PYTHONPATH=$(CURDIR) $(VENV)/bin/jupyter execute --inplace examples/*.ipynb && git clean -fdq examples/results

check: $(READY)  ## ruff, mypy, import-linter, and how long files and functions may be
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check --quiet .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports --no-cache
	@$(RUN) .ci/limits.py

audit: $(READY)  ## known vulnerabilities of the locked dependencies, asked of the network; fails where it cannot tell
	@uv="$$(command -v uv || echo $(RUN) -m uv)"; \
	  $$uv tool run --quiet pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r requirements.lock

lock: $(READY)  ## resolve pyproject.toml anew into requirements.lock
	@uv="$$(command -v uv || echo $(RUN) -m uv)"; $$uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --all-extras --group dev --group docs pyproject.toml -o requirements.lock --quiet

clean:  ## remove the environment; results and records stay
	@rm -rf $(VENV)
