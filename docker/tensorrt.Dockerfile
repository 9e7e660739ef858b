# edgewright with TensorRT for NVIDIA GPUs of x86-64 machines
#
#     docker build --file docker/tensorrt.Dockerfile --tag edgewright-tensorrt:0.1.0 .
#
# docs/docker.md says how to use it, and how to pin the base image by its digest.
ARG BASE=nvcr.io/nvidia/tensorrt:25.08-py3
FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="edgewright-tensorrt" \
      org.opencontainers.image.description="edgewright with TensorRT for NVIDIA GPUs of x86-64 machines" \
      org.opencontainers.image.version="${VERSION}"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
# Dependencies first: they change less often than edgewright.
ARG EXTRAS=onnx,images
COPY docker/constraints.txt /build/
COPY pyproject.toml README.md /build/edgewright/
COPY calibration /build/edgewright/calibration
COPY pipeline /build/edgewright/pipeline
COPY targets /build/edgewright/targets
RUN python3 -m venv --system-site-packages /opt/edgewright \
 && /opt/edgewright/bin/pip install --no-cache-dir --constraint /build/constraints.txt "/build/edgewright[${EXTRAS}]" \
 && rm -rf /build
ENV PATH=/opt/edgewright/bin:$PATH \
    EDGEWRIGHT_TOOLCHAINS=/opt/toolchains
RUN useradd --create-home --uid 1001 --no-log-init edgewright \
 && install --directory --owner edgewright /work
USER 1001
WORKDIR /work
ENTRYPOINT ["edgewright"]
