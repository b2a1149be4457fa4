# The images of docker-compose.yml: `cpu` (API, loops, CPU worker) and `gpu` (CUDA worker with flash-attn).
# NEVER BUILT OR RUN where this was written: there is no Docker there. The tests check what can be checked
# without it: that every file, extra and module named here and in docker-compose.yml exists.
#
#   docker build --target cpu -t palimpsest:cpu .
#   docker build --target gpu -t palimpsest:gpu .
#
# TORCH and TORCH_INDEX_URL choose another build of PyTorch, as they do for make.
ARG TORCH=torch==2.13.0
# flash-attn is compiled: the toolkit's major version has to be that of the PyTorch build.
ARG CUDA=13.0.2

# CPU ------------------------------------------------------------------------------------------------
FROM python:3.11-slim-bookworm AS cpu
ARG TORCH
ARG TORCH_INDEX_URL=
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
# PyTorch first and alone: the largest layer, which a change of our code does not touch.
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$TORCH"
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY api api
COPY extraction extraction
COPY migrations migrations
COPY namm_runtime namm_runtime
COPY palimpsest palimpsest
COPY palimpsest_client palimpsest_client
COPY store store
COPY worker worker
# torch stays as it is.
RUN grep -v '^torch==' constraints.txt > /tmp/constraints.txt \
    && pip install -c /tmp/constraints.txt '.[service,s3]'
# Documents are on a volume that this account owns.
RUN useradd --system --uid 10001 --home-dir /data palimpsest && install -d -o palimpsest -m 0700 /data
USER palimpsest
VOLUME /data

# GPU ------------------------------------------------------------------------------------------------
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS gpu-build
ARG TORCH
ARG TORCH_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/venv/bin:$PATH
RUN apt-get update && apt-get install -y --no-install-recommends python3-dev python3-venv build-essential \
    && rm -rf /var/lib/apt/lists/* && python3 -m venv /venv
WORKDIR /app
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$TORCH"
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY api api
COPY extraction extraction
COPY migrations migrations
COPY namm_runtime namm_runtime
COPY palimpsest palimpsest
COPY palimpsest_client palimpsest_client
COPY store store
COPY worker worker
# No build isolation: flash-attn compiles against the PyTorch that is already here.
RUN grep -v '^torch==' constraints.txt > /tmp/constraints.txt \
    && pip install setuptools wheel packaging ninja \
    && pip install -c /tmp/constraints.txt --no-build-isolation '.[service,s3,gpu,large]'

FROM nvidia/cuda:${CUDA}-runtime-ubuntu24.04 AS gpu
ENV PYTHONUNBUFFERED=1 PATH=/venv/bin:$PATH
RUN apt-get update && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=gpu-build /venv /venv
RUN useradd --system --uid 10001 --home-dir /data palimpsest && install -d -o palimpsest -m 0700 /data
WORKDIR /app
USER palimpsest
VOLUME /data
