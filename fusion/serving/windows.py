"""A bundle's answers for windows of what is longer than a clip: a long file, or a stream.

A window is answered as ``predict`` answers a clip cut there: the same samples and pictures reach the encoders.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from configs import Profile
from extract.media.damage import ClipError, Damage
from extract.media.decoding import Decoders
from extract.media.streaming.cutting import ALL_SOUND, Cut, FileWindows, Window, wanted_of
from extract.media.tasks import AudioTask, Decoded
from fusion.serving.clips import Single, manifest_of
from fusion.serving.live import Answer, Predictor

PATIENCE = 60.0  # seconds without a sign of life after which a decoder is given up
NO_SPEECH = "no speech"


def cut_for(predictor: Predictor, window: float = inf, hop: float = inf, listen: bool = False) -> Cut:
    """How to cut for a bundle's encoders, which are loaded. Without a window, a file is taken whole.

    Args:
        window, hop: in seconds.
        listen: the sound is wanted by itself, too: ``window.decode(ALL_SOUND)``.
    Raises:
        UserError: an encoder cannot be loaded.
    """
    return Cut(window, hop, wanted_of([*predictor.tasks(), *[ALL_SOUND] * listen]))


def windows_of(path: Path, cut: Cut, note: Callable[[Damage], object] = lambda damage: None) -> Iterator[Window]:
    """A file's windows, decoded in a child process, as fast as they are taken.

    Args:
        note: is told behind the last window what could not be decoded.
    Raises:
        MediaError: there is nothing in it, before the first one; it is cut short, or its decoder died, behind those
            that came.
    """
    with closing(Decoders(FileWindows(cut), 1, PATIENCE)) as decoders:
        yield from decoders.stream(path, None, note)


def answers_of(
    predictor: Predictor,
    profile: Profile,
    windows: Mapping[str, Window],
    metadata: Mapping[str, str],
    texts: Mapping[str, str] | None = None,
    unheard: Collection[str] = (),
) -> list[Answer]:
    """An answer for each window, by its name, in their order.

    Heads that are centred on several clips are absent: a window is answered by itself.

    Args:
        metadata: of all of them, as ``known_metadata`` gives it.
        texts: what is said in some.
        unheard: those whose sound is withheld from heads, for nobody speaks in it.
    """
    clips = [Single(name, (texts or {}).get(name), *_media(window)) for name, window in windows.items()]
    held = {name: _Piece(window, name in unheard) for name, window in windows.items()}
    size = 1 if predictor.by_mean else max(1, len(clips))
    parts = [clips[i : i + size] for i in range(0, len(clips), size)]
    manifests = [manifest_of(part, metadata, profile, predictor.fields) for part in parts]
    return [answer for manifest in manifests for answer in predictor.answers(manifest, held)]


@dataclass(frozen=True)
class _Piece:
    window: Window
    is_unheard: bool

    def decode(self, task: Any) -> Decoded:
        if self.is_unheard and isinstance(task, AudioTask):
            raise ClipError(NO_SPEECH)
        return self.window.decode(task)


def _media(window: Window) -> tuple[str | None, str | None]:
    """What stands in a manifest for sound and pictures: encoders ask the window itself, and say why there is none."""
    heard = any(isinstance(task, AudioTask) for task, _ in window.taken)
    return "sound" if heard else None, "pictures" if len(window.taken) > heard else None
