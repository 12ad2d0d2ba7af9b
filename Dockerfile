# One image for every role of a job and for the load generator. docs/DEPLOYING.md says how to use it.
#
#   docker build --tag megaphone-kafka:0.1.0 .
#
# Kernels are compiled for a processor. `generic` is every one of the architecture; where all machines
# are known to have more, say so and they may use it: --build-arg CPU=x86-64-v3

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /opt/megaphone
COPY requirements/runtime.txt requirements.txt
# Wheels only: nothing is compiled here, and hashes say that they are those of the tests.
RUN python -m venv venv \
 && venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary :all: --requirement requirements.txt \
 && venv/bin/python -m pip uninstall --yes pip setuptools \
 && rm requirements.txt
COPY LICENSE ./
COPY megaphone lib/megaphone
COPY loadgen lib/loadgen
COPY service lib/service
COPY deploy/image bin
# What an installer would leave: the version, which /metrics tells.
ARG VERSION=0.1.0
RUN mkdir "lib/megaphone_kafka-$VERSION.dist-info" \
 && printf 'Metadata-Version: 2.1\nName: megaphone-kafka\nVersion: %s\n' "$VERSION" \
      > "lib/megaphone_kafka-$VERSION.dist-info/METADATA"

# Kernels, by the code that will run them, under the paths that they will have then.
ARG CPU=generic
ENV NUMBA_CPU_NAME=$CPU \
    NUMBA_CPU_FEATURES= \
    NUMBA_CACHE_DIR=/tmp/kernels/numba \
    MEGAPHONE_CACHE_DIR=/tmp/kernels/generated \
    PYTHONPATH=/opt/megaphone/lib
RUN venv/bin/python -m compileall -q --invalidation-mode unchecked-hash lib \
 && venv/bin/python -m service.warming \
 && mv /tmp/kernels kernels


FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="Megaphone for Kafka" \
      org.opencontainers.image.description="Stream processing on Kafka whose keyed state moves between live workers" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11.14-slim-bookworm"
# tini is process 1: it hands signals on from the first moment on and collects orphans.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini=0.19.0-* \
 && rm -rf /var/lib/apt/lists/* \
 && python -m pip uninstall --yes pip setuptools wheel \
 && install --directory --owner=10001 --group=10001 --mode=0700 \
      /var/lib/megaphone /var/lib/megaphone-keys \
 && install --directory /flows
COPY --from=build /opt/megaphone /opt/megaphone
ARG CPU=generic
# KERNELS is where they lie, the two behind it where a process looks for them (deploy/image/entrypoint).
ENV PATH=/opt/megaphone/bin:/opt/megaphone/venv/bin:$PATH \
    PYTHONPATH=/opt/megaphone/lib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    KERNELS=/opt/megaphone/kernels \
    NUMBA_CPU_NAME=$CPU \
    NUMBA_CPU_FEATURES= \
    NUMBA_CACHE_DIR=/tmp/kernels/numba \
    MEGAPHONE_CACHE_DIR=/tmp/kernels/generated \
    MEGAPHONE_HTTP__PORT=8080
USER 10001:10001
# Where module:flow is looked for; images of your own put theirs here.
WORKDIR /flows
# Links to other processes, and /metrics, /healthz, /readyz.
EXPOSE 7070 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-m", "service.healthcheck"]
ENTRYPOINT ["tini", "--", "/opt/megaphone/bin/entrypoint"]
CMD ["megaphone", "--help"]
