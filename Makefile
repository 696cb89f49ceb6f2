# `make serve` and `make test` do all the set-up on a fresh machine. Everything lives in .venv.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
PROCESSES ?= 3  # of tests: on two cores, one of three often waits for a server or a file
BIN := .venv/bin

.PHONY: serve test check lint format clean

serve: .venv/serve.done  ## the service on the shipped models; needs no torch
	$(BIN)/manifold serve --host $(HOST) --port $(PORT) $(if $(GRPC_PORT),--grpc-port $(GRPC_PORT))

test: .venv/dev.done .venv-tritonclient/done  ## everything that CI runs: tests in three processes; lint, types and the public client beside them
	PROCESSES=$(PROCESSES) tests/beside.sh

check: .venv/dev.done  ## lint, types and the tests that neither train nor export: a minute and a half
	PROCESSES=$(PROCESSES) tests/beside.sh --fast

lint: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/serve.done: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e '.[cpu,tables]'
	touch $@

.venv/dev.done: pyproject.toml client/pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e '.[cpu,train,tracing,dev]' -e client
	touch $@ .venv/serve.done

.venv-tritonclient/done:  ## the public client of the Open Inference Protocol, whose protobuf is not the service's
	$(PYTHON) -m venv .venv-tritonclient
	.venv-tritonclient/bin/pip install -q 'tritonclient[http,grpc]==2.73.0' 'pytest>=8.3'
	touch $@

clean:
	rm -rf .venv .venv-tritonclient

.PHONY: docs
docs: .venv/dev.done  ## renews what tests compare with the code, and the published pictures
	$(BIN)/manifold schema > docs/manifest.schema.json
	$(BIN)/manifold catalogue --page docs/models.md --readme README.md
	$(BIN)/python -c 'import json; from manifold.service.http.app import create_app; from manifold.service.settings import Settings; print(json.dumps(create_app(Settings()).app.openapi(), indent=1))' > docs/openapi.json
	$(BIN)/python -m tests.published

.PHONY: stubs
stubs: .venv/dev.done  ## renews the code that is made from proto/
	$(BIN)/python -m grpc_tools.protoc -Imanifold/service/stubs=proto --python_out=. --pyi_out=. --grpc_python_out=. proto/manifold.proto proto/inference.proto

.PHONY: lock
UV_COMPILE = $(BIN)/uv pip compile -q --upgrade --python-version 3.11 --python-platform linux --generate-hashes --no-emit-index-url --no-annotate --no-header
lock: .venv/dev.done  ## renews what the images are made of: exact versions with their hashes; torch stays outside
	$(BIN)/pip install -q uv
	$(UV_COMPILE) pyproject.toml --extra cpu --extra tables --extra tracing -o deploy/requirements/service.txt
	$(UV_COMPILE) pyproject.toml --extra gpu --extra tables --extra tracing -c deploy/requirements/service.txt -o deploy/requirements/gpu.txt
	echo 'torch; sys_platform == "never"' | $(UV_COMPILE) pyproject.toml --extra cpu --extra train --extra evaluate --extra compress --override - -c deploy/requirements/service.txt -o deploy/requirements/train.txt
	echo 'setuptools>=77' | $(UV_COMPILE) - -o deploy/requirements/build.txt
