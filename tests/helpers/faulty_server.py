"""A proxy before the S3 server of the tests that answers wrongly where a test says so.

with faulty(server.endpoint, lambda method, path: "503" if method == "PUT" else None) as endpoint:
    use_server(endpoint, monkeypatch)
"""

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Faults = Callable[[str, str], str | None]  # of a method and a path with its query: the name of a fault, or none
ERRORS = {
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "500": (500, "InternalError", "We encountered an internal error."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
    "gone": (404, "NoSuchKey", "The specified key does not exist."),
}
PASSING = ("503", "500", "reset", "cut", "lost", "slow")


def at_random(seed: int, share: float, kinds: tuple[str, ...] = PASSING) -> Faults:
    """Each request fails with the probability ``share``."""
    rng = random.Random(seed)
    return lambda method, path: rng.choice(kinds) if rng.random() < share else None


@contextmanager
def faulty(endpoint: str, faults: Faults, met: Counter[str] | None = None) -> Iterator[str]:
    """The endpoint of a proxy before ``endpoint``; ``met`` counts the requests by what was done to them.

    Faults: those in ``ERRORS``; ``reset`` (nothing is done, the connection breaks), ``lost`` (it is done, and the
    answer breaks), ``cut`` (half of the body comes), ``slow`` (0.05 s), ``stall`` (no answer for as long as the proxy
    lives), ``stale`` (the first content that was read under this path, under the newest ETag).
    """
    upstream = urlsplit(endpoint)
    over = threading.Event()
    first: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults(self.command, self.path)
            if met is not None:
                met[fault or "none"] += 1
            if fault == "stall":
                over.wait()
            if fault in ("stall", "reset"):
                return self.hang_up()
            if fault in ERRORS:
                status, code, message = ERRORS[fault]
                text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
                return self.reply(status, {"Content-Type": "application/xml"}, text, len(text))
            if fault == "slow":
                time.sleep(0.05)
            connection = HTTPConnection(str(upstream.hostname), upstream.port)
            with suppress(ConnectionError):
                connection.request(self.command, self.path, sent, dict(self.headers))
                response = connection.getresponse()
                content = response.read()
                connection.close()
                if fault == "lost":
                    return self.hang_up()
                if self.command == "GET" and response.status == 200:
                    former = first.setdefault(self.path, content)
                    content = former if fault == "stale" else content
                about = {k: v for k, v in response.getheaders() if k.lower() not in ("connection", "content-length")}
                length = int(response.getheader("Content-Length") or 0) if self.command == "HEAD" else len(content)
                if fault == "cut" and len(content) > 1:
                    self.reply(response.status, about, content[: len(content) // 2], length)
                    return self.hang_up()
                return self.reply(response.status, about, content, length)
            return self.hang_up()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

        def reply(self, status: int, headers: dict[str, str], content: bytes, length: int) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content if self.command != "HEAD" else b"")

        def hang_up(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            with suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.shutdown(socket.SHUT_RDWR)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients that hang up are no news."""

    with Server(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, args=[0.01], daemon=True).start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            over.set()
            proxy.shutdown()
