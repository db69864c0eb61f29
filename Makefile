# Everything a newcomer types. GNU make 3.81 and later; `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/sh

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --no-compile --constraint constraints.txt

PORT ?= 8080
DATA_DIR ?= .data
MODELS_DIR ?= .models
WORKERS ?= 1
TEXT_MODEL ?= builtin:multilingual-e5-small
IMAGE_MODEL ?= builtin:efficientnet-lite0-views
KEYLESS_WRITES ?= loopback
POWER_STATES ?= 50000
ARGS ?=
# Tests wait, for starts, deadlines and disks: one process more than processors. Each has databases of its own:
# more than four ask for much memory and win little. A file is one process's: what its tests share is made once.
SIDE_BY_SIDE := -n $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -lt 4 ] && echo $$((n + 1)) || echo 4) \
  --dist loadfile --no-loadscope-reorder
# What make check leaves waits for nothing.
NO_MORE := -n logical --maxprocesses 4 --dist worksteal
# What `make check` runs, and what `make test` measures coverage of (docs/decisions/0057, 0066).
MEASURED := (tidy or unit or contract) and not slow
QUICK := $(MEASURED) and not long
export PORT DATA_DIR MODELS_DIR WORKERS
# Compiled files are kept, whatever the shell says: pip makes none here, and tests are rewritten to explain failures.
export PYTHONDONTWRITEBYTECODE :=

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
IMPORTED := item_rules image_fetch log_lines index_store service feeder vector_client
CHECKED := $(IMPORTED) benchmarks tests examples setup.py

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed 's/:.*## /|/' | awk -F'|' '{ printf "  make %-8s %s\n", $$1, $$2 }'
	@echo "  Variables: PORT=$(PORT) DATA_DIR=$(DATA_DIR) WORKERS=$(WORKERS) COLLECTIONS_FILE=$(COLLECTIONS_FILE)"

.PHONY: run
run: $(VENV)/.serve $(MODELS_DIR)/.built ## serve on PORT with a small demo catalogue, setting up whatever is missing
	@TEXT_MODEL=$(TEXT_MODEL) IMAGE_MODEL=$(IMAGE_MODEL) KEYLESS_WRITES=$(KEYLESS_WRITES) exec $(PY) -m service --demo

.PHONY: serve
serve: $(VENV)/.serve ## serve on PORT from DATA_DIR, no demo data (WORKERS, COLLECTIONS_FILE, docs/SETTINGS.md)
	@exec $(PY) -m service

.PHONY: models
models: $(MODELS_DIR)/.built ## build the two models that need no hub

.PHONY: test
test: $(VENV)/.test $(MODELS_DIR)/.built ## every test, with databases, a browser and Prometheus set up for it; coverage has a floor
	@bash tests/setup_databases.sh $(PY)
	@bash tests/setup_browser.sh
	@bash tests/setup_prometheus.sh
	@bash tests/setup_systemd.sh
ifeq ($(ARGS),)
	$(PY) -m pytest $(SIDE_BY_SIDE) $(IMPORTED:%=--cov=%) -m '$(MEASURED)' tests/tidy tests/unit tests/contract
	$(PY) -m pytest $(SIDE_BY_SIDE) --durations 25 -m 'not ($(MEASURED))'
else
	$(PY) -m pytest $(SIDE_BY_SIDE) $(ARGS)
endif

.PHONY: soak
soak: $(VENV)/.test $(MODELS_DIR)/.built ## half an hour of everything: memory and open files must not grow, nothing deleted may return
	$(PY) -m benchmarks.soak --models-dir $(MODELS_DIR) $(ARGS)

.PHONY: kills
kills: $(VENV)/.test ## kill feeder and service 30 times each under writers, on every way of noticing changes
	@bash tests/setup_databases.sh $(PY)
	FEEDER_KILLS=30 SERVICE_KILLS=30 FEEDER_WRITING_SECONDS=20 $(PY) -m pytest --timeout 1800 -q \
	  tests/integration/test_service_kill.py tests/integration/test_feeder_sync_tiers.py \
	  tests/integration/test_feeder_resume.py $(ARGS)

.PHONY: crash
crash: $(VENV)/.test ## 50,000 power losses, a fault at every call on files, 600 random histories: a quarter of an hour
	$(PY) -m pytest --timeout 7200 -q -s --power-states $(POWER_STATES) --every-fault --histories 600 \
	  tests/simulation $(ARGS)

.PHONY: check
check: $(VENV)/.test ## format, lint, types, house rules, unit and contract tests: what to run before a commit
	$(PY) -m ruff format --check $(CHECKED)
	$(PY) -m ruff check $(CHECKED)
	$(PY) -m mypy
	$(PY) -m pytest -q $(NO_MORE) -m '$(QUICK)' tests/tidy tests/unit tests/contract $(ARGS)

.PHONY: bench
bench: $(VENV)/.test $(MODELS_DIR)/.built ## every benchmark; pictures and tables go to .out/
	@mkdir -p .out
	@for file in benchmarks/bench_*.py; do \
	  name=$$(basename $$file .py); echo "== $$name"; $(PY) -m benchmarks.$$name $(ARGS) || exit 1; done

.PHONY: quality
quality: $(VENV)/.test $(MODELS_DIR)/.built ## how good answers are, by kind of query and of picture, each with its limit
	$(PY) -m benchmarks.bench_quality --models-dir $(MODELS_DIR) $(ARGS)

.PHONY: record
record: $(VENV)/.test ## keep a data directory of RELEASE=N.N.N, for later releases to open (docs/UPGRADES.md)
	@test -n "$(RELEASE)" || { echo "make record RELEASE=N.N.N"; exit 2; }
	$(PY) -m tests.fixtures.golden.release record $(RELEASE)

.PHONY: lock
lock: ## requirements.lock again, out of pyproject.toml and constraints.txt (asks the package registry)
	@sh deploy/lock.sh "$(PYTHON)" .out/lock

.PHONY: pin
pin: ## renew the digests of the images in Dockerfiles and docker-compose.yml (needs docker and a registry)
	@sh deploy/pin_images.sh Dockerfile deploy/prometheus/Dockerfile docker-compose.yml

.PHONY: client
client: $(VENV)/.test ## build the client's wheel and sdist into dist/, to install in a backend
	$(PY) -m build --no-isolation --outdir dist vector_client

.PHONY: clean
clean: ## remove the virtual environment and caches; DATA_DIR and MODELS_DIR stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .out build dist *.egg-info vector_client/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up. Each step leaves a stamp, so that a second start does nothing here.
$(PY):
	@sh deploy/venv.sh "$(PYTHON)" $(VENV)

# No torch and no CUDA: the serving dependencies only.
$(VENV)/.serve: requirements.lock pyproject.toml | $(PY)
	@echo "Installing the serving dependencies into $(VENV), each file by its hash (once)"
	@$(PY) -m pip install -qq --no-compile --require-hashes -r requirements.lock
	@$(PY) -m pip install -qq --no-compile --no-deps --no-build-isolation --editable .
	@echo "Compiling the inner loops of search for this processor (once)"
	@$(PY) -m index_store compile
	@touch $@

# torch stands first and alone: resolved together with open_clip it is upgraded, CUDA and all.
$(VENV)/.test: constraints.txt pyproject.toml | $(VENV)/.serve
	@echo "Installing the test dependencies into $(VENV) (once)"
	@sh deploy/compiler.sh
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[torch,hnswlib,binlog,test]'
	@touch $@

# Again where another model became a built-in one; what is there and whole is left as it is.
$(MODELS_DIR)/.built: service/embedding/catalog/builtin.py | $(VENV)/.serve
	@echo "Building the built-in models into $(MODELS_DIR) (once)"
	@$(PY) -m service models build $(TEXT_MODEL) $(IMAGE_MODEL)
	@touch $@
