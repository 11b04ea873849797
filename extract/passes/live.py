"""New clips encoded here and now, by the code of an extraction and with its result: what a store would hold of them."""

import json
from collections.abc import Sequence
from typing import Self

import numpy as np

from cache import Header, all_finite, differing_fields
from configs import UserError
from configs.schema import Profile
from extract.encoders.loading import load_encoder
from extract.media.decoding import usable_cores
from extract.media.sources import Clip
from extract.passes.blocks import Block, BlockComputer, Damaged, Failure, Job, Mark
from extract.passes.extraction import block_clips

__all__ = ["NO_NEW_CLIPS", "PRECISIONS", "LiveEncoder", "LiveFeatures"]

PRECISIONS = {"bf16": "bfloat16", "int8": "int8"}
NO_NEW_CLIPS = "features that were computed elsewhere: of a new clip there are none"


class LiveFeatures(dict[str, np.ndarray]):
    """Arrays (time, ``width``) by clip id, for heads to read in place of a store; a clip without one is missing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


class LiveEncoder:
    """One encoder of a profile.

    Args:
        stored: the header of the store whose features the heads know: same encoder, same width, same precision.
        device: ``auto``, or as in :func:`extract.encoders.loading.load_encoder`.
        precision: another one than the profile's, ``bf16`` or ``int8``: what it gives is then near what heads know.
    Raises:
        UserError: the encoder cannot be loaded, or is not the one behind the store; the fields that differ are named.
    """

    def __init__(
        self, profile: Profile, name: str, stored: Header, device: str = "auto", precision: str | None = None
    ) -> None:
        self._stored = stored
        if profile.encoders[name].source:
            raise UserError(f"encoders.{name}: {NO_NEW_CLIPS}")
        if precision:
            settings = profile.encoders[name].model_copy(update={"precision": PRECISIONS[precision]})
            profile = profile.model_copy(update={"encoders": profile.encoders | {name: settings}})
        encoder = load_encoder(profile, name, device)
        fields = {**json.loads(json.dumps(encoder.fields)), "dtype": stored.dtype}  # as a store writes them
        differing = [
            field for field in differing_fields(fields, stored.fields) if not precision or field != "precision"
        ]
        if differing:
            raise UserError(
                f"encoders.{name} ({profile.encoders[name].origin}): not the encoder that the heads "
                f"were trained on: it differs in {', '.join(differing)}"
            )
        self.task = encoder.task  # what it wants of a media file
        self._block_clips = block_clips(profile, name)
        self._computer = BlockComputer([encoder], usable_cores())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._computer.__exit__()

    def encode(self, clips: Sequence[Clip]) -> tuple[LiveFeatures, list[Failure], list[Damaged]]:
        """The features of some clips, as they would be stored, why others have none, and what is damaged."""
        jobs = [Job(clip, "", place) for place, clip in enumerate(clips)]
        blocks = [Block(jobs[i : i + self._block_clips]) for i in range(0, len(jobs), self._block_clips)]
        pieces: dict[int, list[np.ndarray]] = {}
        failures: list[Failure] = []
        damaged: list[Damaged] = []
        for result in self._computer.compute(blocks):
            if isinstance(result, Mark):
                continue
            place, values = result
            if isinstance(values, Damaged):
                damaged.append(values)
            elif isinstance(values, Failure):
                failures.append(values)
                pieces.pop(place, None)
            else:
                pieces.setdefault(place, []).append(values)
        features = LiveFeatures(self._stored.dim)
        for place, parts in sorted(pieces.items()):
            with np.errstate(over="ignore"):
                values = np.concatenate(parts).astype(self._stored.dtype)  # (time, dim)
            if all_finite(values):
                features[clips[place].clip_id] = values
            else:
                failures.append(Failure(clips[place].clip_id, "store", f"features exceed {self._stored.dtype}"))
        return features, failures, damaged
