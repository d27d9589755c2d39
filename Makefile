# Two commands do all the set-up on a fresh Debian or Ubuntu: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CONSTRAINTS := docker/constraints.txt
# The peers that the tests talk to: Orthanc and DCMTK as PACS, PostgreSQL, Redis, RabbitMQ;
# PixelMed judges structured reports, driven by BeanShell; OpenJPH writes HTJ2K; Chromium
# shows the status page (80 MB), Prometheus runs every query (20 MB), rsyslog collects the
# audit trail. buildah and debootstrap build the listener's image, docker-compose and
# systemd read our files.
PEERS := bsh buildah chromium dcmtk debootstrap docker-compose openjph-tools orthanc \
	orthanc-dicomweb pixelmed-apps postgresql prometheus rabbitmq-server redis-server \
	rsyslog rsyslog-gnutls systemd util-linux
# What builds images: any of docker, podman and buildah. The health check of an image
# needs Docker's format, which the others are asked for.
BUILD ?= $(shell command -v docker >/dev/null && echo docker build \
	|| echo $$(command -v podman buildah | head -1) build --format docker)
BUILD_ARGS ?=
# How often each point of the kill matrix is tried, and on which seed.
RUNS ?= 50
SEED ?= 1
FUZZ_ARGS ?=
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' dicom_node/__init__.py)
REVISION := $(shell git rev-parse --short HEAD 2>/dev/null)
PIN := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--no-emit-index-url --no-annotate --no-header

.PHONY: demo test lint bench chaos fuzz install peers lock locks audit images clean

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

bench: install peers ## measure ours and theirs; prints ratios, writes bench.json, bench.png
	$(BIN)/python -m tests.benchmarks --json bench.json --plot bench.png

chaos: install peers ## kill every process at every point of the path; prints the table
	$(BIN)/python -m tests.chaos --runs $(RUNS) --seed $(SEED) --json chaos.json

fuzz: install ## the long form of tests/fuzz: 10,000,000 inputs, 100,000 PDUs; half an hour
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Sentinode needs Python 3.11 or newer: set PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { $(SUDO) apt-get update && $(SUDO) apt-get install -y python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python \
	  --constraint $(CONSTRAINTS) --editable '.[dev]'
	$(BIN)/python -m compileall -q dicom_node worker training tests
	@$(BIN)/python -c 'import importlib.metadata as m; v = m.version("torch"); \
	  assert v.startswith("2.14."), f"torch {v} was installed instead of 2.14"'
	@touch $@

peers:
	@command -v dcmsend >/dev/null && command -v Orthanc >/dev/null \
	  && ls /usr/share/orthanc/plugins/libOrthancDicomWeb.so >/dev/null 2>&1 \
	  && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
	  && ls /usr/lib/rabbitmq/bin/rabbitmq-server >/dev/null 2>&1 \
	  && command -v redis-server >/dev/null && command -v DicomSRValidator >/dev/null \
	  && ls /usr/share/java/bsh.jar >/dev/null 2>&1 \
	  && command -v ojph_compress >/dev/null && command -v chromium >/dev/null \
	  && command -v promtool >/dev/null \
	  && command -v rsyslogd >/dev/null \
	  && ls /usr/lib/*/rsyslog/lmnsd_gtls.so >/dev/null 2>&1 \
	  && command -v buildah >/dev/null \
	  && command -v debootstrap >/dev/null && command -v docker-compose >/dev/null \
	  && command -v systemd-analyze >/dev/null \
	  || { $(SUDO) apt-get update -qq \
	       && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq $(PEERS); }

lock: install ## resolve every dependency anew for all supported Pythons
	$(PIN) --all-extras --upgrade --output-file $(CONSTRAINTS) pyproject.toml
	$(MAKE) locks

locks: install ## the images' locks, with hashes, of the versions in the constraints
	$(PIN) --generate-hashes --constraint $(CONSTRAINTS) --extra s3 \
	  --output-file docker/locks/node.txt pyproject.toml
	$(PIN) --generate-hashes --constraint $(CONSTRAINTS) --extra s3 --extra worker \
	  --output-file docker/locks/worker.txt pyproject.toml
	$(PIN) --generate-hashes --constraint $(CONSTRAINTS) --extra s3 --extra training \
	  --output-file docker/locks/trainer.txt pyproject.toml
	$(PIN) --generate-hashes --constraint $(CONSTRAINTS) --group image \
	  --output-file docker/locks/image.txt

audit: install ## ask PyPI for advisories on every version of the images; needs the internet
	for lock in node worker trainer image; do \
	  $(BIN)/pip-audit --require-hashes --no-deps --disable-pip \
	    --requirement docker/locks/$$lock.txt || exit 1; \
	done

images: ## build the images of listener, worker and trainer
	for target in node worker trainer; do \
	  $(BUILD) --file docker/Dockerfile --target $$target $(BUILD_ARGS) \
	    --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
	    --tag sentinode/$$target:$(VERSION) --tag sentinode/$$target:latest . || exit 1; \
	done

clean: ## remove the environment and every cache
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
