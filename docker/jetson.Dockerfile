# edgewright's device program with TensorRT, for Jetson
#
#     docker build --file docker/jetson.Dockerfile --tag edgewright-jetson:0.1.0 .
#
# Runs on the Jetson itself, where TensorRT builds its engines. BASE follows the board's JetPack: r36.4.0 is
# JetPack 6 (TensorRT 10.3), r35.4.1 JetPack 5 (TensorRT 8.5, Python 3.8). docs/docker.md has more.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE} AS program
WORKDIR /build
COPY targets targets
RUN python3 -c "from pathlib import Path; from targets.zipapp import device_zipapp; Path('edgewright-device.pyz').write_bytes(device_zipapp())" \
 && chmod 755 edgewright-device.pyz

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="edgewright-jetson" \
      org.opencontainers.image.description="edgewright's device program with TensorRT, for Jetson" \
      org.opencontainers.image.version="${VERSION}"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-libnvinfer python3-numpy \
 && rm -rf /var/lib/apt/lists/*
COPY --from=program /build/edgewright-device.pyz /usr/local/bin/
RUN useradd --create-home --uid 1000 --groups video --no-log-init edgewright \
 && install --directory --owner edgewright /work
USER 1000
WORKDIR /work
ENTRYPOINT ["edgewright-device.pyz"]
CMD ["probe"]
