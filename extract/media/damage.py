"""How much of a clip could not be decoded: measured while it is decoded, and judged when that has ended.

Of sound, it is the time of packets that the decoder refused and of gaps in the timestamps, over the clip's length; of
pictures, the frames that were refused, dropped or flagged as corrupt, over all frames looked at. What a decoder cannot
tell (a flipped bit in PCM, in an MP3 without checksums) is not seen here either.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import av
import av.logging
import numpy as np

JITTER = 0.01  # seconds by which the times of frames may be off: containers round them
FEW_STEPS = 5  # from frame to frame, from which nobody can tell how evenly they come
EVEN = 0.75  # share of the steps that have about the same length in an even stream
LEAST_GAP = 0.25  # seconds
TINY = 8  # bytes: packets of DivX that say "as before" have fewer, and give no frame
HELD_BACK = 16  # frames that a decoder may hold to bring them into order
HIDDEN = ("vp8",)  # codecs with packets that are there for others alone, and are never shown
SILENCE = 2.01 / 2**15  # from lowest to highest sample: a step of 16 bits up and one down are digital silence
CANCELLED = 1e-3  # energy of the mix, as a share of its channels', below which they cancel each other out


class MediaError(Exception):
    """A file that cannot be decoded, in one line and in the decoder's own words."""


class ClipError(Exception):
    """A clip that this encoder cannot take, in one line."""


class SilentError(ClipError):
    """A sound track without sound."""


@dataclass(frozen=True)
class Damage:
    """What a clip lacks that was taken all the same: ``share`` of it, 0 to 1."""

    share: float
    reason: str


@dataclass
class Heard:
    """What decoding a sound found out beside its samples; complete when the last of them has come.

    Times are in seconds. ``low``, ``high`` and ``energy`` are of the mix, ``apart`` is the mean energy of the channels
    that went into it. ``lost`` is known after :meth:`close`.
    """

    came: float = 0
    lost: float = 0
    stated: float = 0  # how long the file says it is, 0: it does not
    low: float = np.inf
    high: float = -np.inf
    energy: float = 0
    apart: float = 0
    reasons: list[str] = field(default_factory=list)
    _refused: float = 0  # packets that could not be decoded
    _at_end: float = 0  # those of them behind the last frame
    _gaps: float = 0
    _next: float | None = None  # when the next frame should begin
    first: float = 0  # when the first one began

    def note(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.append(reason)

    def refuse(self, seconds: float, reason: str) -> None:
        self._refused += seconds
        self._at_end += seconds
        self.note(reason)

    def skip(self, seconds: float) -> None:
        """Time that packets claim which hold no sound at all."""
        if self._next is not None:
            self._next += seconds

    def take(self, frame: av.AudioFrame, claimed: float = 0) -> None:
        """``claimed``: until when its packet lasts by the container, in seconds from its begin; a muxer that shifts one
        track against another says so there, and no gap is one."""
        seconds = frame.samples / frame.sample_rate
        self._at_end = 0
        if frame.time is not None:
            if self._next is None:
                self.first = frame.time
            elif abs(jump := frame.time - self._next) > JITTER:  # a jump back makes good a jump ahead
                self._gaps = max(0.0, self._gaps + jump)
            self._next = frame.time + max(seconds, claimed)
        elif self._next is not None:
            self._next += seconds
        self.came += seconds

    def mix(self, channels: np.ndarray, mono: np.ndarray) -> None:
        """(channels, samples) and (samples,): what went into a piece, and the piece."""
        self.low, self.high = min(self.low, float(mono.min())), max(self.high, float(mono.max()))
        if len(channels) > 1:  # an offset is no sound: it must neither hide that they cancel, nor look like it
            mono, channels = mono - mono.mean(), channels - channels.mean(axis=1, keepdims=True)
            self.energy += float(np.vdot(mono, mono))
            self.apart += float(np.vdot(channels, channels)) / len(channels)

    @property
    def reached(self) -> float:
        """When the last frame ends: the last packet of some containers does not say how long it is."""
        return self._next or 0

    def close(self, tolerance: tuple[float, float], is_exact: bool, pages_damaged: bool = False) -> None:
        """Settle ``lost``.

        Args:
            tolerance: by how much the sound may fall short of its stated length for no reason: seconds, and a share.
            is_exact: the stated length is that of the samples: what is not missing from it was not lost.
            pages_damaged: the container lost something by itself, and gave the decoder nothing to refuse.
        Raises:
            MediaError: it is cut short: it misses its stated length, and nothing that was met explains it.
        """
        known = max(self._refused, self._gaps if self._gaps > JITTER else 0)
        # What is refused at the end of a file that tells its length to the sample is what the cut left of a packet.
        explained = np.inf if pages_damaged else known - (self._at_end if is_exact else 0)
        short = self.stated - self.came
        if self.stated and short - explained > max(tolerance[0], tolerance[1] * self.stated):
            raise cut_short(self.came, self.stated)
        self.lost = known
        if is_exact and self.stated and short > -tolerance[0]:
            self.lost = max(0.0, min(np.inf if pages_damaged else known, short))
        if self.lost and not self.reasons:
            self.note("gaps between its packets")

    @property
    def damage(self) -> Damage | None:
        whole = self.came + self.lost
        if not self.lost:
            return Damage(0, "; ".join(self.reasons)) if self.reasons else None
        return Damage(self.lost / whole, f"{self.lost:.3f} of {whole:.3f} s: {'; '.join(self.reasons)}")

    @property
    def is_silent(self) -> bool:
        return self.high - self.low <= SILENCE

    @property
    def cancels(self) -> bool:
        """Channels in opposite phase: together they are (nearly) silent, alone they are not."""
        return self.energy < CANCELLED * self.apart


@dataclass
class Seen:
    """What decoding pictures found out: how many came whole, and how many did not.

    AVI, ASF, MXF and some fragmented MP4 give packets the times at which they are decoded; a decoder that brings frames
    into another order then shuffles these times. Frames that do not come are told by their number there.
    """

    whole: int = 0
    _lost: int = 0
    _left_out: int = 0  # by their times
    reasons: list[str] = field(default_factory=list)
    _waiting: set[int] = field(default_factory=set)  # times of packets whose frames have not come yet
    _refused: int = 0  # packets that wait for a frame in vain
    _sent: int = 0  # packets with a frame
    _came: int = 0  # frames, whole or not
    _all_sent: bool = False
    _last_came: int | None = None
    _is_shuffled: bool = False  # frames do not come in the order of their times

    def look_between(self, times: np.ndarray, places: np.ndarray, packets: np.ndarray, rate: float) -> None:
        """Frames that are not there in a stream that runs evenly but for some gaps; others may pause as they like.

        A gap is a pause where the file has no bytes that so many frames would take: cameras and browsers record none
        while a picture stands still.

        Args:
            times: (n,) when frames are shown, in seconds.
            places: (n,) of their packets in the file, in bytes, -1: not known.
            packets: (all, 2) place and size of those of every stream.
            rate: frames a second by the header, 0: unknown, which four a second then stand for.
        """
        order = np.argsort(times, kind="stable")
        times, places = times[order], places[order]
        steps = np.diff(times)
        if len(steps) < FEW_STEPS:
            step, least = 1 / rate if rate else 0.25, 1.0
        else:
            step, least = float(np.median(steps)), LEAST_GAP
            if not step > 0 or np.mean(np.abs(steps - step) < step / 2) < EVEN:
                return
        n = 0
        for k in np.flatnonzero((steps >= 4 * step) & (steps >= least)).tolist():
            frames = round(float(steps[k]) / step) - 1
            start, stop = sorted(places[k : k + 2].tolist())
            inside = packets[(packets[:, 0] >= start) & (packets[:, 0] < stop)]
            skipped = stop - start - int(inside[:, 1].sum())
            if start < 0 or skipped >= frames * np.median(packets[np.isin(packets[:, 0], places), 1]) / 2:
                n += frames
        if n:
            self._lost += n
            self.reasons.append("a gap between its packets")

    def decoded(self, packet: av.Packet, codec: Any) -> Iterator[av.VideoFrame]:
        """The whole frames of a packet, and of those before it that had to wait for it."""
        is_frame = packet.size > TINY and not packet.is_discard and codec.name not in HIDDEN
        if is_frame and packet.pts is not None:
            self._waiting.add(packet.pts)
            self._sent += 1
        for frame in self._frames(packet, codec):
            self._came += 1
            if frame.pts is not None:
                self._is_shuffled |= self._last_came is not None and frame.pts < self._last_came
                self._last_came = frame.pts
                self._waiting.discard(frame.pts)
                for late in [pts for pts in self._waiting if pts < frame.pts]:
                    self._waiting.discard(late)
                    self._left_out += 1
            if frame.is_corrupt:
                self._lose("frames that the decoder had to make up in part")
            else:
                self.whole += 1
                yield frame

    def close(self) -> None:
        """After the last packet: what waits still will not come."""
        self._left_out += len(self._waiting)
        self._waiting.clear()
        self._all_sent = True

    @property
    def lost(self) -> int:
        return self._lost + self._missing

    @property
    def _missing(self) -> int:
        if self._is_shuffled:
            return max(self._refused, self._sent - self._came - (0 if self._all_sent else HELD_BACK))
        return self._left_out

    @property
    def damage(self) -> Damage | None:
        if not self.lost:
            return None
        n = self.lost + self.whole
        left_out = ["frames that the decoder left out"] if self._missing else []
        return Damage(self.lost / n, f"{self.lost} of {n} frames: {'; '.join(self.reasons + left_out)}")

    def _frames(self, packet: av.Packet, codec: Any) -> list[av.VideoFrame]:
        try:
            if codec.name != "ffv1":
                return packet.decode()
            with _complaints() as complaints:  # it checks its slices, and only says so
                frames: list[av.VideoFrame] = packet.decode()
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            if is_nothing(packet, error):
                return []
            if packet.pts is None or packet.pts not in self._waiting:
                self._lose(said(error))
            else:
                self._refused += 1
                if said(error) not in self.reasons:
                    self.reasons.append(said(error))
            return []
        if complaints and frames:
            self._lose("parts of frames whose checksums are wrong")
            self._came += len(frames)
            self._waiting -= {frame.pts for frame in frames if frame.pts is not None}
            return []
        return frames

    def _lose(self, reason: str) -> None:
        self._lost += 1
        if reason not in self.reasons:
            self.reasons.append(reason)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What FFmpeg says of errors meanwhile."""
    said_so: list[str] = []
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as log:
            yield said_so
            said_so += [" ".join(message.split()) for _, _, message in log]
    finally:
        av.logging.set_level(None)


def is_nothing(packet: av.Packet, error: Exception) -> bool:
    """An empty packet, which decoders refuse: some containers send settings in one (FLAC in NUT, all of newer FLV)."""
    return packet.size == 0 and isinstance(error, av.ArgumentError)


def cut_short(seconds: float, stated: float) -> MediaError:
    return MediaError(f"cut short: {seconds:.2f} s of the {stated:.2f} s that it declares")


def said(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)  # FFmpeg's errors have one, too
    return " ".join(text.split()) or type(error).__name__
