"""A server that speaks the S3 protocol, in a child process on localhost, and what tests do behind a program's back.

A room's conftest.py imports the fixtures ``server`` and ``s3``.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest

from cache.remote import objects

if TYPE_CHECKING:
    from obstore.store import S3Store


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    log: Path

    @property
    def bucket(self) -> "S3Store":
        from obstore.store import S3Store

        return S3Store(
            "bucket",
            endpoint=self.endpoint,
            access_key_id="key",
            secret_access_key="secret",
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def listed(self, below: str = "") -> list[str]:
        return [found["path"] for page in self.bucket.list(below) for found in page]

    def read(self, key: str) -> bytes:
        return bytes(self.bucket.get(key).bytes())

    def write(self, key: str, content: bytes) -> None:
        self.bucket.put(key, content)

    def delete(self, key: str) -> None:
        self.bucket.delete(key)

    def clear(self) -> None:
        self._post("moto-api/reset")
        self.make_bucket()

    def make_bucket(self) -> None:
        urlopen(Request(f"{self.endpoint}/bucket", method="PUT")).close()

    @contextmanager
    def requests(self) -> Iterator[list[str]]:
        """What was asked meanwhile, such as ``PUT /bucket/key``."""
        before, asked = len(self._asked()), list[str]()
        yield asked
        asked += self._asked()[before:]

    @contextmanager
    def refusing_keys(self) -> Iterator[None]:
        """Meanwhile the server knows no access key."""
        self._check_keys_after("0")
        yield
        self._check_keys_after("1e9")

    def _asked(self) -> list[str]:
        return re.findall(r'"(\w+ \S+) HTTP', self.log.read_text())

    def _check_keys_after(self, n_requests: str) -> None:
        self._post("moto-api/reset-auth", n_requests)

    def _post(self, path: str, content: str = "") -> None:
        urlopen(Request(f"{self.endpoint}/{path}", content.encode(), {"Content-Type": "text/plain"})).close()


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server that has one empty bucket, named ``bucket``; its log lies in ``folder``. No key is checked."""
    log = folder / "s3.log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "MOTO_PORT": "0"})
    try:
        for _ in range(600):
            started = re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())
            if started:
                break
            time.sleep(0.05)
        else:
            raise AssertionError(log.read_text())
        server = S3Server(started[1], log)
        server.make_bucket()
        yield server
    finally:
        process.kill()
        process.wait()


def use_server(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the program at a server, as a user's environment would."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    objects._connect.cache_clear()  # connections outlive a change of the environment


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
