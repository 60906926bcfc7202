# Needs Python >= 3.11 with pip and venv, and make. `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest --quiet
# Each category is a job of its own. Of one that is gone, Python's cache may be left.
CATEGORIES := $(sort $(notdir $(patsubst %/,%,$(dir $(wildcard snippets/*/*.py)))))
SIX_STEPS := tests/drift/test_six_steps.py
# Zensical, the site generator that succeeds the present one.
SUCCESSOR := tests/site/test_zensical.py
# What passed is noted under the sum of these files' names and bytes before it ran.
machinery := $(shell find catalogue tests/drift tests/examples tests/support -name '*.py' \
	| sort | xargs cksum Makefile README.md docs/matrix.yaml mkdocs.yml pyproject.toml \
	tests/conftest.py .ci/serve .github/workflows/*.yml | cksum | cut -d ' ' -f 1)
told := $(shell find catalogue/notebooks notebooks snippets -name '*.py' -o -name '*.ipynb' \
	| sort | xargs cksum pyproject.toml | cksum | cut -d ' ' -f 1)
port ?= 8000

export NO_MKDOCS_2_WARNING := 1
# A dozen processes import and rewrite the same modules.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help serve test check test-real test-site test-lowest fix bench lock site \
	lint types examples patterns $(CATEGORIES) six-steps machinery notebooks guard html successor

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

serve: $(READY) ## browse the site on a loopback port, with live reload
	@$(BIN)/python -m catalogue serve --port $(port)

test: $(READY) ## all that needs no server and did not pass yet, two jobs at a time
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target \
		patterns lint types examples notebooks
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target \
		machinery six-steps site guard html successor
	@echo "test: all green on embedded backends"

check: lint types guard examples ## the fast half: lint, types, guard, examples
	@echo "check: all green"

test-real: $(READY) ## the same pattern tests on real PostgreSQL, Redis and RabbitMQ
	@$(BIN)/python -m tests.support.servers
	@$(PYTEST) --backends real --ignore=tests/site --ignore=tests/examples
	@echo "test-real: all green on real servers"

test-site: site ## the site in headless Chromium
	@$(PYTEST) tests/site/browser
	@echo "test-site: all green in the browser"

test-lowest: $(READY) ## the pattern tests with the lowest declared versions
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/lowest
	@$(BIN)/uv pip install --quiet --python build/lowest --resolution lowest-direct \
		--all-extras --requirements pyproject.toml
	@build/lowest/bin/python -m pytest --quiet --no-record --ignore=tests/site --ignore=tests/drift
	@echo "test-lowest: all green with the lowest declared versions"

fix: $(READY) ## update recorded outputs and notebooks, format
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/python -m catalogue.examples
	@$(BIN)/ruff format --quiet
	@$(BIN)/python -m catalogue.notebooks
	@echo "fix: outputs recorded, notebooks executed, code formatted"

bench: $(READY) ## ratios to the hand-written floor and to peers; only=<id> for one
	@$(BIN)/python -m catalogue.bench $(if $(only),--only $(only))

lock: $(READY) ## compile requirements.txt for every supported Python
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --python-version 3.11 \
		--all-extras $(if $(upgrade),--upgrade) pyproject.toml -o requirements.txt
	@echo "lock: requirements.txt is up to date"

site: $(READY) ## build the site into build/site
	@$(BIN)/python -m catalogue prove
	@$(BIN)/python -m catalogue render $(if $(publish),--publish)
	@$(BIN)/python -m mkdocs build --quiet --strict --site-dir build/site
	@$(BIN)/python -m catalogue.plain_tokens build/site
	@echo "site: built in build/site"

lint: $(READY)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check
	@echo "lint: clean"

types: $(READY)
	@$(BIN)/mypy

examples: $(READY)
	@$(PYTEST) tests/examples

patterns: $(CATEGORIES)

$(CATEGORIES): $(READY)
	@$(BIN)/python -m catalogue prove --category $@

six-steps: build/six-steps-${machinery}.passed
machinery: build/machinery-${machinery}.passed
notebooks: build/notebooks-${told}.passed

build/six-steps-${machinery}.passed: $(READY)
	@$(PYTEST) $(SIX_STEPS)
	@mkdir -p build && rm -f build/six-steps*.passed && touch $@

build/machinery-${machinery}.passed: $(READY)
	@$(PYTEST) tests/drift --ignore=$(SIX_STEPS)
	@mkdir -p build && rm -f build/machinery*.passed && touch $@

build/notebooks-${told}.passed: $(READY)
	@$(PYTEST) -o addopts= --nbval notebooks
	@mkdir -p build && rm -f build/notebooks*.passed && touch $@

# Beside a site that is being built, the guard waits for what is rendered.
guard: $(READY) $(filter site,$(MAKECMDGOALS))
	@$(BIN)/python -m catalogue check

html: site
	@$(PYTEST) tests/site --ignore=tests/site/browser --ignore=$(SUCCESSOR)

successor: site
	@$(PYTEST) $(SUCCESSOR)

# The .pth file lets `import snippets` work in notebooks and scripts of any folder.
$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed; choose one: make PYTHON=python3.12")'
	@test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.txt
	@echo '$(CURDIR)' > "$$($(BIN)/python -c \
		'import sysconfig; print(sysconfig.get_path("purelib"))')/service_patterns.pth"
	@touch $(READY)
	@echo "set-up: .venv holds what requirements.txt names"
