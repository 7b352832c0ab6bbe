# pasys without embedded servers: one image for every daemon and for the command line.
#
#   docker build -t pasys:local .

FROM python:3.12-slim
RUN useradd --create-home --home-dir /var/lib/pasys pasys && install -d -o pasys /var/lib/pasys/psp
WORKDIR /opt/pasys
COPY pyproject.toml constraints.txt README.md ./
COPY pasys pasys
COPY daemons daemons
COPY migrations migrations
RUN pip install --no-cache-dir -c constraints.txt .
WORKDIR /var/lib/pasys
USER pasys
ENV PASYS_HOME=/var/lib/pasys
ENTRYPOINT ["pasys"]
