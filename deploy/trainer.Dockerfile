# A trainer. From the clone: docker build -f deploy/trainer.Dockerfile -t gymnast-trainer .
# PyPI's torch brings CUDA along and takes a GPU where the container is given one (compose.gpu.yaml). For an image a
# third of the size without a GPU: --build-arg TORCH_INDEX=ADDRESS of an index with CPU builds of torch.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim-bookworm
ARG EXTRAS=trainer,ray,postgres
ARG TORCH_INDEX=""
ENV OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 10001 gymnast && install -d -o gymnast /data
COPY constraints.txt /opt/constraints.txt
COPY --from=build /dist /opt/dist
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip install --no-cache-dir --constraint /opt/constraints.txt \
    "$(ls /opt/dist/*.whl)[$EXTRAS]"
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 50051 8600
ENTRYPOINT ["gymnast"]
CMD ["serve", "--folder", "/data/trainer", "--host", "0.0.0.0", "--port", "50051", "--console-host", "0.0.0.0"]
