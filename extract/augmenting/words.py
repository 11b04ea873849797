"""Texts, changed: words that are left out."""

import numpy as np

from configs.schema import Augment
from extract.media.texts import BETWEEN_TEXTS


def without_some_words(text: str, augment: Augment, draws: np.random.Generator) -> str:
    """A text, or several that were joined, each with at least one of its words."""
    return BETWEEN_TEXTS.join(_thinned(part, augment.word_dropout or 0, draws) for part in text.split(BETWEEN_TEXTS))


def _thinned(text: str, share: float, draws: np.random.Generator) -> str:
    words = text.split()
    if len(words) < 2:
        return text
    kept = draws.random(len(words)) >= share
    spared = int(draws.integers(len(words)))
    kept[spared] |= not kept.any()
    return " ".join(word for word, stays in zip(words, kept, strict=True) if stays)
