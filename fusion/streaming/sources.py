"""What SOURCE means: a file, a folder that fills, a device, standard input, an address; and how each is read."""

import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from configs import UserError
from extract.corpora.media_paths import AUDIO, VIDEO
from extract.media.damage import ClipError, Damage, MediaError
from extract.media.streaming.cutting import Cut
from extract.media.streaming.decoded import live_windows, windows_of
from extract.media.streaming.incoming import PROTOCOLS, Address
from fusion.streaming.waiting import Arrival

SETTLED = 2.0  # seconds for which a file in a folder must be as it is, before it is taken
GLANCE = 0.5  # seconds between two looks at a folder
PCM = ("u8", "s8", *(f"{kind}{end}" for kind in ("s16", "s24", "s32", "f32", "f64") for end in ("le", "be")))
DEVICES = {"camera": ("v4l2", "/dev/video{}"), "microphone": ("alsa", "{}")}
Note = Callable[[str], object]


@dataclass(frozen=True)
class Source:
    """``is_live``: it does not wait for us. A folder's files are clips; ``path`` is of files and folders."""

    name: str
    path: Path | None = None
    address: Address | None = None

    @property
    def is_folder(self) -> bool:
        return self.path is not None and self.path.is_dir()

    @property
    def is_live(self) -> bool:
        return self.path is None


def source_of(given: str, pcm: str | None) -> Source:
    """Raises UserError: no such file, device or protocol; options that do not go together."""
    if pcm is not None and given != "-":
        raise UserError("--pcm: says what comes through standard input: give - as SOURCE")
    scheme, colon, rest = given.partition("://")
    device, _, number = given.partition(":")
    if given == "-":
        return _standard_input(pcm)
    if colon:
        if scheme.lower() not in PROTOCOLS or not rest:
            raise UserError(f"{_shown(given)}: not an address that is read here: {', '.join(PROTOCOLS)} are")
        options = {"rtsp_transport": "tcp"} if scheme.lower().startswith("rtsp") else {}
        return Source(_shown(given), address=Address(given, options=options))
    if device in DEVICES and not os.path.exists(given):  # noqa: PTH110 (a Path raises where the name is too long)
        return _device(given, device, number)
    if not os.path.exists(given):  # noqa: PTH110
        raise UserError(
            f"{given[:300]}: no such file or folder; a source may also be camera, microphone, - or an address"
        )
    path = Path(given)
    if not path.is_dir() and not path.is_file():
        raise UserError(f"{given}: neither a file nor a folder; to read a pipe: python fusion/live.py - < {given}")
    return Source(given, path)


def _standard_input(pcm: str | None) -> Source:
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise UserError("-: standard input is a terminal: pipe sound or film into it")
    path = Path(f"/proc/{os.getpid()}/fd/{sys.stdin.fileno()}")
    if pcm is None and stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode):
        return Source("-", path)  # of a file that was redirected all is there
    if pcm is None:
        return Source("-", address=Address())
    found = re.fullmatch(r"(\w+):(\d{4,6}):(\d{1,2})", pcm)
    if not found or found[1] not in PCM or not (1000 <= int(found[2]) <= 768_000 and 1 <= int(found[3]) <= 64):
        raise UserError(f"--pcm {pcm}: write FORMAT:RATE:CHANNELS, as s16le:16000:1; formats are {', '.join(PCM)}")
    layout = {"1": "mono", "2": "stereo"}.get(found[3], f"{found[3]}C")
    return Source("-", address=Address("", found[1], {"sample_rate": found[2], "ch_layout": layout}))


def _device(given: str, device: str, number: str) -> Source:
    form, url = DEVICES[device]
    if number and not number.isdecimal():
        raise UserError(f"{given}: write {device}, or {device}:N with its number")
    if sys.platform != "linux":
        raise UserError(f"{given}: devices are read on Linux alone: pipe it in: ffmpeg ... -f matroska - | live.py -")
    if device == "camera":
        there = sorted(each.name for each in Path("/dev").glob("video[0-9]*"))
        if f"video{number or 0}" not in there:
            raise UserError(f"{given}: no such camera: /dev has {', '.join(there) or 'no video device'}")
        return Source(given, address=Address(url.format(number or 0), form, is_device=True))
    cards = Path("/proc/asound/cards")
    known = re.findall(r"^\s*(\d+) \[", cards.read_text(), re.MULTILINE) if cards.is_file() else []
    if (number or "0") not in known and (number or not known):
        which = f"sound cards: {', '.join(known)}" if known else "this machine has no sound card"
        raise UserError(f"{given}: no such microphone: {which}")
    return Source(given, address=Address(f"plughw:{number}" if number else "default", form, is_device=True))


def arrivals(source: Source, cut: Cut, note: Note, whole: Cut) -> Iterator[Arrival]:
    """The windows of a source, as they come. Of a folder, each file is one window, cut as ``whole`` says.

    Args:
        note: is told what is worth a line beside the answers.
    Raises:
        MediaError: it cannot be read, or died.
    """
    if source.is_folder:
        assert source.path
        yield from _files(source.path, whole, note)
    elif source.path:
        for window in windows_of(source.path, cut, lambda damage: note(_damaged(source.name, damage))):
            yield Arrival("", window, time.monotonic())
    else:
        assert source.address
        for window in live_windows(source.address, cut):
            yield Arrival("", window, time.monotonic())


def _files(folder: Path, whole: Cut, note: Note) -> Iterator[Arrival]:
    """Each media file once, when its size and times have been the same for a while: those there already, then others.

    A file that is there under its name from the start (renamed into the folder) is taken after the same while. Hidden
    files, and those whose names do not end as media do (``.part``, ``.tmp``), are not looked at.
    """
    seen: dict[str, tuple[tuple[int, ...], float]] = {}  # name: what it was like, and since when
    taken: dict[str, tuple[int, ...]] = {}
    while True:
        ready: list[tuple[int, str, tuple[int, ...]]] = []
        now = time.monotonic()
        try:
            entries = [each for each in os.scandir(folder) if not each.name.startswith(".")]
        except OSError as error:
            raise MediaError(f"{error.strerror}") from error
        there = {each.name: each for each in entries if Path(each.name).suffix.lower() in (*AUDIO, *VIDEO)}
        for name, entry in there.items():
            try:
                found = entry.stat()
            except OSError:  # it is gone again
                continue
            state: tuple[int, ...] = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if taken.get(name) == state or not stat.S_ISREG(found.st_mode):
                continue
            if seen.get(name, (None, 0.0))[0] != state:
                seen[name] = state, now
            age = time.time() - max(found.st_mtime, found.st_ctime)
            if found.st_size and (now - seen[name][1] >= SETTLED or age > 60):
                ready.append((found.st_mtime_ns, name, state))
        taken = {name: state for name, state in taken.items() if name in there}  # a folder that is emptied, too
        seen = {name: known for name, known in seen.items() if name in there}
        for _, name, state in sorted(ready):
            taken[name] = state
            yield from _file(folder / name, whole, note)
        if not ready:
            time.sleep(GLANCE)


def _file(path: Path, whole: Cut, note: Note) -> Iterator[Arrival]:
    name = path.name.encode(errors="backslashreplace").decode()  # what is no text must not cost the folder
    try:
        for window in windows_of(path, whole, lambda damage: note(_damaged(name, damage))):
            yield Arrival(name, window, time.monotonic())
    except (MediaError, ClipError) as error:
        yield Arrival(name, None, time.monotonic(), str(error))


def _damaged(name: str, damage: Damage) -> str:
    return f"{name}: damaged, the rest is used: {damage.reason}"


def _shown(address: str) -> str:
    """An address without its password."""
    parts = urlsplit(address)
    return address.replace(f":{parts.password}@", ":***@") if parts.password else address[:300]
