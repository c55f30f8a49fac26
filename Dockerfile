# flexframe with its plugins, for use: docker build -t flexframe . && docker run --rm -it --gpus all -v "$PWD:/work" flexframe demo
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /opt/flexframe
WORKDIR /opt/flexframe
RUN pip install --no-cache-dir -r requirements.txt
ENV FLEXFRAME_HOME=/work/.flexframe HF_HOME=/work/.huggingface
WORKDIR /work
ENTRYPOINT ["flexframe"]
CMD ["--help"]
