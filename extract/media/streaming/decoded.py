"""Windows decoded in a child process, which may crash or hang without harm to anything but its source."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from extract.media.damage import Damage
from extract.media.decoding import Decoders
from extract.media.streaming.cutting import Cut, FileWindows, Window
from extract.media.streaming.incoming import SILENCE_SECONDS, Address, LiveWindows

PATIENCE = 2 * SILENCE_SECONDS  # without a sign of life from the child


def windows_of(path: Path, cut: Cut, note: Callable[[Damage], object] = lambda damage: None) -> Iterator[Window]:
    """A file's windows, as fast as they are taken.

    Args:
        note: is told behind the last window what could not be decoded.
    Raises:
        MediaError: there is nothing in it, before the first one; it is cut short, or its decoder died, behind those
            that came.
    """
    with closing(Decoders(FileWindows(cut), 1, PATIENCE)) as decoders:
        yield from decoders.stream(path, None, note)


def live_windows(address: Address, cut: Cut) -> Iterator[Window]:
    """Windows of what is live, as they come; without a URL, of this process's standard input.

    Raises MediaError: it cannot be opened, or died.
    """
    with closing(Decoders(LiveWindows(cut, address), 1, PATIENCE)) as decoders:
        yield from decoders.stream(Path(f"/proc/{os.getpid()}/fd/0"))
