"""Whether stores hold what a head is to read: an extraction may be unfinished, all clips of an input may have failed.

What counts: of the manifest's clips that an encoder is to read, those that its store holds, and those that its
``errors.parquet`` names. A clip that is in neither was never tried: the pass was killed or runs still, clips came to
the manifest after it, or damaged ones were cut out of the store. Stores that were not written by an extraction (their
fields name no encoder's family) hold what they hold.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from cache import Store, read_small, writing_process
from configs import UserError
from configs.schema import OF_VIEW, Head, Profile
from extract.corpora.clips import clips_with_media
from extract.corpora.manifest import Manifest, Unit
from heads.data.layers import layers_of
from heads.data.standardised import FEWEST, owners_of
from heads.data.views import open_views

LARGE_SHARE = 0.2  # of a split's units without an input: it is said beside the scores


@dataclass(frozen=True)
class Coverage:
    """Of the clips that an encoder is to read: how many, and what became of them."""

    wanted: int
    stored: int
    failed: int
    reason: str  # the most frequent one, as errors.parquet has it

    @property
    def untried(self) -> int:
        return self.wanted - self.stored - self.failed


def coverage(profile: Profile, manifest: Manifest, name: str, store: Store) -> Coverage:
    """What became of the clips that the encoder ``name``, or one of its views, is to read."""
    clips = [clip.clip_id for clip in clips_with_media(manifest, profile.encoder(name))]
    without = {clip for clip in clips if clip not in store}
    path = store.path / "errors.parquet"
    errors = pl.read_parquet(read_small(store.path, path.name)) if path.is_file() else None
    columns = ("clip_id", "stage", "reason")
    known = [] if errors is None else [row for row in errors.select(columns).iter_rows() if row[0] in without]
    n_absent = sum(stage == "absent" for _, stage, _ in known)  # clips that have nothing of the kind
    known = [row for row in known if row[1] != "absent"]
    reasons = Counter(f"{stage}: {reason}" for _, stage, reason in known)
    return Coverage(
        len(clips) - n_absent, len(clips) - len(without), len(known), reasons.most_common(1)[0][0] if reasons else ""
    )


def usable(
    profile: Profile, manifest: Manifest, name: str, stores: Mapping[str, Store], unfinished: bool = False
) -> tuple[Head, list[str]]:
    """The head as it can be trained: without inputs of which every clip failed; and sentences on what is not whole.

    Args:
        stores: those that it reads.
        unfinished: take a store whose extraction has not finished, and say so.
    Raises:
        UserError: an extraction has not finished; nothing that the head reads is left; nobody is named to centre on.
    """
    head, notes, failed = profile.heads[name], list[str](), dict[str, str]()
    owners = Counter(owners_of(head, manifest).values() if head.standardise != "none" else ())
    if head.standardise != "none" and max(owners.values(), default=0) < FEWEST:
        where = {"speaker": "dataset.columns.speaker", "corpus": "corpus in dataset.metadata"}[head.standardise]
        problem = f"heads.{name}.standardise: the manifest names no {head.standardise} of {FEWEST} clips or more"
        raise UserError(f"{problem}: name its column ({where}), or leave the setting out")
    for encoder, store in {**stores, **open_views(profile, head)}.items():
        found = coverage(profile, manifest, encoder, store)
        if found.untried and "family" in store.fields:
            says = (
                f"{profile.store_path(encoder)}: the extraction has not finished: {found.untried} of {found.wanted} "
                "clips were not tried"
            )
            process = writing_process(store.path.resolve())
            if not unfinished:
                then = f"process {process} is at it: wait for it, or" if process else "run"
                base = encoder.partition(OF_VIEW)[0]
                raise UserError(
                    f"{says}: {then} 'python extract/run.py --encoder {base}'; or train on what is there with "
                    "--unfinished"
                )
            notes.append(f"UNFINISHED: {says}.")
        if found.wanted and found.failed == found.wanted and encoder in stores:  # else view 0 stands in
            failed[encoder] = (
                f"all {found.failed} clips of encoders.{encoder} failed, most often with {found.reason!r}: see "
                f"{store.path / 'errors.parquet'}"
            )
        elif found.failed > LARGE_SHARE * found.wanted:
            notes.append(
                f"{found.failed} of {found.wanted} clips of encoders.{encoder} failed, most often with "
                f"{found.reason!r}: see {store.path / 'errors.parquet'}."
            )
    left = [encoder for encoder in head.inputs if encoder not in failed]
    if failed and (head.kind == "cross_modal" or not head.metadata) and not left:
        raise UserError(f"head {name}: nothing to read: {'; '.join(failed.values())}")
    notes += [f"Trained without {encoder}: {reason}." for encoder, reason in failed.items()]
    tails = {encoder: tail for encoder, tail in head.fine_tune.items() if encoder in left}
    return head.model_copy(update={"inputs": left, "fine_tune": tails}) if failed else head, notes


def wide_inputs(head: Head, stores: Mapping[str, Store]) -> list[str]:
    """Sentences on inputs of which a head reads every layer that their store holds, where that is slow."""
    layers = {name: len(layers_of(store.fields)) for name, store in stores.items() if head.kind == "xgboost"}
    return [
        f"Reads all {n} layers of {name} side by side ({stores[name].dim} values a clip), which is slow: a linear head "
        f"reads one of them (layer); trees do where the encoder has 'layer: N' in place of layers."
        for name, n in layers.items()
        if n > 1
    ]


def thin_inputs(head: Head, units: Sequence[Unit], found: Sequence[Sequence[str]]) -> list[str]:
    """Sentences on inputs and fields that a large share of a split's units lacks.

    Args:
        found: of each unit, what the head finds to read: :func:`heads.models.presence.inputs_found`.
    """
    splits = np.array([unit.split for unit in units])
    notes = []
    for name in [*head.inputs, *head.metadata]:
        lacks = np.array([name not in each for each in found])
        shares = {split: (lacks[splits == split].sum(), (splits == split).sum()) for split in dict.fromkeys(splits)}
        large = [
            f"{lacking} of {n} {split} units" for split, (lacking, n) in shares.items() if lacking > LARGE_SHARE * n
        ]
        if large:
            notes.append(f"{name} is missing in {', '.join(large)}.")
    return notes
