"""The bag-of-words head's input: what was said, as TF-IDF. It reads texts, and no store."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from extract.corpora.manifest import Manifest, Unit

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer

SPEAKER_ROLES = ("speaker", "context")  # the situation is told from the speaker's side
MANY_UNITS = 1000  # above this, an n-gram must occur in two units


def unit_texts(manifest: Manifest, units: Sequence[Unit]) -> np.ndarray:
    """The texts of each unit, (units, 2): all of it, and the speaker's part with the situation.

    Marking the speaker's words matters: the listener often names feelings that the speaker does not have. Clips
    without text add nothing; a unit without any text has two empty ones.
    """
    said = dict(zip(manifest.clips["clip_id"], manifest.clips.select("role", "text").iter_rows(), strict=True))
    texts = np.empty((len(units), 2), dtype=object)
    for row, unit in enumerate(units):
        lines = [(role, text) for role, text in (said[clip_id] for clip_id in unit.clip_ids) if text]
        texts[row, 0] = "\n".join(text for _, text in lines)
        texts[row, 1] = "\n".join(text for role, text in lines if role in SPEAKER_ROLES)
    return texts


def text_features(texts: np.ndarray) -> "ColumnTransformer":
    """An unfitted vectoriser for the texts of :func:`unit_texts`; a column that adds nothing is left out."""
    from sklearn.compose import ColumnTransformer  # seconds to import, and who predicts fits nothing
    from sklearn.feature_extraction.text import TfidfVectorizer

    columns = [0]
    if any(texts[:, 1]) and (texts[:, 0] != texts[:, 1]).any():
        columns.append(1)
    min_df = 2 if len(texts) > MANY_UNITS else 1
    return ColumnTransformer(
        [
            (f"words{column}", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=min_df), column)
            for column in columns
        ]
    )
