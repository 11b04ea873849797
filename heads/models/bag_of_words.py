"""The bag-of-words head: logistic regression on what was said, as TF-IDF. It reads texts, and no store."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs import UserError
from extract.corpora.manifest import Manifest, Unit
from heads.data.batches import seen_clips
from heads.data.folds import FoldTask, Record
from heads.data.sampling import class_weights
from heads.data.scripts import CHARACTER, TERM, WORD, folded
from heads.metrics.choosing import Judgement, judged

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import Pipeline

SPEAKER_ROLES = ("speaker", "context")  # the situation is told from the speaker's side
MANY_UNITS = 1000  # above this, a term must occur in two units
CS = (1.0, 3.0, 10.0)
FIRST_C = 3.0  # with which it is chosen what is read


@dataclass(frozen=True)
class BagModel:
    """A fitted pipeline: features of texts, then logistic regression."""

    pipeline: "Pipeline"
    n_classes: int

    def log_probabilities(self, data: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Log-probabilities, (units, classes) float64; a class never seen in training gets a tiny probability."""
        from heads.models.linear import spread

        if not len(indices):
            return np.empty((0, self.n_classes))
        return spread(self.pipeline.predict_proba(data[indices]), self.pipeline.classes_, self.n_classes)

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        import skops.io

        about: dict[str, Any] = {"file": f"{stem}.skops", "n_classes": self.n_classes}
        with without_terms(self.pipeline) as terms:
            (folder / about["file"]).write_bytes(skops.io.dumps(self.pipeline))
        about["terms"] = f"{stem}.terms.json"
        (folder / about["terms"]).write_text(json.dumps(terms), encoding="utf-8")
        return about


def load_fold(folder: Path, about: dict[str, Any]) -> BagModel:
    """What :meth:`BagModel.save` wrote; nothing is unpickled."""
    import skops.io

    pipeline = skops.io.load(folder / about["file"], trusted=["numpy.dtype"])  # beside scikit-learn's own types
    give_terms(pipeline, json.loads((folder / about["terms"]).read_text(encoding="utf-8")))
    return BagModel(pipeline, about["n_classes"])


def fit_fold(task: FoldTask) -> tuple[BagModel, list[Record]]:
    """Fit on the units ``train``, with what does best on the inner folds.

    In turn: which texts are read, the labelled clip's, all, or both apart; C, unless the head has its own; and letters
    of words beside words, kept where they do better. ``task.data`` has a row per unit, from :func:`unit_texts`.

    Returns:
        The model, and a record per C: c, inner_loss, inner_macro_f1, best, and ``read``; the best one also says
        whether letters were kept, and has inner_macro_f1_words and inner_macro_f1_letters where both were tried.
    Raises:
        UserError: the training units have no words, or are of one class only.
    """
    head, texts = task.head, task.data
    read, columns = ways(texts[task.train])[0]
    letters = bool(head.letters)

    def tried(columns: tuple[int, ...], cs: Sequence[float], letters: bool) -> tuple[list[Judgement], list[BagModel]]:
        """How each C does, and the models of the last inner fold."""
        held = np.concatenate([part for _, part in task.inner])
        parts = [_fit(task, fit, columns, cs, letters) for fit, _ in task.inner]
        of_c = (zip(models, task.inner, strict=True) for models in zip(*parts, strict=True))
        log_p = [np.concatenate([model.log_probabilities(texts, part) for model, (_, part) in each]) for each in of_c]
        return [judged(task.metric, task.labels[held], values) for values in log_p], parts[-1]

    if not task.inner:
        c = head.c or FIRST_C
        return _fit(task, task.train, columns, [c], letters)[0], [{"c": c, "best": True, "read": read}]
    several = ways(texts[task.train])
    if len(several) > 1:
        found = [tried(columns, [head.c or FIRST_C], letters)[0][0].goodness for _, columns in several]
        read, columns = several[max(range(len(several)), key=found.__getitem__)]  # the first of equals
    cs = CS if head.c is None else (head.c,)
    results, models = tried(columns, cs, letters)
    best = max(range(len(cs)), key=lambda i: results[i].goodness)
    both = {}
    if head.letters is None and head.c is None and has_letters(texts[task.train]):
        words, ((other,), (with_letters,)) = results[best], tried(columns, [cs[best]], letters=True)
        letters = other.goodness > words.goodness
        if letters:
            results[best], models[best] = other, with_letters
        both = {"inner_macro_f1_words": words.macro_f1, "inner_macro_f1_letters": other.macro_f1}
    history: list[Record] = [
        {"c": c, "inner_loss": result.loss, "inner_macro_f1": result.macro_f1, "best": i == best, "read": read}
        for i, (c, result) in enumerate(zip(cs, results, strict=True))
    ]
    history[best] |= {"letters": letters} | both
    if len(task.fit) == len(task.train):
        return models[best], history
    return _fit(task, task.train, columns, [cs[best]], letters)[0], history


def _fit(
    task: FoldTask, units: np.ndarray, columns: tuple[int, ...], cs: Sequence[float], letters: bool
) -> list[BagModel]:
    """A model for each C, sharing its features.

    None starts from another: by the gradient of a mean over many units it would be done before its first step.
    """
    from sklearn.linear_model import LogisticRegression  # seconds to import, and who predicts fits nothing
    from sklearn.pipeline import Pipeline

    head, texts, labels = task.head, task.data[units], task.labels[units]
    if len(set(labels.tolist())) < 2:
        raise UserError(f"{head.kind} head: the training units of a fold are all of one class")
    features = text_features(texts, letters, columns)
    try:
        inputs = features.fit_transform(texts)
    except ValueError as error:  # scikit-learn: "empty vocabulary", "no terms remain"
        raise UserError(f"{head.kind} head: the training units hold nothing to learn from ({error})") from error
    counts = class_weights(labels, task.n_classes)[labels] if head.loss == "weighted" else None
    models = []
    for c in cs:
        # newton-cg: four times faster here than lbfgs, and it converges where lbfgs stops early
        model = LogisticRegression(C=c, solver="newton-cg", max_iter=1000, random_state=task.seed)
        model.fit(inputs, labels, sample_weight=counts)
        models.append(BagModel(Pipeline([("features", features), ("model", model)]), task.n_classes))
    return models


def unit_texts(manifest: Manifest, units: Sequence[Unit], context_clips: int | None = None) -> np.ndarray:
    """The texts of each unit, (units, 3): all of it, the speaker's part with the situation, the labelled clip's.

    Marking the speaker's words matters: the listener often names feelings that the speaker does not have. Clips
    without text add nothing; a unit without any text has empty ones. What looks alike is made alike.

    Args:
        context_clips: how many clips before the labelled one count; None: all.
    """
    said = dict(zip(manifest.clips["clip_id"], manifest.clips.select("role", "text").iter_rows(), strict=True))
    texts = np.empty((len(units), 3), dtype=object)
    for row, unit in enumerate(units):
        clips = [(clip_id, *said[clip_id]) for clip_id in seen_clips(unit, context_clips)]
        lines = [(clip_id, role, folded(text)) for clip_id, role, text in clips if text]
        texts[row, 0] = "\n".join(text for _, _, text in lines)
        texts[row, 1] = "\n".join(text for _, role, text in lines if role in SPEAKER_ROLES)
        texts[row, 2] = "\n".join(text for clip_id, _, text in lines if clip_id == unit.unit_id)
    return texts


def text_features(texts: np.ndarray, letters: bool = False, read: Sequence[int] = (0, 1)) -> "ColumnTransformer":
    """An unfitted vectoriser for the texts of :func:`unit_texts`; a column that adds nothing is left out.

    Terms are words, emoji and what gives emphasis, alone and in pairs; where words are not separated, one to three
    characters. Texts that hold both weigh them together.

    Args:
        letters: add two to four letters of a word, which words of one stem share.
        read: which columns, in order.
    Raises:
        UserError: no text has anything of it.
    """
    from sklearn.compose import ColumnTransformer  # seconds to import, and who predicts fits nothing

    columns: list[int] = []
    for column in read:
        if any(texts[:, column]) and all((texts[:, column] != texts[:, other]).any() for other in columns):
            columns.append(column)
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


def ways(texts: np.ndarray) -> list[tuple[str, tuple[int, ...]]]:
    """How texts can be read, in words and as columns: one way where no unit has more than its labelled clip."""
    if (texts[:, 0] == texts[:, 2]).all():
        return [("own", (2,))]
    if not any(texts[:, 2]):
        return [("all", (0, 1))]
    return [("all", (0, 1)), ("own", (2,)), ("apart", (2, 0, 1))]


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

    # float32: fits take half the time and memory, and what they say stays the same to a thousandth
    return TfidfVectorizer(sublinear_tf=True, min_df=2 if n_texts > MANY_UNITS else 1, dtype=np.float32, **settings)
