"""A bundle's answers for windows of what is longer than a clip: a long file, or a stream.

A window is answered as ``predict`` answers a clip cut there: the same samples and pictures reach the encoders.

    cut = cut_for(predictor, window=4, hop=2)
    for window in windows_of(path, cut):            # extract/media/streaming/decoded.py
        (answer,) = answers_of(predictor, profile, {"0-4": window}, metadata)
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from configs.schema import Profile
from extract.media.damage import ClipError
from extract.media.streaming.cutting import ALL_SOUND, Cut, Window, wanted_of
from extract.media.tasks import AudioTask, Decoded
from fusion.serving.clips import Single, manifest_of
from fusion.serving.live import Answer, Predictor

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
