"""Texts encoded here and now as a store holds them, so that a head can be asked about a text with a word less."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cache import Header, Store
from configs.schema import Profile
from extract.corpora.manifest import Unit
from extract.media.sources import Clip
from extract.media.texts import BETWEEN_TEXTS, join_texts

if TYPE_CHECKING:  # with it come transformers, which what reads no text by an encoder does without
    from extract.passes.live import LiveEncoder

Span = tuple[int, int]  # of characters


def without(text: str, start: int, stop: int) -> str | None:
    """A text without some of its characters and the space that they leave; None where nothing is left."""
    left = text[:start] + text[stop:].lstrip() if not text[:start].strip() else text[:start].rstrip() + text[stop:]
    return left if left.strip() else None


class LiveText:
    """A text encoder of a profile, giving what its store holds: the same settings, the same precision.

    Args:
        stored: the store that must have been made with this encoder; or the encoder itself, loaded already.
    Raises:
        UserError: the encoder cannot be loaded, or the store was made with another.
    """

    def __init__(self, profile: Profile, name: str, stored: "Store | LiveEncoder") -> None:
        self._spec = profile.encoders[name]
        if isinstance(stored, Store):
            from extract.passes.live import LiveEncoder

            stored = LiveEncoder(profile, name, Header.read(stored.path))
        self._encoder = stored
        self._known: dict[str, np.ndarray | None] = {}

    def encode(self, texts: Sequence[str | None]) -> list[np.ndarray | None]:
        """(time, dim) of each text in the store's precision; None for no text, or one that the encoder cannot take."""
        new = [text for text in dict.fromkeys(texts) if text is not None and text not in self._known]
        features, *_ = self._encoder.encode([Clip(str(place), text) for place, text in enumerate(new)])
        self._known |= {text: features.get(str(place)) for place, text in enumerate(new)}
        return [None if text is None else self._known[text] for text in texts]

    def clip_of_token(self, parts: Mapping[str, str], n_tokens: int) -> list[tuple[str, Span] | None] | None:
        """For each token of some texts, encoded together: whose text it is of, and which characters; None for special
        tokens.

        Args:
            parts: clip id: text; several of them only where the encoder reads conversations.
        Returns:
            (tokens,), or None where that cannot be told: the tokenizer is not a fast one, or gives another number.
        """
        from extract.encoders.checkpoints.tokenizer import load_tokenizer
        from extract.encoders.checkpoints.weights import find_folder

        tokenizer = load_tokenizer(self._spec, find_folder(self._spec))
        separator = tokenizer.sep_token if self._spec.conversation else None
        texts = [text.replace(BETWEEN_TEXTS, " ") for text in parts.values()] if separator else list(parts.values())
        if not tokenizer.is_fast or (separator and any(separator in text for text in texts)):
            return None
        prefix = self._spec.prefix
        encoded = tokenizer(
            prefix + (separator or "").join(texts),
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        if len(encoded["input_ids"]) != n_tokens:
            return None
        starts = np.cumsum([len(prefix), *(len(text) + len(separator or "") for text in texts)])
        owners: list[tuple[str, Span] | None] = []
        for (start, stop), special in zip(encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True):
            which = int(np.searchsorted(starts, start, side="right")) - 1
            if special or stop <= start or not 0 <= which < len(texts) or stop - starts[which] > len(texts[which]):
                owners.append(None)
            else:
                owners.append((list(parts)[which], (int(start - starts[which]), int(stop - starts[which]))))
        return owners


def source_text(unit: Unit, texts: Mapping[str, str | None], conversation: bool) -> str | None:
    """What the encoder reads for a unit's own clip: its text, or those of all the clips that it sees, joined."""
    if not conversation:
        return texts.get(unit.unit_id)
    said = [text for clip in unit.clip_ids if (text := texts.get(clip))]
    return join_texts(said) if said else None
