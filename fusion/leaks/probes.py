"""Probes: how well what should not tell the label - metadata, identity, privileged fields - predicts it alone.

A probe is a naive Bayes classifier over categories (scikit-learn's, with binary counts and equal priors): it has
nothing to tune, takes any number of categories, and says nothing of one that no training unit has.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import KFold
from sklearn.naive_bayes import MultinomialNB

from cache import read_published
from fusion.leaks.chance import LIKELY, STATISTIC, SURE, Chance, against_chance, clustered_p
from fusion.leaks.outputs import Check, Verdict, skipped
from fusion.leaks.units import Audited, normalised

SMOOTHING = 0.1  # added to the count of every category in every class
TOO_MUCH = 0.8  # of the way from chance to perfect balanced accuracy: such a field is the label in other words
MUCH, NOTABLE = 0.3, 0.1
TOGETHER = "all together"
PLACES = {"oof": "out of fold", "test": "on test"}
VERBATIM = 3  # words; shorter privileged texts are names of emotions, which people say
MOST_VERBATIM = 0.01
Values = Mapping[str, Sequence[str | None]]  # field: what it says of each unit


@dataclass(frozen=True)
class Found:
    """What fields predict, out of fold and, where there are test units, on test."""

    chance: dict[str, Chance]  # "oof", "test": each field's balanced accuracy against chance
    clustered: dict[str, float]  # the p-value of each place's best field, where groups stand or fall together
    accuracy: dict[str, tuple[float, float]]  # of the fields together, and of always answering the most frequent class

    @property
    def worst(self) -> str:
        """The place where the best field gets farthest."""
        return max(self.chance, key=self.gain)

    def gain(self, place: str) -> float:
        chance = self.chance[place]
        return chance.gain(chance.best)

    @property
    def verdict(self) -> Verdict:
        verdict: Verdict = "pass"
        for place, chance in self.chance.items():
            if self.gain(place) >= TOO_MUCH and chance.p[chance.best] <= SURE:
                return "fail"
            shown = self.gain(place) >= NOTABLE and self.clustered[place] <= LIKELY  # a few groups can show nothing so
            if shown or (self.gain(place) >= MUCH and chance.p[chance.best] <= SURE):
                verdict = "warn"
        return verdict

    def sentence(self, who: str) -> str:
        place, chance = self.worst, self.chance[self.worst]
        best = chance.best
        which = f"{best!r}" if len(chance.scores) == 1 or best == TOGETHER else f"the best is {best!r}"
        accuracy, frequent = self.accuracy[place]
        of = "of all fields together" if TOGETHER in chance.scores else "of it"
        return (
            f"{who} alone ({which}) tells the label with balanced accuracy {chance.scores[best][STATISTIC]:.3f} "
            f"{PLACES[place]}, {chance.expected[best][STATISTIC]:.3f} by chance (p = {self.clustered[place]:.2g}, if "
            f"groups stand or fall together); accuracy {of} {accuracy:.3f}, {frequent:.3f} for the most frequent class."
        )

    def check(self, name: str, verdict: Verdict, text: str, fails_above: bool = True, **details: Any) -> Check:
        chance = self.chance[self.worst]
        expected = chance.expected[chance.best][STATISTIC]
        numbers = {
            place: numbers_of(chance)
            | {
                "p_by_groups": self.clustered[place],
                "accuracy": self.accuracy[place][0],
                "accuracy_of_most_frequent_class": self.accuracy[place][1],
            }
            for place, chance in self.chance.items()
        }
        threshold = expected + TOO_MUCH * (1 - expected) if fails_above else None
        return Check(name, verdict, chance.scores[chance.best][STATISTIC], threshold, text, [], numbers | details)


def numbers_of(chance: Chance) -> dict[str, Any]:
    return {
        "best": chance.best,
        "balanced_accuracy": {name: scores[STATISTIC] for name, scores in chance.scores.items()},
        "expected_by_chance": {name: scores[STATISTIC] for name, scores in chance.expected.items()},
        "p": chance.p,
    }


def probe(values: Values, audited: Audited, words: bool = False) -> Found:
    """Predict the label from each field, and from all together: training units out of fold, test from all of them.

    Args:
        words: fields are texts: each word is a category, too.
    """
    fields = {name: _categories({name: said}, words) for name, said in values.items()}
    if len(values) > 1:
        fields[TOGETHER] = _categories(values, words)
    likelihoods = {name: _likelihoods(categories, audited) for name, categories in fields.items()}
    labels, n_classes, training = audited.labels, len(audited.manifest.classes), audited.folds >= 0
    counts = np.bincount(labels[training], minlength=n_classes)
    with np.errstate(divide="ignore"):
        weighed = (list(likelihoods.values())[-1] + np.log(counts)).argmax(1)
    chance, clustered, accuracy = {}, {}, {}
    for place, rows in {"oof": training, "test": audited.splits == "test"}.items():
        if not rows.any():
            continue
        guesses = {name: likelihood[rows].argmax(1) for name, likelihood in likelihoods.items()}
        truth, blocks, seed, crossed = labels[rows], audited.folds[rows], audited.profile.seed, place == "oof"
        found = chance[place] = against_chance(truth, guesses, n_classes, blocks, seed, crossed)
        clustered[place] = clustered_p(
            truth, guesses[found.best], n_classes, blocks, audited.groups[rows], seed, crossed
        )
        accuracy[place] = float((weighed[rows] == truth).mean()), float((counts.argmax() == truth).mean())
    return Found(chance, clustered, accuracy)


def _categories(values: Values, words: bool) -> list[list[str]]:
    """Of each unit: each field's value, all values as one, and with ``words`` each word of a value."""
    result = []
    for said in zip(*values.values(), strict=True):
        known = [(field, value) for field, value in zip(values, said, strict=True) if value is not None]
        unit = [f"{field}={value}" for field, value in known]
        if words:
            unit += [f"{field}:{word}" for field, value in known for word in normalised(value).split()]
        elif len(known) > 1:
            unit.append(json.dumps(said))
        result.append(unit)
    return result


def _likelihoods(categories: list[list[str]], audited: Audited) -> np.ndarray:
    """Log-likelihoods, (units, classes). Training units out of fold, others from all training units; zeros for units of
    which nothing is known that training units have, -inf for classes that they lack."""
    labels, folds = audited.labels, audited.folds
    result = np.zeros((len(labels), len(audited.manifest.classes)))
    for fold in np.unique(folds).tolist():  # -1: val and test
        train, held = np.flatnonzero((folds >= 0) & (folds != fold)), np.flatnonzero(folds == fold)
        if not any(categories[i] for i in train):
            continue
        counter = CountVectorizer(analyzer=list, binary=True)
        counts = counter.fit_transform([categories[i] for i in train])
        model = MultinomialNB(alpha=SMOOTHING, fit_prior=False).fit(counts, labels[train])
        result[held] = -np.inf
        of_held = counter.transform([categories[i] for i in held])
        result[np.ix_(held, model.classes_)] = of_held @ model.feature_log_prob_.T
    return result


def metadata_check(audited: Audited) -> Check:
    """Do the free fields tell the label?"""
    values = {field: said for field, said in audited.fields("meta_").items() if not _names_somebody(field)}
    if not values:
        return skipped("probe.metadata", "The manifest has no metadata that describes units.")
    found = probe(values, audited)
    readers = [name for name, head in audited.profile.heads.items() if set(head.metadata) & set(values)]
    text = found.sentence("Metadata") + f" Heads that read metadata: {', '.join(readers) or 'none'}."
    if found.verdict == "fail":
        text += " A field that says so much is the label in other words: make it privileged, or leave it out."
    return found.check("probe.metadata", found.verdict, text, heads=readers)


def identity_check(audited: Audited) -> Check:
    """Does it tell the label to know who it is, and nothing else?"""
    values = {"speaker": audited.rows["speaker"].to_list(), "conversation": audited.rows["conversation_id"].to_list()}
    values |= {"group": audited.groups.tolist()}
    values |= {field: said for field, said in audited.fields("meta_").items() if _names_somebody(field)}
    values = _telling(values)
    if not values:
        return skipped("probe.identity", "Every unit has speaker, conversation and group for itself, or none is known.")
    found = probe(values, audited)
    training = audited.folds >= 0
    units = [unit for unit, within in zip(audited.units, training, strict=True) if within]
    folds = np.empty(len(units), dtype=int)
    splitter = KFold(audited.n_folds, shuffle=True, random_state=audited.profile.seed)
    for fold, (_, part) in enumerate(splitter.split(folds)):
        folds[part] = fold
    of_training = {name: np.array(said, dtype=object)[training].tolist() for name, said in values.items()}
    free = probe(of_training, replace(audited, units=units, folds=folds)).chance["oof"]
    score, expected = free.scores[free.best][STATISTIC], free.expected[free.best][STATISTIC]
    text = found.sentence("Identity")
    pays = free.p[free.best] <= SURE
    text += (
        f" In folds that did not keep groups together, {free.best!r} alone would give "
        f"{score:.3f}, {expected:.3f} by chance: recognising who it is would {'pay' if pays else 'not even pay'} there."
    )
    return found.check("probe.identity", found.verdict, text, folds_without_groups=numbers_of(free))


def _names_somebody(field: str) -> bool:
    return field.endswith("_id") or field in ("id", "name", "speaker", "listener")


def _telling(values: dict[str, list[str | None]]) -> dict[str, list[str | None]]:
    """Without fields that divide the units as another one does, or that two units never share."""
    found: dict[tuple[int, ...], str] = {}
    for field, said in values.items():
        numbers: dict[str | None, int] = {None: -1}
        code = tuple(numbers.setdefault(value, len(numbers)) for value in said)
        known = [number for number in code if number >= 0]
        if len(set(known)) < len(known):
            found.setdefault(code, field)
    return {field: values[field] for field in found.values()}


def privileged_checks(audited: Audited) -> list[Check]:
    """What privileged fields tell, who reads them, and whether what they say stands in what everybody reads."""
    values = audited.fields("privileged_")
    if not values:
        nothing = "The manifest has no privileged fields."
        return [skipped(name, nothing) for name in ("probe.privileged", "privileged.heads", "privileged.text")]
    found = probe(values, audited, words=True)
    text = found.sentence("What is privileged") + " Nothing is wrong with that, as long as no head reads it."
    told = found.check("probe.privileged", "pass", text, fails_above=False)
    return [told, _readers(audited, values), _verbatim(audited, values)]


def _readers(audited: Audited, values: Values) -> Check:
    """Heads of the profile, and those that were trained, that read a privileged field."""
    columns = audited.manifest.clips.columns
    allowed: list[str] = []
    hidden: list[str] = []
    for name, head in audited.profile.heads.items():
        said = {"profile": (head.metadata, head.privileged)} | _trained(audited.profile.head_path(name))
        for where, (fields, privileged) in said.items():
            read = [field for field in fields if field in values and f"meta_{field}" not in columns]
            if read:
                (allowed if privileged else hidden).append(f"head {name} ({where}) reads {', '.join(read)}")
    verdict: Verdict = "fail" if hidden else "warn" if allowed else "pass"
    text = "No head reads a privileged field."
    if hidden:
        text = "Heads read fields derived from the label without saying so: set privileged: true, or leave them out."
    elif allowed:
        text = "Heads read fields derived from the label, as the profile allows; the titles of their results say so."
    return Check("privileged.heads", verdict, float(len(hidden)), 0.0, text, hidden + allowed)


def _trained(folder: Path) -> dict[str, tuple[list[str], bool]]:
    """The metadata that a trained head reads, and whether its scores say that it is privileged; nothing if untrained.

    Raises:
        StoreError: a file of the head is not what was written.
    """
    about, metrics = folder / "model" / "head.json", folder / "metrics.json"
    if not (about.is_file() and metrics.is_file()):
        return {}
    again = f"train it again with python heads/train.py --head {folder.name}"
    settings = json.loads(read_published(about, again))["settings"]
    return {"trained": (settings["metadata"], json.loads(read_published(metrics, again))["privileged"])}


def _verbatim(audited: Audited, values: Values) -> Check:
    """Privileged texts that stand word by word in what units see."""
    read = audited.seen.filter(audited.seen["text"].is_not_null()).group_by("unit", maintain_order=True).agg("text")
    found = []
    for number, texts in read.iter_rows():
        visible = f" {' '.join(texts)} "
        for field, said in values.items():
            secret = normalised(said[number] or "")
            if len(secret.split()) >= VERBATIM and f" {secret} " in visible:
                found.append((number, f"{audited.units[number].unit_id}: {field} {said[number]!r}"))
                break
    share = len(found) / len(audited.units)
    verdict: Verdict = "fail" if share > MOST_VERBATIM else "warn" if found else "pass"
    text = f"{len(found)} units ({share:.1%}) see, word by word, a privileged text of {VERBATIM} words or more."
    return Check("privileged.text", verdict, share, MOST_VERBATIM, text, [example for _, example in found[:5]])
