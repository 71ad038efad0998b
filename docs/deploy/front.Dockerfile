# The front end: bottlekit without torch. Build it from the root of the sources:
#   docker build -f docs/deploy/front.Dockerfile -t bottlekit-front .
FROM python:3.12-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY bottlekit bottlekit
COPY plugins plugins
RUN pip install --no-cache-dir -c constraints.txt ".[metrics,triton]"

# No privilege is needed. The fleet and the certificates are mounted, and readable for this user.
WORKDIR /
USER 10001
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 9090
ENTRYPOINT ["bottlekit"]
CMD ["serve", "--help"]
