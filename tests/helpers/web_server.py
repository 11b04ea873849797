"""An application behind a port of this machine, in a thread."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

HERE = "http://127.0.0.1"
SECONDS = 20  # until a test that hangs is given up


@contextlib.contextmanager
def served(app: Any) -> Iterator[tuple[str, uvicorn.Server]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until = time.monotonic() + SECONDS
            while not server.started and time.monotonic() < until:
                time.sleep(0.01)
            yield f"{HERE}:{listening.getsockname()[1]}", server
        finally:
            server.should_exit = True
            thread.join(SECONDS)
