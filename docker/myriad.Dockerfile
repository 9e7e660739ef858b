# edgewright with OpenVINO 2021.4.2 for Myriad X (OAK cameras)
#
#     docker build --file docker/myriad.Dockerfile --tag edgewright-myriad:0.1.0 .
#
# docs/docker.md says how to use it, and how to pin the base image by its digest.
ARG BASE=docker.io/library/debian:bookworm-20251229-slim
FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="edgewright-myriad" \
      org.opencontainers.image.description="edgewright with OpenVINO 2021.4.2 for Myriad X (OAK cameras)" \
      org.opencontainers.image.version="${VERSION}"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libusb-1.0-0 python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
# Dependencies first: they change less often than edgewright.
ARG EXTRAS=onnx,images
COPY docker/constraints.txt /build/
COPY pyproject.toml README.md /build/edgewright/
COPY calibration /build/edgewright/calibration
COPY pipeline /build/edgewright/pipeline
COPY targets /build/edgewright/targets
RUN python3 -m venv /opt/edgewright \
 && /opt/edgewright/bin/pip install --no-cache-dir --constraint /build/constraints.txt "/build/edgewright[${EXTRAS}]" \
 && rm -rf /build
ENV PATH=/opt/edgewright/bin:$PATH \
    EDGEWRIGHT_TOOLCHAINS=/opt/toolchains
# Intel's licence of this toolchain is yours to accept, and does not let the image be passed on.
ARG ACCEPT_INTEL_LICENCE=no
RUN test "${ACCEPT_INTEL_LICENCE}" = yes \
 || { echo "read Intel's licence (docs/docker.md), then add: --build-arg ACCEPT_INTEL_LICENCE=yes" >&2; exit 1; }
RUN edgewright toolchain install myriad --yes
RUN useradd --create-home --uid 1000 --no-log-init edgewright \
 && install --directory --owner edgewright /work
USER 1000
WORKDIR /work
ENTRYPOINT ["edgewright"]
