"""A server over a bundle, from what the command line says until it is stopped."""

import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from configs import UserError
from fusion.serving.options import opened
from fusion.web.limits import Limits, is_loopback

if TYPE_CHECKING:
    import uvicorn

HostOption = Annotated[
    str, typer.Option(help="Address to listen at. Any other than this machine's loopback needs a password.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")]
PasswordOption = Annotated[
    str | None,
    typer.Option(
        envvar="EMOCACHE_PASSWORD",
        show_envvar=False,
        help="Asked of everybody (HTTP basic, any user name). Better said in EMOCACHE_PASSWORD, which others on this "
        "machine cannot read.",
    ),
]
CertificateOption = Annotated[
    Path | None, typer.Option(help="PEM file: speak HTTPS; browsers record at other machines only then.")
]
KeyOption = Annotated[Path | None, typer.Option(help="PEM file with the certificate's key, if it is not in it.")]
MegabytesOption = Annotated[int, typer.Option(min=1, help="Largest request.")]
SecondsOption = Annotated[int, typer.Option(min=1, help="Longest clip.")]
TimeoutOption = Annotated[int, typer.Option(min=1, help="Seconds until an answer, waiting included.")]
WaitingOption = Annotated[int, typer.Option(min=1, help="Requests that may wait; more are sent away for now.")]


@dataclass(frozen=True)
class Place:
    """Where to listen, and who may come."""

    host: str
    port: int
    password: str | None
    certificate: Path | None
    key: Path | None


def run(
    bundle: Path | None,
    encoder: list[str] | None,
    device: str,
    precision: Literal["bf16", "int8"] | None,
    confidence: float | None,
    place: Place,
    limits: Limits,
    with_page: bool,
    open_browser: bool = False,
) -> None:
    """Load a bundle and serve it until SIGTERM or Ctrl-C; what is being answered then is finished.

    Raises:
        UserError: an address that others reach without a password, or that is taken; no bundle; an encoder that cannot
            be loaded; what the service needs is not installed.
    """
    if not is_loopback(place.host) and not place.password:
        raise UserError(f"--host {place.host}: others reach it: give --password, or EMOCACHE_PASSWORD")
    if place.password is not None and len(place.password) < 8:
        raise UserError("--password: shorter than 8 characters")
    if place.key and not place.certificate:
        raise UserError("--key: only with --certificate")
    for option, path in (("--certificate", place.certificate), ("--key", place.key)):
        if path and not path.is_file():
            raise UserError(f"{option} {path}: no such file")
    stack, profile = opened(bundle, encoder, confidence)
    with _listening(place) as listening:
        try:
            import python_multipart  # noqa: F401 (Starlette asks for it when the first form comes)
            import uvicorn

            from fusion.web.app import make_app
        except ModuleNotFoundError as error:
            needs = "the service needs what is not installed"
            raise UserError(f"{error.name}: {needs}: pip install -e '.[web]'") from error
        from fusion.web.answering import Answering
        from fusion.web.page import Page

        print(f"loading {stack.folder} ...", file=sys.stderr)
        with Answering(stack, profile, device, limits, confidence, precision) as answering:
            answering.warm()
            page = Page(answering, limits, is_loopback(place.host)) if with_page else None
            app = make_app(answering, limits, place.password, page)
            config = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=30,
                ssl_certfile=place.certificate,
                ssl_keyfile=place.key,
            )
            url = _url(place, listening.getsockname()[1])

            def ready() -> None:
                print(f"{url} (Ctrl-C ends it)", flush=True)
                if open_browser:
                    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

            with suppress(KeyboardInterrupt):  # raised again by the server once it has stopped
                _server(config, ready).run(sockets=[listening])
    print("stopped", file=sys.stderr)


def _server(config: "uvicorn.Config", ready: Callable[[], None]) -> "uvicorn.Server":
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    return Server(config)


def _listening(place: Place) -> socket.socket:
    """The address is taken before the bundle is loaded: that it cannot be had is said at once."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((place.host, place.port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"{place.host}:{place.port}: {error.strerror or error}: give another --host or --port"
        ) from error
    return listening


def _url(place: Place, port: int) -> str:
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(place.host, place.host)
    return f"http{'s' if place.certificate else ''}://{f'[{host}]' if ':' in host else host}:{port}/"
