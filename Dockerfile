# The command line on a CPU, with the versions the suite is checked with.
#   docker build -t x2sam-rt . && docker run --rm -v "$PWD:/data" x2sam-rt run bundle --video clip.mp4 -p "the boy" -o masked.mp4
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/x2sam-rt
ENV PATH=/opt/x2sam-rt/bin:$PATH
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
COPY requirements.lock /src/
RUN pip install --no-cache-dir --no-deps --require-hashes -r /src/requirements.lock
COPY . /src
RUN pip install --no-cache-dir --no-deps /src

FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/x2sam-rt /opt/x2sam-rt
ENV PATH=/opt/x2sam-rt/bin:$PATH
RUN useradd --create-home --uid 10001 user
USER 10001
WORKDIR /data
ENTRYPOINT ["x2sam-rt"]
