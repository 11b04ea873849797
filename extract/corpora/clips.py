"""What of a manifest an encoder reads."""

import polars as pl

from configs.schema import Encoder, View
from extract.corpora.manifest import Manifest
from extract.media.sources import Clip, Elsewhere
from extract.media.texts import join_texts


def clips_with_media(manifest: Manifest, spec: Encoder) -> list[Clip]:
    """The clips that some unit reads and that have what an encoder reads, in the manifest's order.

    The listener's answer to a labelled turn is future to it: no unit reads it, so nothing is computed for it. Features
    from elsewhere may be there for any clip that some unit reads; they are expected where the manifest has media (or
    text) of the clip, and where it has none of any clip. An encoder with ``conversation: true`` gets, for each unit's
    own clip, the texts of all the clips that the unit may see, joined in their order; clips without a label are then
    left out. An augmented view is of training clips alone.
    """
    units = [unit for unit in manifest.units() if unit.split == "train" or not isinstance(spec, View)]
    if spec.conversation:
        texts = {clip_id: text for clip_id, text in manifest.clips.select("clip_id", "text").iter_rows() if text}
        said = {unit.unit_id: [texts[clip] for clip in unit.clip_ids if clip in texts] for unit in units}
        return [Clip(unit_id, join_texts(parts)) for unit_id, parts in said.items() if parts]
    read = {clip_id for unit in units for clip_id in unit.clip_ids}
    if spec.source:
        has = dict(manifest.clips.select("clip_id", pl.col(spec.modality).is_not_null()).iter_rows())
        alone = not any(has.values())
        return [Clip(each, Elsewhere(each, alone or there)) for each, there in has.items() if each in read]
    present = manifest.clips.filter(pl.col(spec.modality).is_not_null() & pl.col("clip_id").is_in(read))
    rows = present.select("clip_id", spec.modality).iter_rows()
    if spec.modality == "text":
        return [Clip(clip_id, text) for clip_id, text in rows]
    return [Clip(clip_id, manifest.media(path)) for clip_id, path in rows]
