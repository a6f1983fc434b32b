# syntax=docker/dockerfile:1.7
# Images of FastServe-Ray. Targets: serve (no DeepSpeed, no compiler) and train (everything); each for CPUs or for CUDA:
#   docker build --target train --tag fastserve-ray:0.1.0 .
#   docker build --target serve --build-arg FLAVOUR=cuda --tag fastserve-ray:0.1.0-serve-cuda .
# Versions are those of constraints.txt. To pin the base by content: --build-arg PYTHON=3.11.13-slim-bookworm@sha256:...
ARG PYTHON=3.11.13-slim-bookworm
ARG FLAVOUR=cpu

FROM python:${PYTHON} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
WORKDIR /src
COPY constraints.txt requirements-serving.txt ./

# PyTorch alone, so that a change of anything else leaves this layer as it is.
FROM build AS torch-cpu
RUN pip install --no-deps --index-url https://download.pytorch.org/whl/cpu --constraint constraints.txt torch

FROM build AS torch-cuda
RUN pip install --constraint constraints.txt torch

FROM torch-${FLAVOUR} AS serving
RUN pip install --no-deps --requirement requirements-serving.txt
COPY pyproject.toml README.md LICENSE ./
COPY fastserve_ray fastserve_ray
RUN pip install --no-deps .
RUN python -m fastserve_ray.native /opt/venv/native

FROM torch-${FLAVOUR} AS training
COPY pyproject.toml README.md LICENSE ./
COPY fastserve_ray fastserve_ray
RUN pip install --constraint constraints.txt .
RUN python -m fastserve_ray.native /opt/venv/native

# The root may be read-only: what is written goes to /tmp and /cache.
FROM python:${PYTHON} AS runtime
RUN groupadd --gid 1000 fastserve \
    && useradd --uid 1000 --gid 1000 --create-home fastserve \
    && install --directory --owner 1000 --group 1000 /cache
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FASTSERVE_CACHE=/cache/fastserve \
    FASTSERVE_NATIVE=/opt/venv/native \
    HF_HOME=/cache/huggingface \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /home/fastserve
ENTRYPOINT ["fastserve"]
CMD ["--help"]

FROM runtime AS serve
COPY --from=serving /opt/venv /opt/venv
USER 1000:1000

# DeepSpeed builds its operations when they are first used, with this compiler.
FROM runtime AS train
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY --from=training /opt/venv /opt/venv
USER 1000:1000
