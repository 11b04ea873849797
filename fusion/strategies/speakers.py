"""People differ: each head's log-probabilities less what is the speaker's own, before any strategy sees them.

To a head that never met them, some people sound sad whatever they feel. What a head says of all rows of a speaker, on
average, is moved to what it says of all oof rows. That reads the speaker's other rows, those to be judged among them,
and no label: it is transductive, and cross-fitting needs no change for it. It takes for granted that people's mixes of
emotions are alike; who is sad all the time looks neutral afterwards.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy.special import log_softmax

from cache import read_published, read_sealed_parquet
from configs import UserError
from fusion.strategies.catalogue import Fitted, load, save
from fusion.tables.predictions import Predictions

if TYPE_CHECKING:
    from fusion.strategies.nested import Fusion

# Rows beside a row with which half of what is the speaker's own is believed, and taken away. In a simulation (6
# classes, 2 to 64 rows of a speaker, mixes of emotions from equal to very different, own parts from none to large) 2
# and 4 lost least log-loss on average: .08 to the best choice for each case, where 0 lost .14 and no centring .17.
HALF = 4.0
FLOOR = -16.0  # log-probabilities below count as this in means: a class that a model masks says nothing of people
SAVED, EVERYONE = "speakers", "everyone.json"  # below the fitted fusion
TRANSDUCTIVE = "what heads say is centred per speaker, whose unlabelled units are read"


def fuse_centred(units: Predictions, strategies: list[str], **settings: Any) -> "Fusion":
    """As :func:`fusion.strategies.nested.fuse`, on centred heads; the chosen strategy is fitted on plain ones, too.

    Raises:
        UserError: as there; no speaker has two units; the tables name neither speakers nor groups.
    """
    # seconds to import, and who predicts fuses nothing
    from fusion.strategies.nested import Plain, candidate, cross_fit, fuse
    from heads.metrics.scores import evaluate

    found = fuse(centred(units), strategies, **settings)
    seed, bootstrap = settings.get("seed", 0), settings.get("bootstrap", 1000)
    log_p, _, fitted = cross_fit(units, {found.chosen: candidate(found.chosen, units.heads)}, seed)
    scores = {}
    for split in found.scores[found.chosen]:
        rows, p = units.where(units.splits == split), np.exp(log_p[found.chosen][units.splits == split])
        scores[split] = evaluate(rows.label_names, p, units.classes, rows.groups.tolist(), bootstrap, seed)
    plain = Plain(fitted[found.chosen], scores, everyone(units), log_p[found.chosen])
    notes = _notes(units)
    if scores["oof"]["macro_f1"]["value"] > found.scores[found.chosen]["oof"]["macro_f1"]["value"]:
        notes.append("On oof the plain heads do better: set fusion.standardise to none.")
    return replace(found, plain=plain, transductive=(TRANSDUCTIVE,), notes=(*notes, *found.notes))


def centred(units: Predictions) -> Predictions:
    """The units with each head's log-probabilities less what is their speaker's own, in their split.

    Of a speaker with n rows of a head, a share (n - 1) / (n - 1 + HALF) of the difference is taken away: all of it
    where he is well known, nothing of a single row. Rows whose speaker is unknown stay as they are.

    Raises:
        UserError: no speaker has two units; the tables name neither speakers nor groups.
    """
    who = _who(units)
    keys = np.array([f"{split} {name}" for split, name in zip(units.splits, who, strict=True)])
    keys = np.where(_unknown(who), [f"? {i}" for i in range(len(who))], keys)  # each by itself
    _, speaker = np.unique(keys, return_inverse=True)
    if np.bincount(speaker).max() < 2:
        raise UserError("fusion.standardise: speaker: no speaker (or group) has two units: set it to none")
    shape = (speaker.max() + 1, *units.present.shape[1:], len(units.classes))
    sums, counts = np.zeros(shape), np.zeros(shape[:2])
    np.add.at(counts, speaker, units.present)
    np.add.at(sums, speaker, _floored(units))
    means = sums / np.maximum(counts, 1)[..., None]  # (speakers, h, c)
    own = _believed(counts)[..., None] * (means - everyone(units))
    return replace(units, logits=log_softmax(units.logits - own[speaker], axis=2))


def everyone(units: Predictions) -> np.ndarray:
    """(h, c): the mean of each head's log-probabilities over the oof rows."""
    oof = units.splits == "oof"
    counts = np.maximum(units.present[oof].sum(axis=0), 1)
    return _floored(units)[oof].sum(axis=0) / counts[:, None]


def _floored(units: Predictions) -> np.ndarray:
    """(n, h, c), 0 where a head is absent."""
    return np.where(units.present[..., None], np.maximum(units.logits, FLOOR), 0.0)


def _believed(counts: np.ndarray) -> np.ndarray:
    """The share of a difference that is taken away, by the number of rows that it was measured on."""
    others = np.maximum(counts - 1, 0)
    return others / (others + HALF)


def _who(units: Predictions) -> np.ndarray:
    """(n,) str or None: speakers, or where none is named, groups."""
    if units.speakers is not None:
        return units.speakers
    if (units.groups == units.unit_ids).all():
        raise UserError(
            "fusion.standardise: speaker: neither a column 'speaker' nor 'group' says who speaks: add one, or set it "
            "to none"
        )
    return units.groups.astype(object)


def _unknown(who: np.ndarray) -> np.ndarray:
    return np.array([name is None for name in who], dtype=bool)


def _notes(units: Predictions) -> list[str]:
    who = _who(units)
    named = "speakers" if units.speakers is not None else "groups, for want of speakers"
    notes = [
        f"Heads are centred on {len(set(who) - {None})} {named}. A new clip by itself is answered by the same strategy "
        "fitted on plain heads, whose score stands beside."
    ]
    if unknown := int(_unknown(who).sum()):
        notes.append(f"Of {unknown} units nobody knows who speaks: they are not centred.")
    return notes


def manifest_speakers(path: Path, unit_ids: np.ndarray) -> np.ndarray | None:
    """(n,) str or None: who speaks in the labelled clips, as a manifest says; None where it knows none of them."""
    clips = pl.read_parquet(read_sealed_parquet(path, "make it again with python extract/manifest.py"))
    named = dict(clips.select("clip_id", "speaker").drop_nulls().iter_rows()) if "speaker" in clips.columns else {}
    speakers = np.array([named.get(unit) for unit in unit_ids.tolist()], dtype=object)
    return None if _unknown(speakers).all() else speakers


# --- serving: speakers who are met clip by clip ---


@dataclass(frozen=True)
class People:
    """What answers for people who are known: the strategy fitted on centred heads, and what these were centred on."""

    fitted: Fitted
    everyone: np.ndarray  # (h, c)


class Met:
    """Running means of speakers who are met: what is the speaker's own is taken away once half of it is believed."""

    def __init__(self, people: People) -> None:
        self.people = people
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, np.ndarray] = {}

    def centre(self, speaker: str, logits: np.ndarray) -> tuple[np.ndarray, int]:
        """One more row of a speaker, (h, c), NaN where a head is absent; centred on him so far, and on how many rows.

        0 rows: he is not known well enough, and nothing was taken away.
        """
        present = ~np.isnan(logits).any(axis=1)
        sums = self._sums.setdefault(speaker, np.zeros(self.people.everyone.shape))
        counts = self._counts.setdefault(speaker, np.zeros(len(present)))
        sums[present] += np.maximum(logits[present], FLOOR)
        counts[present] += 1
        shares = _believed(counts)
        if not present.any() or shares[present].min() < 0.5:
            return logits, 0
        own = shares[:, None] * (sums / np.maximum(counts, 1)[:, None] - self.people.everyone)
        return log_softmax(logits - own, axis=1), int(counts[present].min())


def save_centred(found: "Fusion", folder: Path) -> None:
    """Write, beside the plain fit, the one on centred heads and what it was centred on."""
    assert found.plain is not None
    save(found.fitted, folder / SAVED)
    (folder / SAVED / EVERYONE).write_text(json.dumps(found.plain.everyone.tolist()) + "\n", encoding="utf-8")


def load_centred(folder: Path) -> People | None:
    """What :func:`save_centred` wrote; None where the fusion is a plain one."""
    path = folder / SAVED / EVERYONE
    if not path.is_file():
        return None
    mean = json.loads(read_published(path, "fuse the heads again with fusion/stack.py"))
    return People(load(folder / SAVED), np.array(mean))
