"""Features that somebody else computed, in an encoder's place: nothing is decoded, and nothing is run."""

from typing import Any

import torch

from configs.schema import Encoder
from extract.arrays.names import Arrays
from extract.arrays.reader import ArrayError
from extract.encoders.encoder import LoadedEncoder, Prepared, Window
from extract.media.damage import ClipError

VERSION = 1  # raise it when what is made of an array changes


def load_features(spec: Encoder, device: torch.device) -> LoadedEncoder:
    """Args: spec, of the family ``features``. Raises UserError where its source cannot be opened.

    The fingerprint holds what is said of the arrays, and not where they lie or in which format: the content hash of
    each clip is that of its array.
    """
    assert spec.source is not None
    arrays = Arrays(spec.source)

    def prepare(given: tuple[str, str]) -> Prepared:
        clip_id, content_hash = given
        try:
            values, _ = arrays.read(clip_id, content_hash)
        except ArrayError as error:
            raise ClipError(str(error)) from error
        return Prepared([Window({"values": values}, slice(0, len(values)), len(values))], len(values))

    def hidden(inputs: dict[str, torch.Tensor], lengths: list[int] | None) -> torch.Tensor:
        return inputs["values"]  # (batch, time, dim)

    fields: dict[str, Any] = {
        "features_version": VERSION,
        "family": spec.family,
        "modality": spec.modality,
        "pooling": spec.pooling,
        "width": arrays.width,
    }
    if arrays.columns:
        fields["columns"] = list(arrays.columns)
    cpu = torch.device("cpu")
    return LoadedEncoder(arrays.width, fields, None, prepare, None, hidden, spec, cpu, arrays=arrays)
