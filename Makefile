# Lockstep: every command of the project. `make` alone lists them.

VENV   ?= .venv
PYTHON ?=
BIN    := $(VENV)/bin
TOOLS  := .venv-protos/bin

WIRE     := protos/lockstep/v1
PROJECTS := protos/pyproject.toml clients/python/pyproject.toml pyproject.toml

# Bytecode must be written in tests, as on any host: measuring tests compare what ran with what lies on the disk.
unexport PYTHONDONTWRITEBYTECODE
# Someone else's modules on the path would be measured, linted and typed along with ours.
unexport PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

##@ Start here

.PHONY: help
help: ## this list
	@if [ -t 1 ]; then bold=$$(printf '\033[1m') blue=$$(printf '\033[36m') plain=$$(printf '\033[0m'); fi; \
	awk -v bold="$$bold" -v blue="$$blue" -v plain="$$plain" 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s%s%s\n", bold, substr($$0, 5), plain } \
	  /^[a-z-]+:.*## / { printf "  %smake %-14s%s %s\n", blue, $$1, plain, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nFirst time? `make demo` shows what Lockstep does; `make test` shows that it holds.\n'

.PHONY: setup
setup: $(VENV)/.ready ## an environment in .venv, from the lock (PYTHON=... to choose the interpreter)

.PHONY: demo
demo: setup ## the story in one terminal: prove, lease, tamper, revoked
	@$(BIN)/python examples/demo/run.py

.PHONY: demo-vault
demo-vault: setup ## the same with a database login from a real OpenBao: an open session is cut
	@$(BIN)/python examples/demo/vault.py

.PHONY: test
test: setup servers lint types contracts protos-check ## everything that must hold before a change lands
	@COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")') \
	  $(BIN)/python -m pytest --cov --cov-report=term:skip-covered --durations=20 --durations-min=5

##@ While you work

.PHONY: unit
unit: setup ## the fast loop: unit tests, stop at the first failure
	@$(BIN)/python -m pytest -q -x tests/unit

.PHONY: format
format: setup ## format and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format .

.PHONY: lint
lint: setup ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: setup ## mypy, strict
	@$(BIN)/mypy

.PHONY: contracts
contracts: setup ## the one arrow: who may import whom (import-linter)
	@$(BIN)/lint-imports --no-logo

SECONDS_EACH ?= 120
.PHONY: fuzz
fuzz: setup ## search parsers for inputs that they do not stand (SECONDS_EACH=120; what is found lies in .fuzz)
	@for target in $$($(BIN)/python -m tests.fuzz --list); do \
	  echo "== $$target" && mkdir -p .fuzz/$$target && \
	  $(BIN)/python -m tests.fuzz $$target -max_total_time=$(SECONDS_EACH) -max_len=16384 -timeout=5 -rss_limit_mb=1024 \
	    -verbosity=0 -artifact_prefix=.fuzz/$$target- .fuzz/$$target tests/fuzz/corpus/$$target || exit 1; \
	done; echo "nothing found"

.PHONY: bench
bench: setup ## the benchmarks (see benchmarks/)
	@$(BIN)/python -m benchmarks

.PHONY: servers
servers: ## what tests want and no wheel has: PgBouncer, PostgreSQL 15 and strace, unpacked from Debian's packages into .servers
	@tools/servers .servers

.PHONY: soak
soak: setup ## a million credentials, one in five given back: memory, open files and latency, slice by slice (about an hour)
	@$(BIN)/python -m benchmarks.soak

.PHONY: bench-vault
bench-vault: setup servers ## a database credential from OpenBao and its end, straight and through the broker
	@$(BIN)/python -m benchmarks.vault

.PHONY: matrix
matrix: servers ## the test suite on every supported Python that is here
	@for version in 3.11 3.12 3.13; do \
	  python=$$(tools/python $$version) || { echo "== Python $$version: not here, skipped"; continue; }; \
	  echo "== Python $$version: $$python"; \
	  $(MAKE) --no-print-directory setup VENV=.venv-$$version PYTHON="$$python" && \
	  .venv-$$version/bin/python -m pytest -q --no-header || exit 1; \
	done

##@ The wire

.PHONY: protos
protos: $(TOOLS)/.ready ## generate the Python of every .proto, beside it
	@tools/protos/generate $(TOOLS) protos
	@echo "generated: $(WIRE)"

.PHONY: protos-check
protos-check: $(TOOLS)/.ready ## .proto style, compatibility with protos/breaking.binpb, generated code up to date
	@$(TOOLS)/buf lint protos
	@$(TOOLS)/buf breaking protos --against protos/breaking.binpb
	@tools/protos/generate --check $(TOOLS) protos
	@echo "protos: style, compatibility and generated code are in order"

.PHONY: protos-accept
protos-accept: $(TOOLS)/.ready ## accept the wire as it is now as what later changes must not break
	@$(TOOLS)/buf build protos --exclude-source-info -o protos/breaking.binpb
	@echo "accepted: protos/breaking.binpb"

##@ Upkeep

.PHONY: audit
audit: setup ## known vulnerabilities in what is locked (asks the network)
	@$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements.lock

.PHONY: lock
lock: setup ## take new versions into the lock files (UPGRADE=--upgrade for the newest)
	@tools/lock $(BIN)/uv $(UPGRADE)

.PHONY: clean
clean: ## remove what make made: environments, caches, build output
	rm -rf .venv .venv-* .servers .fuzz .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf .coverage .coverage.* htmlcov build dist protos/dist clients/python/dist
	find . -name .git -prune -o -type d -name __pycache__ -exec rm -rf {} +

# -- how the environments are made ---------------------------------------------------------------------------

# In two steps, so that a changed pyproject costs seconds and only a changed lock a new environment.
$(VENV)/.ready: $(VENV)/.locked $(PROJECTS)
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e protos -e clients/python -e .
	@touch $@

$(VENV)/.locked: requirements.lock tools/pip.lock
	@python="$(PYTHON)"; python=$${python:-$$(tools/python)} && \
	echo "setting up $(VENV) with $$python" && \
	"$$python" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r tools/pip.lock
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@touch $@

.venv-protos/bin/.ready: tools/protos/requirements.lock
	@python="$(PYTHON)"; python=$${python:-$$(tools/python)} && \
	echo "setting up .venv-protos with $$python" && \
	"$$python" -m venv --clear .venv-protos
	@$(TOOLS)/python -m pip install --quiet --require-hashes -r tools/pip.lock
	@$(TOOLS)/python -m pip install --quiet --require-hashes -r tools/protos/requirements.lock
	@touch $@
