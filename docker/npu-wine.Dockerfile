# edgewright with OpenVINO's compiler for Intel's NPUs, under wine
#
#     docker build --file docker/npu-wine.Dockerfile --tag edgewright-npu-wine:0.1.0 .
#
# docs/docker.md says how to use it, and how to pin the base image by its digest.
ARG BASE=docker.io/library/debian:bookworm-20251229-slim
FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="edgewright-npu-wine" \
      org.opencontainers.image.description="edgewright with OpenVINO's compiler for Intel's NPUs, under wine" \
      org.opencontainers.image.version="${VERSION}"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc-mingw-w64-x86-64-win32 python3 python3-venv wine wine64 \
 && rm -rf /var/lib/apt/lists/*
# Dependencies first: they change less often than edgewright.
ARG EXTRAS=onnx,images,openvino
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
RUN edgewright toolchain install npu --yes \
 && chmod a+rwx /opt/toolchains/npu
RUN useradd --create-home --uid 1000 --no-log-init edgewright \
 && install --directory --owner edgewright /work
USER 1000
WORKDIR /work
ENTRYPOINT ["edgewright"]
