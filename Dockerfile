# The service on the CPU: no torch, no training code. Works where python3 is /usr/bin/python3 and where it is /usr/local/bin/python3.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python3 -m venv /opt/venv
COPY pyproject.toml README.md cli.py ./
# dependencies first, so that a change of code leaves this layer cached
RUN mkdir runtime service && touch runtime/__init__.py service/__init__.py && /opt/venv/bin/pip install --no-cache-dir '.[cpu,tables]' && /opt/venv/bin/pip uninstall -y manifold
COPY runtime runtime
COPY service service
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps . && find /opt/venv -name __pycache__ -prune -exec rm -rf {} +

FROM python:3.11-slim AS service
LABEL org.opencontainers.image.title="manifold" \
      org.opencontainers.image.description="Deep generative models over HTTP and gRPC"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin manifold
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/manifold
COPY models models
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 MANIFOLD_HOST=0.0.0.0 MANIFOLD_LOG_FORMAT=json
USER manifold
EXPOSE 8000 8001
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
CMD ["python3", "-m", "service"]
