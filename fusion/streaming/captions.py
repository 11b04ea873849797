"""What is said, and when: captions in SubRip (.srt) or WebVTT (.vtt)."""

import html
import re
from dataclasses import dataclass
from pathlib import Path

from configs import UserError, first_line
from configs.outside import read_outside

MOST_BYTES = 16 << 20  # days of speech
_TIME = r"(?:(\d+):)?([0-5]?\d):([0-5]?\d)[.,](\d{3})"
_TIMES = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class Captions:
    """(start, stop, words) of each, in seconds, as they stand in the file."""

    said: tuple[tuple[float, float, str], ...]

    def within(self, start: float, stop: float) -> str | None:
        """The words of a window: of captions of which at least half lies in it; None: there are none."""
        words = [words for a, b, words in self.said if 2 * (min(b, stop) - max(a, start)) >= b - a]
        return " ".join(words) or None


def read_captions(path: Path) -> Captions:
    """Raises UserError: no such file, not text, no captions in it, or one that ends before it begins."""
    if path.suffix.lower() not in (".srt", ".vtt"):
        raise UserError(f"--text {path}: name a file of captions, .srt or .vtt")
    try:
        lines = read_outside(path, MOST_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"--text {path}: not UTF-8: {first_line(error)}") from error
    said = []
    for number, line in enumerate(lines):
        if not (times := _TIMES.match(line)):
            continue
        start, stop = _seconds(times.groups()[:4]), _seconds(times.groups()[4:])
        if stop <= start:
            raise UserError(f"--text {path}, line {number + 1}: ends before it begins")
        words = []
        for text in lines[number + 1 :]:
            if not text.strip():
                break
            words.append(html.unescape(_MARKUP.sub("", text)).strip())
        if " ".join(words).strip():
            said.append((start, stop, " ".join(words)))
    if not said:
        raise UserError(f"--text {path}: no captions in it, as 00:00:01,000 --> 00:00:03,500 with words below")
    return Captions(tuple(said))


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, thousandths = (int(part or 0) for part in parts)
    return 3600 * hours + 60 * minutes + seconds + thousandths / 1000
