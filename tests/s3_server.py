"""A local S3-compatible server (moto) for tests of storage; imported by the conftest of the folders that need it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "fastserve-tests"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """``host:port`` of a server with one empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    yield f"{host}:{port}"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def uri_of(server: str, path: str) -> str:
    """A URI that pyarrow opens on the test server."""
    return f"s3://{path}?endpoint_override={server}&scheme=http&region=us-east-1"


@pytest.fixture
def s3_uri(s3_server: str, request: pytest.FixtureRequest) -> str:
    """A prefix of its own for each test."""
    prefix = "".join(letter if letter.isalnum() else "-" for letter in request.node.nodeid)
    return uri_of(s3_server, f"{BUCKET}/{prefix}")
