"""What tests of several rooms share."""

from collections.abc import Iterator

import pytest
from s3_server import S3Server, s3_server, use_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server with an empty bucket, and the environment that leads to it."""
    use_server(server.endpoint, monkeypatch)
    yield server
    server.clear()
