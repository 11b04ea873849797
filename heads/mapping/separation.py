"""Is it the emotion or the speaker that an encoder separates? A linear probe and a silhouette for each."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score, recall_score, silhouette_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from heads.mapping.points import centred

FOLDS = 5
C = 0.01  # of the probe, a logistic regression on standardised features with balanced classes; not chosen on anything
MOST_PROBED = 5000  # clips, and
MOST_SILHOUETTE = 2000  # its cost goes with their square
MOST_NAMES = 50  # classes, or speakers, that a probe tells apart: those with the most clips
FEWEST = FOLDS  # clips of a speaker: one in each fold
TOGETHER = 0.3  # mutual information of emotion and speaker, of 1, from which their scores cannot be told apart
CLEAR = 2.5  # standard errors by which two scores must differ, before one is said to be higher


@dataclass(frozen=True)
class Probe:
    """``score``: balanced accuracy over all folds (as UA). ``error``: its standard error, from fold to fold, or as of
    that many independent answers, whichever is larger."""

    score: float
    error: float
    chance: float
    n_clips: int
    n_names: int
    n_folds: int

    @property
    def gain(self) -> float:
        """How far it gets from chance (0) to perfect (1)."""
        return (self.score - self.chance) / (1 - self.chance)

    @property
    def gain_error(self) -> float:
        return self.error / (1 - self.chance)


@dataclass(frozen=True)
class Separation:
    """What cannot be measured is None. ``centred``: the emotion's probe where each speaker's mean is taken off.

    ``together``: mutual information of emotion and speaker, 0 to 1."""

    emotion: Probe | None
    speaker: Probe | None
    centred: Probe | None
    emotion_silhouette: float | None
    speaker_silhouette: float | None
    together: float | None
    people_apart: bool  # no speaker of the emotion's probe is in training and held out

    def numbers(self) -> dict[str, Any]:
        return asdict(self)


def separate(
    values: np.ndarray,
    labels: Sequence[str | None],
    speakers: Sequence[str | None],
    groups: Sequence[str],
    seed: int,
) -> Separation:
    """Measure it.

    Args:
        values: (clips, dim), standardised.
        groups: what must not be both trained on and held out, when emotions are probed.
    """
    rng = np.random.default_rng(seed)
    of_label, of_speaker, group = (np.array(each, dtype=object) for each in (labels, speakers, groups))
    emotional = _rows(of_label, rng, 2)
    spoken = _rows(of_speaker, rng, FEWEST)
    emotion = _by_group(values, of_label, group, emotional, seed)
    without_mean = None
    both = emotional[[of_speaker[row] is not None for row in emotional]]
    if emotion is not None and len(both) == len(emotional) and _has_several(of_speaker):
        without_mean = _by_group(centred(values, speakers), of_label, group, emotional, seed)
    apart = {(of_speaker[row], group[row]) for row in both}
    known = len(both) > 1
    return Separation(
        emotion,
        _mixed(values, of_speaker, spoken, seed),
        without_mean,
        _silhouette(values, of_label, emotional),
        _silhouette(values, of_speaker, spoken),
        float(normalized_mutual_info_score(of_label[both].tolist(), of_speaker[both].tolist())) if known else None,
        known and len(apart) == len({speaker for speaker, _ in apart}),
    )


def _rows(names: np.ndarray, rng: np.random.Generator, fewest: int) -> np.ndarray:
    """Clips with a name that enough of them have; of many names the most frequent, of many clips some."""
    counts = Counter(name for name in names if name is not None)
    kept = {name for name, n in counts.most_common(MOST_NAMES) if n >= fewest}
    rows = np.flatnonzero([name in kept for name in names])
    return rows if len(rows) <= MOST_PROBED else np.sort(rng.choice(rows, MOST_PROBED, replace=False))


def _has_several(speakers: np.ndarray) -> bool:
    """Whether speakers have clips to take a mean of."""
    counts = Counter(speakers.tolist())
    return len(counts) > 1 and min(counts.values()) > 2


def _by_group(values: np.ndarray, names: np.ndarray, groups: np.ndarray, rows: np.ndarray, seed: int) -> Probe | None:
    folds = min(FOLDS, len(set(groups[rows])))
    if folds < 2 or len(set(names[rows])) < 2:
        return None
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer clips than folds
        splits = list(splitter.split(rows, names[rows].tolist(), groups[rows].tolist()))
    return _probe(values[rows], names[rows].astype(str), splits)


def _mixed(values: np.ndarray, names: np.ndarray, rows: np.ndarray, seed: int) -> Probe | None:
    if len(set(names[rows])) < 2:
        return None
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return _probe(values[rows], names[rows].astype(str), list(splitter.split(rows, names[rows].tolist())))


def _probe(values: np.ndarray, names: np.ndarray, splits: list[tuple[np.ndarray, np.ndarray]]) -> Probe | None:
    """Each clip is named by a model that has not seen its fold."""
    guesses = np.empty_like(names)
    scores = []
    for train, held in splits:
        if len(set(names[train])) < 2:
            return None
        model = LogisticRegression(C=C, class_weight="balanced", max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for a comparison
            guesses[held] = model.fit(values[train], names[train]).predict(values[held])
        scores.append(_balanced(names[held], guesses[held]))
    score, chance = _balanced(names, guesses), 1 / len(set(names))
    between = float(np.std(scores, ddof=1) / np.sqrt(len(scores)))
    likely = (max(score, chance) * len(names) + 1) / (len(names) + 2)  # never 1, of which nothing could be in error
    counted = float(np.sqrt(likely * (1 - likely) / len(names)))
    return Probe(score, max(between, counted), chance, len(names), len(set(names)), len(splits))


def _balanced(names: np.ndarray, guesses: np.ndarray) -> float:
    present = sorted(set(names))
    return float(recall_score(names, guesses, labels=present, average="macro", zero_division=0))


def _silhouette(values: np.ndarray, names: np.ndarray, rows: np.ndarray) -> float | None:
    rows = rows[:: -(-len(rows) // MOST_SILHOUETTE)] if len(rows) else rows
    n_names = len(set(names[rows]))
    return float(silhouette_score(values[rows], names[rows].astype(str))) if 1 < n_names < len(rows) else None


def in_words(found: Separation) -> list[str]:
    """The answer, as sentences."""
    emotion, speaker = found.emotion, found.speaker
    if emotion is None and speaker is None:
        return ["Neither emotions nor speakers are known of enough clips to say what is separated."]
    sentences = []
    if emotion is not None:
        who = "people" if found.people_apart else "groups"
        sentences.append(
            f"Of {who} that it has not met, a linear probe names the right one of {emotion.n_names} emotions "
            f"{emotion.score:.0%} of the time ({emotion.chance:.0%} by chance)."
        )
    if speaker is not None:
        sentences.append(
            f"Of clips that it has not met, a linear probe names the right one of {speaker.n_names} speakers "
            f"{speaker.score:.0%} of the time ({speaker.chance:.0%} by chance)."
        )
    if emotion is None or speaker is None:
        lacking = "Emotions" if emotion is None else "Speakers"
        return [*sentences, f"{lacking} are not known of enough clips, or there is but one: nothing to compare."]
    gap, noise = speaker.gain - emotion.gain, float(np.hypot(speaker.gain_error, emotion.gain_error))
    to_speaker, to_emotion = max(0, speaker.gain), max(0, emotion.gain)
    way = f"{to_speaker:.0%} of the way from chance to certainty against {to_emotion:.0%}"
    if max(each.gain - CLEAR * each.gain_error for each in (emotion, speaker)) <= 0:
        sentences.append("It separates neither beyond what can be chance.")
    elif abs(gap) <= CLEAR * noise:
        sentences.append(f"It separates both about as well (for speakers {way}): so small a gap can be chance.")
    elif gap > 0:
        sentences.append(f"It separates the speaker more than the emotion: {way}.")
    else:
        sentences.append(f"It separates the emotion more than the speaker: for speakers {way}.")
    if found.together is not None and found.together > TOGETHER:
        sentences.append(
            f"Emotion and speaker go together here (mutual information {found.together:.2f} of 1): who knows one knows "
            "much of the other, and the two cannot be told apart."
        )
    if found.centred is not None:
        sentences.append(
            f"With each speaker's mean taken off (transductive; standardise: speaker), the emotion is named "
            f"{found.centred.score:.0%} of the time."
        )
    return sentences
