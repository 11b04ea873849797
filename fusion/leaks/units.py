"""A profile's units as an audit looks at them: labels, folds, what was said, what the manifest says of each."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from configs.schema import Profile
from extract.corpora.manifest import Manifest, Unit
from heads.data.folds import unit_folds

LISTENERS = ("listener", "listener_response")  # what they say ("I am so sorry to hear that") is said everywhere
# Of a script without blanks, two characters count as a word.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]{1,2}|[^\W_]+")


@dataclass(frozen=True)
class Audited:
    """n units of a manifest, in its order."""

    profile: Profile
    manifest: Manifest
    units: Sequence[Unit]
    folds: np.ndarray  # (n,) the fold of each training unit, -1 elsewhere

    @classmethod
    def of(cls, profile: Profile, manifest: Manifest) -> "Audited":
        """All units, in the folds that the profile's heads are trained in.

        Raises:
            UserError: no training units, or too few groups for the folds.
        """
        units = manifest.units()
        return cls(profile, manifest, units, unit_folds(units, profile.folds, profile.seed, profile.manifest_path))

    @property
    def n_folds(self) -> int:
        return int(self.folds.max()) + 1

    @cached_property
    def labels(self) -> np.ndarray:
        """(n,) class numbers."""
        numbers = {name: number for number, name in enumerate(self.manifest.classes)}
        return np.array([numbers[unit.label] for unit in self.units])

    @cached_property
    def splits(self) -> np.ndarray:
        return np.array([unit.split for unit in self.units])

    @cached_property
    def groups(self) -> np.ndarray:
        return np.array([unit.group for unit in self.units])

    @cached_property
    def rows(self) -> pl.DataFrame:
        """The manifest's row of each unit's labelled clip."""
        ids = pl.DataFrame({"clip_id": [unit.unit_id for unit in self.units]})
        return ids.join(self.manifest.clips, on="clip_id", maintain_order="left")

    def fields(self, prefix: str) -> dict[str, list[str | None]]:
        """What columns of a prefix say of the units; those that say nothing are left out."""
        names = [name for name in self.rows.columns if name.startswith(prefix)]
        filled = [name for name in names if self.rows[name].null_count() < len(self.units)]
        return {name.removeprefix(prefix): self.rows[name].to_list() for name in filled}

    @cached_property
    def seen(self) -> pl.DataFrame:
        """A row per unit (its number) and clip that it may see: unit, clip_id, role, speaker, text, words. The text is
        normalised, ``words`` their number; null where there is no text."""
        rows = pl.DataFrame(
            {
                "unit": [i for i, unit in enumerate(self.units) for _ in unit.clip_ids],
                "clip_id": [clip for unit in self.units for clip in unit.clip_ids],
            }
        )
        clips = self.manifest.clips.select("clip_id", "role", "speaker", "text")
        distinct = clips["text"].drop_nulls().unique(maintain_order=True)
        normal = [normalised(text) for text in distinct]
        texts = pl.DataFrame({"text": distinct, "normal": normal, "words": [len(text.split()) for text in normal]})
        clips = clips.join(texts, on="text", how="left", maintain_order="left").drop("text").rename({"normal": "text"})
        return rows.join(clips, on="clip_id", how="left", maintain_order="left")

    @cached_property
    def spoken(self) -> pl.DataFrame:
        """Of ``seen``, what the speaker said, and the situation: unit, text, words."""
        by_listener = pl.col("role").fill_null("speaker").is_in(LISTENERS)
        return self.seen.filter(~by_listener & (pl.col("words") > 0)).select("unit", "text", "words")


def normalised(text: str) -> str:
    """Words in Unicode's compatibility form, case-folded, one blank between them; punctuation is gone."""
    return " ".join(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
