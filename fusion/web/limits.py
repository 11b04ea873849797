"""What one request may be, and how many may wait."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    megabytes: int = 200  # of a request
    seconds: int = 600  # of a clip
    timeout: int = 120  # seconds until an answer, waiting included
    waiting: int = 32  # requests
    together: int = 8  # requests that are answered in one go
