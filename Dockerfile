# Serving only: no torch, no compiler, no test tools. The steps are the Makefile's (tests/tidy/test_docker.py).
FROM python:3.11-slim

# curl: existing deployments call `curl -fsS` inside the container for their health check.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends curl && rm -rf /var/lib/apt/lists/*

WORKDIR /app
ENV PYTHONUNBUFFERED=1 PORT=8080 DATA_DIR=/data MODELS_DIR=/models NUMBA_CACHE_DIR=/kernels

# Dependencies first: this layer stays cached while the code changes.
COPY pyproject.toml constraints.txt README.md ./
RUN python -m pip install --no-cache-dir --constraint constraints.txt --editable .

COPY openapi.yaml ./
COPY item_rules item_rules
COPY index_store index_store
COPY vector_client vector_client
COPY image_fetch image_fetch
COPY feeder feeder
COPY service service

# The two models that need no hub. For others mount a directory at /models (docs/OPERATIONS.md).
RUN python -m service models build builtin:multilingual-e5-small builtin:efficientnet-lite0 \
    && mkdir -p /data /kernels && chown -R 10001 /data /models /kernels
USER 10001
# The inner loops of search for this processor; a host with another one makes its own in some seconds.
RUN python -m index_store compile
VOLUME /data

EXPOSE 8080
HEALTHCHECK --start-period=180s --interval=10s --timeout=5s --retries=3 \
    CMD ["sh", "-c", "curl -fsS http://127.0.0.1:$PORT/health"]
CMD ["python", "-m", "service"]
