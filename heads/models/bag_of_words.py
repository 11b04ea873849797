"""The bag-of-words head's input: what was said, as TF-IDF. It reads texts, and no store."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from configs import UserError
from extract.corpora.manifest import Manifest, Unit
from heads.data.scripts import CHARACTER, TERM, WORD, folded

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import Pipeline

SPEAKER_ROLES = ("speaker", "context")  # the situation is told from the speaker's side
MANY_UNITS = 1000  # above this, a term must occur in two units


def unit_texts(manifest: Manifest, units: Sequence[Unit]) -> np.ndarray:
    """The texts of each unit, (units, 2): all of it, and the speaker's part with the situation.

    Marking the speaker's words matters: the listener often names feelings that the speaker does not have. Clips
    without text add nothing; a unit without any text has two empty ones. What looks alike is made alike.
    """
    said = dict(zip(manifest.clips["clip_id"], manifest.clips.select("role", "text").iter_rows(), strict=True))
    texts = np.empty((len(units), 2), dtype=object)
    for row, unit in enumerate(units):
        lines = [(role, folded(text)) for role, text in (said[clip_id] for clip_id in unit.clip_ids) if text]
        texts[row, 0] = "\n".join(text for _, text in lines)
        texts[row, 1] = "\n".join(text for role, text in lines if role in SPEAKER_ROLES)
    return texts


def text_features(texts: np.ndarray, letters: bool = False) -> "ColumnTransformer":
    """An unfitted vectoriser for the texts of :func:`unit_texts`; a column that adds nothing is left out.

    Terms are words, emoji and what gives emphasis, alone and in pairs; where words are not separated, one to three
    characters. Texts that hold both weigh them together.

    Args:
        letters: add two to four letters of a word, which words of one stem share.
    Raises:
        UserError: no text has anything of it.
    """
    from sklearn.compose import ColumnTransformer  # seconds to import, and who predicts fits nothing

    columns = [0]
    if any(texts[:, 1]) and (texts[:, 0] != texts[:, 1]).any():
        columns.append(1)
    parts = []
    for column in columns:
        terms = _terms(texts[:, column])
        if terms is not None:
            parts.append((f"words{column}", terms, column))
        if letters and (n := _matches(WORD, texts[:, column])):
            parts.append((f"letters{column}", _vectoriser(n, analyzer="char_wb", ngram_range=(2, 4)), column))
    if not parts:
        raise UserError(
            "the texts of a fold's training units hold nothing to learn from: no word, no emoji, no exclamation or "
            "question mark"
        )
    return ColumnTransformer(parts)


def has_letters(texts: np.ndarray) -> bool:
    """Whether there are words whose letters could be learned from."""
    return _matches(WORD, texts[:, 0]) > 0


@contextmanager
def without_terms(pipeline: "Pipeline") -> Iterator[list[list[str]]]:
    """Take a fitted pipeline's terms out while it is saved, and give them: of each vectoriser, in the order of its
    columns. skops would write half a kilobyte about each of hundreds of thousands."""
    vectorisers = _vectorisers(pipeline)
    vocabularies = [each.vocabulary_ for each in vectorisers]
    try:
        for each in vectorisers:
            each.vocabulary_ = {}
        yield [sorted(words, key=words.__getitem__) for words in vocabularies]
    finally:
        for each, words in zip(vectorisers, vocabularies, strict=True):
            each.vocabulary_ = words


def give_terms(pipeline: "Pipeline", terms: list[list[str]]) -> None:
    """Put back what :func:`without_terms` took out."""
    for each, words in zip(_vectorisers(pipeline), terms, strict=True):
        each.vocabulary_ = {word: column for column, word in enumerate(words)}


def _vectorisers(step: Any) -> "list[TfidfVectorizer]":
    """The fitted vectorisers within a step of a pipeline, in order."""
    inner = [part[1] for name in ("steps", "transformers_", "transformer_list") for part in getattr(step, name, [])]
    own = [step] if hasattr(step, "vocabulary_") else []
    return own + [found for each in inner for found in _vectorisers(each)]


def _terms(texts: np.ndarray) -> "TfidfVectorizer | Pipeline | None":
    from sklearn.pipeline import FeatureUnion, Pipeline
    from sklearn.preprocessing import Normalizer

    n_words, n_characters = _matches(TERM, texts), _matches(CHARACTER, texts)
    words = {"token_pattern": TERM, "ngram_range": (1, 2)}
    characters = {"token_pattern": CHARACTER, "ngram_range": (1, 3)}
    if not n_characters:
        return _vectoriser(n_words, **words) if n_words else None
    if not n_words:
        return _vectoriser(n_characters, **characters)
    both = [
        ("words", _vectoriser(n_words, norm=None, **words)),
        ("characters", _vectoriser(n_characters, norm=None, **characters)),
    ]
    return Pipeline([("terms", FeatureUnion(both)), ("norm", Normalizer())])


def _matches(pattern: str, texts: np.ndarray) -> int:
    """In how many texts there is something of it."""
    found = re.compile(pattern).search
    return sum(found(text.lower()) is not None for text in texts)


def _vectoriser(n_texts: int, **settings: Any) -> "TfidfVectorizer":
    """Of what ``n_texts`` texts hold something of: where they are many, a term must occur in two units."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, min_df=2 if n_texts > MANY_UNITS else 1, **settings)
