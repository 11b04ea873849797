"""What one request may be, how many may wait, and which addresses only this machine reaches."""

from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True)
class Limits:
    megabytes: int = 200  # of a request
    seconds: int = 600  # of a clip
    timeout: int = 120  # seconds until an answer, waiting included
    waiting: int = 32  # requests
    together: int = 8  # requests that are answered in one go


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine, and only it."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
