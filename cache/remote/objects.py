"""The door to object storage: the objects below a URL such as ``s3://bucket/prefix``.

Credentials, region and endpoint come from the environment variables that every S3 client reads (``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` ...), or from the machine's own role.

Two kinds of errors: StoreError where nothing below the URL can be had (no such bucket, bad credentials, no network
when listing), and ObjectError, an OSError, where it is this one object: it is not there, or, as UnansweredError, it
may be and the server did not give it, even after retries.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from cache.disk.writing import StoreError
from configs import first_line

SILENCE = timedelta(seconds=30)  # a server that says nothing for so long is asked again
RETRIES = 5
BACKOFF = timedelta(seconds=0.2)  # before the first retry; doubled for each further one
_PART = 64 * 2**20  # bytes of one part of an upload; larger files go in several
_RENEW = "renew the credentials and run the same command to go on"
_USELESS = {  # codes of S3 errors that every other request would meet, too, and what to do
    "NoSuchBucket": "make it, or correct the URL",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": _RENEW,
    "InvalidToken": _RENEW,
    "RequestTimeTooSkewed": "set this machine's clock",
    "AuthorizationHeaderMalformed": "check AWS_REGION",
    "PermanentRedirect": "check AWS_REGION and AWS_ENDPOINT_URL",
}
_HELP = _USELESS | {"AccessDenied": "the credentials that are set do not allow it"}


class ObjectError(OSError):
    """An object that cannot be read or written, in one line that names it."""


class UnansweredError(ObjectError):
    """An object that may well be there: the server did not give or take it, even after retries."""


class ConflictError(Exception):
    """An object is not the one that was to be replaced."""


@dataclass(frozen=True)
class Found:
    """``version`` is the object's ETag, which changes with its content; without one, the time of its last change."""

    size: int
    version: str


@dataclass(frozen=True)
class Objects:
    """The objects below ``url``, by their paths relative to it. Equal URLs share their connections."""

    url: str

    def list(self, below: str = "") -> dict[str, Found]:
        """Every object below the folder ``below``: a request per 1000 of them. Raises StoreError."""
        store, cut = self._connect(), len(self._prefix)
        with _explained(f"{self.url}/{below}" if below else self.url, always_useless=True):
            pages = store.list(self._prefix + below, chunk_size=1000)
            return {found["path"][cut:]: Found(found["size"], _version(found)) for page in pages for found in page}

    def ask(self) -> None:
        """Whether the server answers at all: one page of the listing. Raises StoreError."""
        store = self._connect()
        with _explained(self.url, always_useless=True):
            next(iter(store.list(self._prefix)), None)

    def read(self, path: str) -> tuple[bytes, str]:
        """Content and version. Raises ObjectError, StoreError."""
        store = self._connect()
        with _explained(f"{self.url}/{path}"):
            result = store.get(self._prefix + path)
            return bytes(result.bytes()), _version(result.meta)

    def download(self, path: str, to: Path) -> Found:
        """Write an object into a file, piece by piece, and say which one came. Raises ObjectError, StoreError."""
        store = self._connect()
        with _explained(f"{self.url}/{path}"), to.open("wb") as file:
            result = store.get(self._prefix + path)
            for piece in result.stream(min_chunk_size=2**20):
                file.write(piece)
            if file.tell() != result.meta["size"]:
                raise UnansweredError(f"{self.url}/{path}: {file.tell()} of {result.meta['size']} bytes came")
            return Found(result.meta["size"], _version(result.meta))

    def write(self, path: str, content: bytes, replacing: str | None = "*") -> str:
        """Write an object and return its version.

        Args:
            replacing: the version that must be there (None: no object), so that nobody else's is overwritten; ``*``
                takes whatever there is.

        Raises:
            ConflictError: another version is there.
            ObjectError, StoreError: see above.
        """
        store = self._connect()
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "overwrite" if replacing == "*" else "create" if replacing is None else {"e_tag": replacing}
        with _explained(f"{self.url}/{path}"):
            try:
                done = store.put(self._prefix + path, content, mode=mode, chunk_size=_PART, max_concurrency=2)
            except (AlreadyExistsError, PreconditionError) as error:
                found, version = self.read(path)  # where an answer was lost, the retry meets what it wrote itself
                if found != content:
                    raise ConflictError(f"{self.url}/{path}") from error
                return version
            return done["e_tag"] or ""

    @property
    def _prefix(self) -> str:
        folder = self.url.split("://", 1)[1].partition("/")[2].strip("/")
        return f"{folder}/" if folder else ""

    def _connect(self) -> Any:
        scheme, rest = self.url.split("://", 1)
        return _connect(f"{scheme}://{rest.partition('/')[0]}")


@lru_cache
def _connect(bucket_url: str) -> Any:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise StoreError(f"{bucket_url}: object storage needs one package more: pip install 'emocache[s3]'") from None
    try:
        return from_url(
            bucket_url,
            client_options={
                "allow_http": True,  # spoken only where AWS_ENDPOINT_URL says so
                "connect_timeout": timedelta(seconds=5),
                "read_timeout": SILENCE,
                "timeout": timedelta(hours=1),  # of a whole request: there are large files and slow lines
            },
            retry_config={
                "max_retries": RETRIES,
                "retry_timeout": 2 * SILENCE,
                "backoff": {"init_backoff": BACKOFF, "max_backoff": timedelta(seconds=10), "base": 2},
            },
        )
    except (BaseError, ValueError, TypeError) as error:
        raise StoreError(f"{bucket_url}: not a URL of object storage: {first_line(error)}") from error


@contextmanager
def _explained(url: str, always_useless: bool = False) -> Iterator[None]:
    """obstore's errors run over many lines: say what the server said, in one, as the right kind of error."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        code, message = (_tag(name, str(error)) for name in ("Code", "Message"))
        said = f"{message.rstrip('.')} ({code})" if code else first_line(error)
        if "169.254.169.254" in said:
            said = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        elif not code and "HTTP error" in said:
            server = re.search(r"\w+://[^/ ]+", said)
            where = f"no answer from {server[0]}" if server else "the answer breaks off"
            said = f"{where}: check AWS_ENDPOINT_URL and the network, and run the same command to go on"
        elif code in _HELP:
            said += f": {_HELP[code]}"
        elif code and not isinstance(error, FileNotFoundError):
            said += f", after {RETRIES} retries: run the same command later to go on"
        if always_useless or code in _USELESS or "no credentials" in said:
            raise StoreError(f"{url}: {said}") from error
        if isinstance(error, FileNotFoundError):
            raise ObjectError(f"{url}: no such object") from error
        raise UnansweredError(f"{url}: {said}") from error


def _version(found: Any) -> str:
    return found["e_tag"] or found["last_modified"].isoformat()


def _tag(name: str, text: str) -> str:
    match = re.search(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return " ".join(match[1].split()) if match else ""
