# Two commands do all the set-up on a fresh Debian or Ubuntu: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CONSTRAINTS := docker/constraints.txt
# The peers that the tests talk to: Orthanc and DCMTK as PACS, PostgreSQL, Redis; PixelMed
# judges structured reports, driven by BeanShell; OpenJPH writes HTJ2K; Chromium shows the
# status page (80 MB), Prometheus runs every query (20 MB).
PEERS := bsh chromium dcmtk openjph-tools orthanc orthanc-dicomweb pixelmed-apps \
	postgresql prometheus redis-server

.PHONY: demo test lint bench install peers lock clean

demo: install ## show the whole system at work, nothing to configure
	$(BIN)/python -m training demo

test: install peers ## every test, with real peers; two at a time, a file in one process
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: install ## ruff, mypy --strict, the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell dicom_node worker training migrations tests README.md CHANGELOG.md

bench: install peers ## measure; prints medians and ratios
	$(BIN)/python -m tests.benchmarks

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Sentinode needs Python 3.11 or newer: set PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { $(SUDO) apt-get update && $(SUDO) apt-get install -y python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python \
	  --constraint $(CONSTRAINTS) --editable '.[dev]'
	@$(BIN)/python -c 'import importlib.metadata as m; v = m.version("torch"); \
	  assert v.startswith("2.14."), f"torch {v} was installed instead of 2.14"'
	@touch $@

peers:
	@command -v dcmsend >/dev/null && command -v Orthanc >/dev/null \
	  && ls /usr/share/orthanc/plugins/libOrthancDicomWeb.so >/dev/null 2>&1 \
	  && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
	  && command -v redis-server >/dev/null && command -v DicomSRValidator >/dev/null \
	  && ls /usr/share/java/bsh.jar >/dev/null 2>&1 \
	  && command -v ojph_compress >/dev/null && command -v chromium >/dev/null \
	  && command -v promtool >/dev/null \
	  || { $(SUDO) apt-get update -qq \
	       && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq $(PEERS); }

lock: install ## resolve every dependency anew for all supported Pythons
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras \
	  --no-emit-index-url --no-annotate --no-header --upgrade \
	  --output-file $(CONSTRAINTS) pyproject.toml

clean: ## remove the environment and every cache
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
