# syntax=docker/dockerfile:1
# Targets: gateway (no torch, no vLLM), worker (training, and the students that `serve` keeps) and student (vLLM's own
# server, for a model that Stillroom does not start). DEVICE is cpu or cuda. All run as a plain user on a read-only root:
# what they write is in /var/lib/stillroom and /tmp. Each holds a bill of its Python packages in /opt/stillroom/sbom.json.
FROM node:24-slim AS web
WORKDIR /src/dashboards/web
COPY dashboards/web/package.json dashboards/web/package-lock.json ./
RUN npm ci --omit=dev --no-audit --no-fund

FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY gateway gateway
COPY router router
COPY distill distill
COPY serving serving
COPY dashboards dashboards
COPY ledger ledger
COPY stillroom stillroom
COPY tools tools
COPY --from=web /src/dashboards/web/node_modules dashboards/web/node_modules
RUN python tools/build_web.py && python -m venv /opt/stillroom && /opt/stillroom/bin/pip install -c constraints.txt '.[otel,postgres,redis]'

# in a virtual environment of its own: the bill is not to be on the bill
FROM python:3.12-slim AS bill
RUN python -m venv /opt/bill && /opt/bill/bin/pip install --no-cache-dir cyclonedx-bom==7.5.0

FROM bill AS bill-gateway
COPY --from=build /opt/stillroom /opt/stillroom
RUN /opt/bill/bin/cyclonedx-py environment --output-reproducible -o /opt/stillroom/sbom.json /opt/stillroom/bin/python

FROM build AS build-student
ARG DEVICE=cpu
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libnuma1 && rm -rf /var/lib/apt/lists/*
RUN /opt/stillroom/bin/python tools/install_engine.py --constraints constraints.txt "$DEVICE"

FROM build-student AS build-worker
RUN /opt/stillroom/bin/pip install -c constraints.txt '.[train,otel,postgres,redis]'

FROM bill AS bill-student
COPY --from=build-student /opt/stillroom /opt/stillroom
RUN /opt/bill/bin/cyclonedx-py environment --output-reproducible -o /opt/stillroom/sbom.json /opt/stillroom/bin/python

FROM bill AS bill-worker
COPY --from=build-worker /opt/stillroom /opt/stillroom
RUN /opt/bill/bin/cyclonedx-py environment --output-reproducible -o /opt/stillroom/sbom.json /opt/stillroom/bin/python

FROM python:3.12-slim AS runtime
RUN groupadd --system --gid 10001 stillroom \
    && useradd --system --uid 10001 --gid 10001 --create-home --home-dir /var/lib/stillroom stillroom
ENV PATH=/opt/stillroom/bin:$PATH STILLROOM_HOME=/var/lib/stillroom PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/stillroom
VOLUME /var/lib/stillroom

# vLLM compiles its kernels' shims when it starts
FROM runtime AS engine
USER root
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libnuma1 && rm -rf /var/lib/apt/lists/*
USER 10001:10001

FROM engine AS worker
COPY --from=bill-worker /opt/stillroom /opt/stillroom
# no port to ask: it is well as long as its process is, and ends when it is not
HEALTHCHECK NONE
ENTRYPOINT ["stillroom"]
CMD ["worker"]

FROM engine AS student
COPY --from=bill-student /opt/stillroom /opt/stillroom
ENV DO_NOT_TRACK=1 VLLM_NO_USAGE_STATS=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["python", "-m", "vllm.entrypoints.launchers.api_server.entry", "--host", "0.0.0.0", "--port", "8000", "--served-model-name", "student", "--max-logprobs", "20"]
CMD ["--model", "/var/lib/stillroom/student"]

FROM runtime AS gateway
COPY --from=bill-gateway /opt/stillroom /opt/stillroom
ENV STILLROOM_GATEWAY__HOST=0.0.0.0
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ.get(\"STILLROOM_GATEWAY__PORT\", 8080)}/healthz', timeout=2)"]
ENTRYPOINT ["stillroom"]
CMD ["gateway"]
