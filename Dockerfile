# Images: service (CPU), gpu, torch, train. `docker compose up` builds `service`; `docker build --target gpu .` builds another one.
# Dependencies are pinned with their hashes (deploy/requirements, made by `make lock`), except torch: see the stage `train`.
# The stages are in an order that also works for builders that build stages one after another. python3 may be /usr/bin/python3 or
# /usr/local/bin/python3.
ARG BASE=python:3.11.14-slim-bookworm

# --- tools: pip and the build tools; no image contains this stage ---

FROM ${BASE} AS tools
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/venv
COPY deploy/requirements/build.txt /src/
RUN /opt/tools/bin/pip install --no-cache-dir --require-hashes -r /src/build.txt
ENV PIP="/opt/tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-deps"
# removes files that the service does not use: the tests of packages, and headers
ENV SLIM="find /opt/venv/lib -depth -type d ( -name tests -o -name include ) -exec rm -rf {} +"

FROM tools AS wheel
WORKDIR /src
COPY pyproject.toml README.md ./
COPY manifold manifold
COPY cli cli
COPY runtime runtime
COPY service service
RUN /opt/tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# --- service: ONNX Runtime on the CPU; no torch, no training code, no pip ---

FROM tools AS service-venv
COPY deploy/requirements/service.txt /src/
RUN ${PIP} --require-hashes -r /src/service.txt && ${SLIM}
COPY --from=wheel /wheels /wheels
RUN ${PIP} /wheels/*.whl

FROM ${BASE} AS base
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="manifold" \
      org.opencontainers.image.description="Trains, exports, serves and evaluates deep generative models" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin manifold
WORKDIR /srv/manifold
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MANIFOLD_HOST=0.0.0.0 MANIFOLD_LOG_FORMAT=json
USER manifold
EXPOSE 8000 8001
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["python3", "-m", "manifold.service.probe"]
CMD ["python3", "-m", "manifold.service"]

FROM base AS service
COPY --from=service-venv /opt/venv /opt/venv
COPY models models

# --- torch: the service with ONNX Runtime and torch for the CPU, for TorchScript artifacts ---

FROM service-venv AS torch-venv
# --build-arg TORCH="torch==2.13.0" installs the build of PyPI, which contains CUDA
ARG TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
RUN /opt/tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir ${TORCH} && ${SLIM}

FROM base AS torch
COPY --from=torch-venv /opt/venv /opt/venv
COPY models models

# --- gpu: the service with ONNX Runtime for CUDA 13 and cuDNN 9; these libraries come from PyPI, the driver comes from the host ---

FROM tools AS gpu-venv
COPY deploy/requirements/gpu.txt /src/
RUN ${PIP} --require-hashes -r /src/gpu.txt && ${SLIM}
COPY --from=wheel /wheels /wheels
RUN ${PIP} /wheels/*.whl

FROM base AS gpu
ENV MANIFOLD_DEVICE=cuda
COPY --from=gpu-venv /opt/venv /opt/venv
COPY models models

# --- train: training, export and evaluation ---

FROM tools AS train-venv
COPY deploy/requirements/train.txt /src/
RUN ${PIP} --require-hashes -r /src/train.txt
# the build of torch depends on the machine (CPU, or a version of CUDA): --build-arg TORCH="torch==2.13.0 --index-url ..."
ARG TORCH="torch==2.13.0"
RUN /opt/tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir ${TORCH}
WORKDIR /src
COPY pyproject.toml README.md ./
COPY manifold manifold
COPY cli cli
COPY runtime runtime
COPY service service
COPY training training
COPY evaluation evaluation
RUN ${PIP} --no-build-isolation .

FROM base AS train
USER root
RUN mkdir /sets && chown manifold /sets
USER manifold
# the folder for downloaded data sets and reference features
ENV XDG_CACHE_HOME=/sets MPLCONFIGDIR=/tmp/matplotlib
COPY --from=train-venv /opt/venv /opt/venv
WORKDIR /data
HEALTHCHECK NONE
ENTRYPOINT ["manifold"]
CMD ["--help"]

FROM service
