# syntax=docker/dockerfile:1
# Targets: gateway (no torch, no vLLM) and worker (training and the student's engine). Both run as a plain user.
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
RUN python tools/build_web.py && python -m venv /opt/stillroom && /opt/stillroom/bin/pip install -c constraints.txt .

FROM build AS build-worker
ARG DEVICE=cpu
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libnuma1 && rm -rf /var/lib/apt/lists/*
RUN /opt/stillroom/bin/python tools/install_engine.py --constraints constraints.txt "$DEVICE" \
    && /opt/stillroom/bin/pip install -c constraints.txt '.[train]'

FROM python:3.12-slim AS runtime
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/stillroom stillroom
ENV PATH=/opt/stillroom/bin:$PATH STILLROOM_HOME=/var/lib/stillroom PYTHONUNBUFFERED=1
USER stillroom
WORKDIR /var/lib/stillroom
VOLUME /var/lib/stillroom
ENTRYPOINT ["stillroom"]

FROM runtime AS worker
USER root
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libnuma1 && rm -rf /var/lib/apt/lists/*
USER stillroom
COPY --from=build-worker /opt/stillroom /opt/stillroom
CMD ["worker"]

FROM runtime AS gateway
COPY --from=build /opt/stillroom /opt/stillroom
ENV STILLROOM_GATEWAY__HOST=0.0.0.0
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
CMD ["gateway"]
