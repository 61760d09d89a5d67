# docker build -t mdistill . && docker run --rm -v "$PWD:/data" mdistill distill crystal.cif --quick
# A compiler stays in the image: students are compiled for the processor that runs them.
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
ARG EXTRAS=sevennet
COPY . /src
RUN pip install --no-cache-dir --constraint /src/constraints.txt "/src[$EXTRAS]" && rm -rf /src
RUN useradd --create-home user && mkdir /data && chown user /data
USER user
WORKDIR /data
ENV MDISTILL_CACHE=/home/user/.cache/mdistill
ENTRYPOINT ["mdistill"]
CMD ["--help"]
