"""Answer for new clips over HTTP, with a trained stack."""

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
    port: PortOption = 8000,
    password: PasswordOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    megabytes: MegabytesOption = Limits.megabytes,
    seconds: SecondsOption = Limits.seconds,
    timeout: TimeoutOption = Limits.timeout,
    waiting: WaitingOption = Limits.waiting,
) -> None:
    """Serve a bundle: POST /predict gives what fusion/predict.py --json gives; / says what else there is.

    Requests that wait are answered together. SIGTERM lets it finish what it has begun. Uploads lie in a folder of this
    process while they are answered, and nowhere afterwards.

    python fusion/serve.py
    curl -F video=@clip.mp4 -F text="I passed!" http://127.0.0.1:8000/predict
    """
    place = Place(host, port, password, certificate, key)
    run(
        bundle,
        encoder,
        device,
        precision,
        confidence,
        place,
        Limits(megabytes, seconds, timeout, waiting),
        with_page=False,
    )


if __name__ == "__main__":
    command(main)
