"""What is live: a camera, a microphone, standard input, an address in the network; read once, as it comes.

Only an address that somebody named opens the network. What comes from there opens nothing else: no playlist is
followed, no local file is read.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av

from extract.media.damage import Heard, MediaError, said
from extract.media.opening import FORMATS, first_decodable, moving_pictures
from extract.media.reading import Beat, finite, on_screen, resampled
from extract.media.streaming.cutting import JUST, Cut, Pictures, Sounds, Window, no_pictures, windows

SILENCE_SECONDS = 30.0  # without a packet, after which a source is given up
STALLED = 3.0  # seconds of one track that come without any of the other: that one has ended
AHEAD = 10.0  # seconds, beside a window, that are read before they are wanted
STOP_SECONDS = 1.0  # in which a thread ends, unless its source says nothing
OPEN_SECONDS = 15.0  # in which an address must answer
PROTOCOLS = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "tcp", "udp", "rtp", "srt")
BY_NETWORK = f"{FORMATS},rtsp,rtp,mpjpeg,mjpeg,h264,hevc"
ALSA_SETTINGS = Path("/usr/share/alsa/alsa.conf")  # PyAV's own ALSA looks for them where it was built
NOT_PIPED = "; an MP4 whose index lies at its end cannot be read as it comes"
Track = tuple[str, int | None]  # audio or video, and which of its channels


@dataclass(frozen=True)
class Address:
    """What to open. ``url`` is empty for a descriptor: the path that the child is given is opened, and read once.

    ``form``: the demuxer, where it cannot be found out. ``is_device``: it is a device of this machine.
    """

    url: str = ""
    form: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    is_device: bool = False

    @property
    def hint(self) -> str:
        """What may be wrong where nothing of it can be read."""
        suffix = Path(urlsplit(self.url).path).suffix.lower()
        return NOT_PIPED if not self.url or suffix in (".mp4", ".m4a", ".m4v", ".mov") else ""


@dataclass(frozen=True)
class LiveWindows:
    """A child's task: windows of what is live, each when it is complete.

    Pictures of the last window, whose end nobody knew, are those of a full one, the last of them standing for what
    would come later. Raises MediaError where it cannot be opened, or dies.
    """

    cut: Cut
    address: Address

    def stream(self, path: Path, beat: Beat) -> Iterator[Window]:
        with _reading(self.address, path, self.cut, beat) as incoming:
            sounds = {}
            for channel in self.cut.channels:
                frames = incoming.frames(("audio", channel))
                sounds[channel] = Sounds(finite(resampled(frames, channel, Heard())))
            try:
                yield from windows(self.cut, sounds.__getitem__, incoming.pictures())
            except MediaError as error:
                if incoming.came:
                    raise
                why = incoming.fault or "nothing of it can be read"
                raise MediaError(f"{why}{self.address.hint}") from error
            if incoming.fault:
                raise incoming.fault


class Incoming:
    """Frames of a container, read and decoded by a thread of their own, ahead of who wants them, up to a limit.

    From :meth:`start` on the container is the thread's: it alone may close it, for nobody else knows when a read of it
    has ended.
    """

    def __init__(self, container: Any, cut: Cut, beat: Beat) -> None:
        self._container, self._cut, self._beat = container, cut, beat
        self._stopped = False
        self._most = cut.window + AHEAD
        self._changed = threading.Condition()
        self.fault: MediaError | None = None
        self._streams = {}
        tracks: list[Track] = []
        self._absent: dict[str, MediaError] = {}
        for kind, streams in (("audio", container.streams.audio), ("video", moving_pictures(container))):
            wanted: list[Track] = [(kind, each) for each in cut.channels] if kind == "audio" else []
            wanted += [("video", None)] if kind == "video" and cut.video_tasks else []
            try:
                if wanted:
                    self._streams[kind] = first_decodable(streams, kind)
                    tracks += wanted
            except MediaError as error:
                self._absent[kind] = error
        if not tracks:
            raise MediaError("; ".join(map(str, self._absent.values())) or "nothing of it is wanted")
        self._waiting: dict[Track, deque[tuple[float, Any]]] = {track: deque() for track in tracks}
        self._newest = dict.fromkeys(self._streams, 0.0)  # seconds since the track began
        self._first: dict[str, float] = {}
        self._ended: set[str] = set()
        self._heard_of = time.monotonic()  # when something last came

    def start(self, close: Callable[[], None]) -> None:
        """Begin to read; ``close`` is called by the thread once it has ended."""
        self._thread = threading.Thread(target=self._read_all, args=(close,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nothing more is wanted. A thread that waits for a source which says nothing ends when that says something."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(STOP_SECONDS)

    @property
    def came(self) -> bool:
        return any(self._newest.values()) or bool(self._first)

    def frames(self, track: Track) -> Iterator[Any]:
        """Of a track, until it ends. Raises MediaError where there is none, or nothing comes any more."""
        if track[0] in self._absent:
            raise self._absent[track[0]]
        while True:
            with self._changed:
                if not self._wait_for(track):
                    return
                _, frame = self._waiting[track].popleft()
                self._changed.notify_all()
            yield frame

    def pictures(self) -> Pictures:
        if not self._cut.video_tasks or "video" in self._absent:
            return no_pictures(self._cut, self._absent.get("video") or MediaError("no pictures are wanted"))
        return Pictures(
            self._cut,
            lambda times: on_screen(self.frames(("video", None)), (self._began() + each for each in times)),
            lambda: self._newest["video"] if "video" in self._ended else inf,
            self._reaches,
        )

    def _began(self) -> float:
        with self._changed:
            self._wait_for(("video", None))
        return self._first.get("video", 0.0)

    def _reaches(self, seconds: float) -> bool:
        """Whether there are pictures behind a time; waits until that is known."""
        with self._changed:
            while self._newest["video"] < seconds - JUST:
                if "video" in self._ended or self._stalls("video"):
                    return False
                self._pause()
        return True

    def _wait_for(self, track: Track) -> bool:
        """Until a frame is there; False: none will come. The lock is held."""
        while not self._waiting.get(track):
            if track[0] in self._ended or self._stalls(track[0]):
                return False
            self._pause()
        return True

    def _stalls(self, kind: str) -> bool:
        others = [self._newest[each] for each in self._streams if each != kind]
        if others and max(others) - self._newest[kind] > self._cut.window + STALLED:
            self._ended.add(kind)
            self._waiting = {track: waiting for track, waiting in self._waiting.items() if track[0] != kind}
            return True
        return False

    def _pause(self) -> None:
        self._changed.wait(0.5)
        self._beat()
        if time.monotonic() - self._heard_of > SILENCE_SECONDS:
            self.fault = MediaError(f"nothing came from it for {SILENCE_SECONDS:g} s")
            self._ended |= set(self._streams)

    def _read_all(self, close: Callable[[], None]) -> None:
        try:
            self._read()
        finally:
            close()

    def _read(self) -> None:
        try:
            for packet in self._container.demux(*self._streams.values()):
                if self._stopped:
                    return
                kind = packet.stream.type
                try:
                    frames = packet.decode()
                except av.FFmpegError:  # what is damaged on its way is left out: there is no second try
                    continue
                for frame in frames:
                    self._take(kind, frame)
        except av.FFmpegError as error:
            self.fault = MediaError(said(error))
        with self._changed:
            self._ended |= set(self._streams)
            self._changed.notify_all()

    def _take(self, kind: str, frame: Any) -> None:
        if kind == "audio":
            self._newest[kind] += frame.samples / frame.sample_rate
        elif frame.time is not None:
            first = self._first.setdefault(kind, frame.time)
            self._newest[kind] = max(self._newest[kind], frame.time - first)
        with self._changed:
            self._heard_of = time.monotonic()
            for track, waiting in self._waiting.items():
                if track[0] == kind:
                    waiting.append((self._newest[kind], frame))
            self._changed.notify_all()
            # Who waits for one track must get it, however much of another there is.
            while all(self._waiting.values()) and self._ahead() > self._most and not self._stopped:
                self._changed.wait(0.5)

    def _ahead(self) -> float:
        return max(waiting[-1][0] - waiting[0][0] for waiting in self._waiting.values())


@contextmanager
def _reading(address: Address, path: Path, cut: Cut, beat: Beat) -> Iterator[Incoming]:
    """What comes from an address, which is being read."""
    try:
        container, close = _opened(address, path)
        try:
            incoming = Incoming(container, cut, beat)
        except BaseException:
            close()
            raise
        incoming.start(close)
        try:
            yield incoming
        finally:
            incoming.stop()
    except (av.FFmpegError, OSError) as error:
        raise MediaError(said(error)) from error


def _opened(address: Address, path: Path) -> tuple[Any, Callable[[], None]]:
    """A container, and what closes it."""
    descriptor, options, url = None, dict(address.options), address.url

    def closed() -> None:
        if descriptor is not None:
            os.close(descriptor)

    if address.is_device:
        if ALSA_SETTINGS.is_file():
            os.environ.setdefault("ALSA_CONFIG_PATH", str(ALSA_SETTINGS))
    elif url:
        options |= {"protocol_whitelist": ",".join((*PROTOCOLS, "tls", "crypto")), "format_whitelist": BY_NETWORK}
    try:
        if not url:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # a pipe is waited for
            url = "fd:"
            options |= {"fd": str(descriptor), "protocol_whitelist": "fd"}
            options |= {"format_whitelist": f"{FORMATS},{address.form}" if address.form else FORMATS}
        limits = None if address.is_device or descriptor is not None else (OPEN_SECONDS, SILENCE_SECONDS)
        began = time.monotonic()
        try:
            with _quiet() if address.is_device else nullcontext():
                container = av.open(
                    url, format=address.form, options=options, timeout=limits, metadata_errors="replace"
                )
        except av.ArgumentError as error:
            raise MediaError("not a format of audio or video that is read here") from error
        except av.FFmpegError as error:
            if limits and time.monotonic() - began >= OPEN_SECONDS:
                raise MediaError(f"no answer for {OPEN_SECONDS:g} s") from error
            hint = address.hint if isinstance(error, av.InvalidDataError | av.error.OSError) else ""
            raise MediaError(f"{said(error)}{hint}") from error
    except BaseException:
        closed()
        raise

    def close() -> None:
        container.close()
        closed()

    return container, close


@contextmanager
def _quiet() -> Iterator[None]:
    """Libraries of sound write to standard error by themselves; what is wrong is said in one line."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
