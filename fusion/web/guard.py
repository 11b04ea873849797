"""In front of every request: whose it may be, and how large."""

import asyncio
import base64
import binascii
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from fusion.web.limits import is_loopback

WRONG_SECONDS = 1.0  # until a wrong password is answered
ALWAYS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
SMALL = 1 << 20  # bytes of a request beside its files


class TooLarge(Exception):
    """A body that grew beyond its limit while it was read."""


@dataclass(frozen=True)
class Guard:
    """An ASGI application in front of another.

    Without a password, requests must come to a name of this machine's loopback: another site's name that was made to
    point here (DNS rebinding) is refused. Requests that a page of another site sends are refused in any case. A body
    that is too large is refused before it is read, or, where its length is not said, once it has grown too large.

    Args:
        password: by HTTP basic, with any user name; None: nobody is asked.
        megabytes: of a body.
        note: is told of every answer: the route's path, and the status.
    """

    app: Any
    password: str | None
    megabytes: int
    note: Callable[[str, int], object]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = self.megabytes * 10**6 + SMALL
        too_large = (413, f"larger than {self.megabytes} MB, which is the most", {"connection": "close"})
        refused = await self._refused(headers)
        length = headers.get("content-length", "")
        if refused is None and length.isdigit() and int(length) > most:
            refused = too_large
        began = False

        async def noting(message: Any) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                self.note(getattr(scope.get("route"), "path", "other"), message["status"])
                message["headers"] = [*message["headers"], *ALWAYS]
            await send(message)

        if refused is not None:
            await answer(noting, *refused)
            return
        try:
            await self.app(scope, _limited(receive, most), noting)
        except TooLarge:
            if not began:
                await answer(noting, *too_large)

    async def _refused(self, headers: Headers) -> tuple[int, str, dict[str, str]] | None:
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname if _is_plain(host) else None
        if self.password is None and not (name and is_loopback(name)):
            return 421, "not the name of this machine: open http://127.0.0.1 with the port", {}
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != host if origin != "null" else True
        if (origin is not None and foreign) or headers.get("sec-fetch-site") == "cross-site":
            return 403, "sent by a page of another site", {}
        if self.password is not None and not _is_right(headers.get("authorization", ""), self.password):
            await asyncio.sleep(WRONG_SECONDS)
            return 401, "a password is needed (HTTP basic, any user)", {"www-authenticate": 'Basic realm="EmoCache"'}
        return None


def _is_plain(host: str) -> bool:
    return bool(host) and not set(host) & set("/@?#\\ ")


def _is_right(given: str, password: str) -> bool:
    scheme, _, credentials = given.partition(" ")
    try:
        said = base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        said = b""
    return secrets.compare_digest(said, password.encode()) and scheme.lower() == "basic"


def _limited(receive: Callable[[], Any], most: int) -> Callable[[], Any]:
    n = 0

    async def limited() -> Any:
        nonlocal n
        message = await receive()
        n += len(message.get("body", b""))
        if n > most:
            raise TooLarge
        return message

    return limited


async def answer(send: Any, status: int, line: str, headers: dict[str, str]) -> None:
    """One line of JSON."""
    body = json.dumps({"error": line}).encode()
    sent = {"content-type": "application/json", "content-length": str(len(body))} | headers
    raw = [(name.encode(), value.encode()) for name, value in sent.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
