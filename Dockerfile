# Serving only: no torch, no compiler, no test tools. The steps are the Makefile's (tests/tidy/test_docker.py).
# Pinned by digest; `make pin` renews it.
FROM python:3.11-slim@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7

# curl: existing deployments call `curl -fsS` inside the container for their health check.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends curl && rm -rf /var/lib/apt/lists/*

WORKDIR /app
ENV PYTHONUNBUFFERED=1 PORT=8080 DATA_DIR=/data MODELS_DIR=/models NUMBA_CACHE_DIR=/kernels

# Dependencies first: this layer stays cached while the code changes.
COPY pyproject.toml requirements.lock constraints.txt README.md ./
RUN python -m pip install --no-cache-dir --require-hashes -r requirements.lock \
    && python -m pip install --no-cache-dir --no-deps --no-build-isolation --editable .

COPY openapi.yaml ./
COPY item_rules item_rules
COPY index_store index_store
COPY vector_client vector_client
COPY image_fetch image_fetch
COPY log_lines log_lines
COPY feeder feeder
COPY service service

# The models that need no hub, and that of pictures which served before. For others mount a directory at /models (docs/OPERATIONS.md).
RUN python -m service models build builtin:multilingual-e5-small builtin:efficientnet-lite0-views builtin:efficientnet-lite0 \
    && mkdir -p /data /kernels /state /models/.prepared \
    && chown -R 10001 /data /models /kernels /state
USER 10001
# The inner loops of search for this processor; a host with another one makes its own in some seconds.
RUN python -m index_store compile
VOLUME /data

EXPOSE 8080
HEALTHCHECK --start-period=180s --interval=10s --timeout=5s --retries=3 \
    CMD ["sh", "-c", "curl -fsS http://127.0.0.1:$PORT/health"]
CMD ["python", "-m", "service"]
