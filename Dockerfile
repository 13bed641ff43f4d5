# The image of the Home Assistant add-on, and of plain docker: s6-overlay supervises the server, which runs as user wlk.
#
#   docker build -t wyoming-wlk .                                                              for CPUs
#   docker build -t wyoming-wlk:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .         for NVIDIA GPUs

FROM ghcr.io/home-assistant/base-debian:bookworm AS build

ARG TORCH=torch==2.13.0
# Where torch comes from. PyPI has the CUDA build; empty means the package index that pip is configured for.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends binutils python3 python3-venv

RUN python3 -m venv /opt/wyoming-wlk \
    && /opt/wyoming-wlk/bin/pip install -q ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"

COPY pyproject.toml README.md LICENSE /src/
COPY wyoming_wlk /src/wyoming_wlk
# Behind the installation goes what nothing imports when the server runs: headers, tests, tools, tables of symbols. pip
# stays, because models may come from the package index.
RUN /opt/wyoming-wlk/bin/pip install -q '/src[bergamot]' \
    && /opt/wyoming-wlk/bin/pip uninstall -q -y setuptools \
    && libraries=$(echo /opt/wyoming-wlk/lib/python3*/site-packages) && torch=$libraries/torch \
    && find "$torch/bin" -type f ! -name torch_shm_manager -delete \
    && rm -rf "$torch/test" "$torch/include" "$torch/share" "$torch/bin/upgrader_models" "$torch"/lib/*_test.so \
    && for library in numpy sympy networkx mpmath; do \
        find "$libraries/$library" -type d -name tests -prune -exec rm -rf {} + || exit 1; done \
    && find "$libraries" \( -name '*.a' -o -name '*.pyi' \) -delete \
    && strip --strip-unneeded "$torch/lib/libtorch_cpu.so" "$torch/lib/libtorch_python.so"


FROM ghcr.io/home-assistant/base-debian:bookworm

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/debconf/*-old \
    && groupadd --system --gid 10300 wlk \
    && useradd --system --uid 10300 --gid wlk --no-create-home --home-dir /data/home --shell /usr/sbin/nologin wlk \
    && install -d -o wlk -g wlk /data

COPY --from=build /opt/wyoming-wlk /opt/wyoming-wlk
COPY addon/rootfs /

# Services have ended before s6 looks for what else runs. onnxruntime would report its use to its maker.
ENV PATH=/opt/wyoming-wlk/bin:$PATH \
    WLK_DATA_DIR=/data \
    S6_KILL_GRACETIME=500 \
    ORT_DISABLE_TELEMETRY=1

EXPOSE 10300 10380
HEALTHCHECK --interval=1m --timeout=10s --start-period=2m CMD ["wyoming-wlk", "health"]

ARG BUILD_VERSION=0.1.0
ARG BUILD_ARCH=amd64
LABEL io.hass.version="$BUILD_VERSION" \
    io.hass.type="app" \
    io.hass.arch="$BUILD_ARCH" \
    org.opencontainers.image.title="wyoming-wlk" \
    org.opencontainers.image.description="Streaming speech-to-text for Home Assistant and live captions" \
    org.opencontainers.image.source="https://github.com/wyoming-wlk/wyoming-wlk" \
    org.opencontainers.image.licenses="Apache-2.0"
