# One image for notebooks, pipeline components and the service; a smaller one for the service alone.
#
#   docker build -t recpolicy:0.1.0 .                                   everything: TensorFlow, Kubeflow SDK, Jupyter
#   docker build -t recpolicy-serving:0.1.0 --target serving .          the service: no TensorFlow, no pip
#
# Any Debian-like base with Python 3.11 and venv works (BASE_IMAGE). All packages come from poetry.lock, each checked
# against its hash. For a private package index or CA, mount a pip.conf and the certificates while building
# (docs/how-to/docker.md). Heredocs are out, because buildah and older engines do not support them.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# --- Poetry, pinned and hashed like the packages.
FROM ${BASE_IMAGE} AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY scripts/lib/tools.txt /build/tools.txt
RUN python3 -m venv /opt/tools \
    && /opt/tools/bin/python -m pip install --only-binary :all: --require-hashes --requirement /build/tools.txt
WORKDIR /build

# --- The locked requirements of each image.
FROM tools AS requirements
COPY pyproject.toml poetry.lock ./
RUN /opt/tools/bin/poetry export --extras "serve postgres" --output serving.txt \
    && /opt/tools/bin/poetry export --extras "train report pipelines serve postgres notebook gymnasium" --output full.txt

# --- recpolicy itself, as a folder tree to copy over the packages. A separate layer: a change of our code does not ship
# 3 GB again.
FROM tools AS project
COPY pyproject.toml poetry.lock README.md LICENSE ./
COPY src ./src
RUN /opt/tools/bin/poetry build --format wheel \
    && python3 -m venv --without-pip /opt/venv \
    && /opt/tools/bin/python -m pip --python /opt/venv/bin/python install \
        --no-deps --no-index --no-warn-script-location --root /overlay dist/*.whl

# --- The base of both images.
FROM ${BASE_IMAGE} AS common
LABEL org.opencontainers.image.title="recpolicy" \
      org.opencontainers.image.description="From a table of ratings to a recommendation policy that can be trusted." \
      org.opencontainers.image.licenses="Apache-2.0"
# USER below takes a number, so that Kubernetes can verify that it is not root.
RUN useradd --no-log-init --uid 1000 --user-group --create-home --shell /bin/bash recpolicy \
    && install --directory --owner 1000 --group 1000 \
        /workspace /workspace/runs /workspace/state /workspace/ml-100k /home/recpolicy/.cache
# TF-Agents needs the legacy Keras, set before the first import of TensorFlow.
ENV PATH=/opt/venv/bin:$PATH \
    TF_USE_LEGACY_KERAS=1 \
    TF_CPP_MIN_LOG_LEVEL=3 \
    PYTHONUNBUFFERED=1
COPY scripts/lib/image/entrypoint /usr/local/bin/recpolicy-entrypoint
COPY scripts/lib/image/healthcheck.py /usr/local/lib/recpolicy/healthcheck.py
WORKDIR /workspace
# Requests /healthz of the service. The command line of process 1 says what the container runs: a demo, a notebook or a
# pipeline step has no /healthz and is healthy as long as it runs.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "/usr/local/lib/recpolicy/healthcheck.py"]
ENTRYPOINT ["recpolicy-entrypoint"]

# --- The service alone.
FROM requirements AS serving-packages
RUN python3 -m venv --without-pip /opt/venv \
    && /opt/tools/bin/python -m pip --python /opt/venv/bin/python install \
        --only-binary :all: --require-hashes --requirement serving.txt

FROM common AS serving
COPY --from=serving-packages /opt/venv /opt/venv
COPY --from=project /overlay/ /
COPY scripts/lib/image/serving.toml /usr/local/lib/recpolicy/serving.toml
# A policy may be mounted read-only, so events go to a separate folder. Mount a volume here to keep them.
ENV RECPOLICY_STATE=/workspace/state \
    RECPOLICY_CONFIG=/usr/local/lib/recpolicy/serving.toml
USER 1000:1000
EXPOSE 8080
CMD ["serve"]

# --- Everything. pip stays: `recpolicy data fetch` and Kubeflow's components call it. gym 0.23 and kfp-server-api have
# no wheels. They are built with the lock's setuptools, because an isolated build would download an unchecked one.
# TensorFlow's C++ headers (350 MB) only serve the compilation of operations.
FROM requirements AS full-packages
RUN python3 -m venv /opt/venv \
    && sed -n '/^setuptools==/,/[^\\]$/p' full.txt > setuptools.txt \
    && /opt/venv/bin/python -m pip install --only-binary :all: --require-hashes --requirement setuptools.txt \
    && /opt/venv/bin/python -m pip install --no-build-isolation --use-pep517 --require-hashes --requirement full.txt \
    && rm -r /opt/venv/lib/python3.11/site-packages/tensorflow/include

FROM common AS full
COPY --from=full-packages /opt/venv /opt/venv
COPY --from=project /overlay/ /
COPY --chown=1000:1000 configs ./configs
COPY --chown=1000:1000 notebooks ./notebooks
USER 1000:1000
EXPOSE 8080 8888
CMD ["--help"]
