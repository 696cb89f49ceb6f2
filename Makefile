# `make` lists the targets. `make serve` and `make test` install what they need themselves; everything lies in .venv.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
# processes of the tests: on two cores, one of three often waits for a server or a file
PROCESSES ?= 3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup serve test check lint format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/serve.done  ## install what `make serve` needs into .venv, without torch; the server is not started

serve: .venv/serve.done  ## serve the shipped models at http://127.0.0.1:8000 (HOST, PORT and GRPC_PORT can be set)
	$(BIN)/manifold serve --host $(HOST) --port $(PORT) $(if $(GRPC_PORT),--grpc-port $(GRPC_PORT))

test: .venv/dev.done .venv/docs.done .venv-tritonclient/done  ## run all checks: tests, lint, types, the public client and the docs (six minutes on two cores)
	PROCESSES=$(PROCESSES) tests/beside.sh

check: .venv/dev.done  ## run lint, types and the tests that neither train nor export a model (a minute and a half)
	PROCESSES=$(PROCESSES) tests/beside.sh --fast

lint: .venv/dev.done  ## check style, types and words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.words

format: .venv/dev.done  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	@echo "--- making the virtual environment .venv"
	$(PYTHON) -m venv .venv

.venv/serve.done: pyproject.toml | .venv/bin/python
	@echo "--- installing Manifold and ONNX Runtime into .venv"
	$(BIN)/pip install --disable-pip-version-check -e '.[cpu,tables]'
	@touch $@

.venv/dev.done: pyproject.toml client/pyproject.toml | .venv/bin/python
	@echo "--- installing Manifold, torch and the tools of development into .venv: several minutes, mostly for torch"
	$(BIN)/pip install --disable-pip-version-check -e '.[cpu,train,tracing,dev]' -e client
	@touch $@ .venv/serve.done

.venv/docs.done: pyproject.toml | .venv/bin/python
	@echo "--- installing Sphinx into .venv"
	$(BIN)/pip install --disable-pip-version-check -e '.[cpu,docs]'
	@touch $@

# The public client of the Open Inference Protocol has an environment of its own, because it needs another version of protobuf.
.venv-tritonclient/done:
	@echo "--- installing tritonclient into .venv-tritonclient"
	$(PYTHON) -m venv .venv-tritonclient
	.venv-tritonclient/bin/pip install --disable-pip-version-check 'tritonclient[http,grpc]==2.73.0' 'pytest>=8.3'
	@touch $@

clean:  ## remove the virtual environments
	rm -rf .venv .venv-tritonclient

.PHONY: docs
docs: .venv/dev.done  ## renew the files and pictures of docs/ that are made from the code and the models; tests compare them
	$(BIN)/manifold schema > docs/manifest.schema.json
	$(BIN)/manifold catalogue --page docs/models.md --readme README.md --record
	$(BIN)/python -m tests.published
	$(BIN)/python -m tests.answers
	$(BIN)/python -c 'import json; from manifold.service.http.app import create_app; from manifold.service.settings import Settings; print(json.dumps(create_app(Settings()).app.openapi(), indent=1))' > docs/openapi.json
	$(BIN)/python -m manifold.service.reference docs/reference
	$(BIN)/python -m manifold.cli.reference docs/reference/commands.md
	$(BIN)/python docs/write.py

.PHONY: site
site: .venv/docs.done  ## build the documentation as a site in docs/site/, which works offline
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/site
	@echo "--- open $(CURDIR)/docs/site/index.html in a browser"

.PHONY: stubs
stubs: .venv/dev.done  ## renew the code that is made from proto/
	$(BIN)/python -m grpc_tools.protoc -Imanifold/service/stubs=proto --python_out=. --pyi_out=. --grpc_python_out=. proto/manifold.proto proto/inference.proto

.PHONY: lock
UV_COMPILE = $(BIN)/uv pip compile -q --upgrade --python-version 3.11 --python-platform linux --generate-hashes --no-emit-index-url --no-annotate --no-header
lock: .venv/dev.done  ## renew deploy/requirements: exact versions with hashes for the images, without torch
	$(BIN)/pip install --disable-pip-version-check uv
	$(UV_COMPILE) pyproject.toml --extra cpu --extra tables --extra tracing -o deploy/requirements/service.txt
	$(UV_COMPILE) pyproject.toml --extra gpu --extra tables --extra tracing -c deploy/requirements/service.txt -o deploy/requirements/gpu.txt
	echo 'torch; sys_platform == "never"' | $(UV_COMPILE) pyproject.toml --extra cpu --extra train --extra evaluate --extra compress --override - -c deploy/requirements/service.txt -o deploy/requirements/train.txt
	echo 'setuptools>=77' | $(UV_COMPILE) - -o deploy/requirements/build.txt
