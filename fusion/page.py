"""A page in the browser that answers for clips, with a trained stack."""

from typing import Annotated

import typer

from configs.command_line import command
from fusion.serving.options import BundleOption, ConfidenceOption, DeviceOption, EncoderOption, PrecisionOption
from fusion.web.limits import Limits
from fusion.web.running import (
    CertificateOption,
    HostOption,
    KeyOption,
    MegabytesOption,
    PasswordOption,
    Place,
    PortOption,
    SecondsOption,
    TimeoutOption,
    WaitingOption,
    run,
)


def main(
    bundle: BundleOption = None,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    confidence: ConfidenceOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8010,
    password: PasswordOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    megabytes: MegabytesOption = Limits.megabytes,
    seconds: SecondsOption = Limits.seconds,
    timeout: TimeoutOption = Limits.timeout,
    waiting: WaitingOption = Limits.waiting,
    browser: Annotated[bool, typer.Option(help="Open the page in this machine's browser.")] = True,
) -> None:
    """Serve a page: drop a clip, record one, type a text or pick a sample, and see what the bundle says, and why.

    Nothing is fetched from elsewhere, and nothing leaves this machine. Behind the page is the service of
    fusion/serve.py, with the same limits.

    python fusion/page.py
    """
    place = Place(host, port, password, certificate, key)
    limits = Limits(megabytes, seconds, timeout, waiting)
    run(bundle, encoder, device, precision, confidence, place, limits, with_page=True, open_browser=browser)


if __name__ == "__main__":
    command(main)
