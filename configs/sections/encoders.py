"""What a profile may say of its encoders."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from configs.sections.common import HomePath, Modality, PositiveFloat, PositiveInt, Section, Share
from configs.sections.datasets import Written
from configs.sections.views import Augment

__all__ = ["FAMILIES", "KINDS", "Augment", "Encoder", "FaceCrop", "Source", "View"]


class FaceCrop(Section):
    """Crop the largest face, found once a clip, before the video encoder."""

    margin: Annotated[float, Field(ge=0, le=2)] = 0.3  # added on each side, as a share of the face's size
    upsample: Annotated[int, Field(ge=0, le=3)] = 1  # finds faces down to 80 px / 2**upsample


class Source(Section):
    """Features that somebody else computed, and what is said of them. docs/features.md"""

    # A folder (.npy, .npz, .csv: one a clip; a Zarr group), or a file: .npz, .h5, .safetensors, .parquet, .csv, .tar,
    # .scp, .ark.
    path: HomePath
    # Default: what is there says. arrays: a folder of .npy and .npz; frames: a folder of CSVs with a row a frame;
    # table: Parquet or CSV with the clip's id in each row.
    format: Literal["arrays", "frames", "table", "npz", "hdf5", "safetensors", "zarr", "kaldi", "tar"] | None = None
    # A regular expression whose parentheses hold the clip's id, within the name that the source has for an array.
    # Default: the name is the id, or its last part is. Names in which it is not found are left out.
    pattern: str | None = None
    columns: Annotated[list[Written], Field(min_length=1)] | None = None  # of tables and frames: names, or AU*_r
    id_column: Written | None = None  # of a table: the column with the clip's id; default: clip_id
    rows: dict[Written, str | int | float] = {}  # of tables and frames: only rows that have this in a column
    width: PositiveInt | None = None  # numbers in each time step; default: what most arrays have

    @field_validator("pattern")
    @classmethod
    def _has_one_group(cls, pattern: str | None) -> str | None:
        try:
            if pattern is not None and re.compile(pattern).groups != 1:
                raise ValueError("needs exactly one pair of parentheses, around the clip's id")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return pattern

    @field_validator("rows", mode="before")
    @classmethod
    def _holds_no_flags(cls, rows: Any) -> Any:
        if isinstance(rows, dict) and any(isinstance(value, bool) for value in rows.values()):
            raise ValueError("true and false (yes, no, on, off) are no cells: write 1, 0 or a text in quotes")
        return rows


LayerNumber = Annotated[int, Field(ge=0, le=1000, strict=True)]


def _located(given: Any) -> Any:
    return {"path": given} if isinstance(given, str) else given


FAMILIES: dict[Modality, tuple[str, ...]] = {
    "audio": (
        *("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio", "wav2vec2-bert", "whisper"),
        *("spectrum", "functionals"),
    ),
    "video": ("timesformer", "videomae", "image"),
    "text": ("transformer",),
}

KINDS = {  # of the families that have no weights
    "spectrum": ("mfcc", "fbank", "mel"),
    "functionals": ("eGeMAPSv02", "ComParE_2016"),
}
# Settings that only some families have a use for; those without weights have none for what a network is chosen by.
OF_FAMILIES = {
    "kind": tuple(KINDS),
    **dict.fromkeys(("window_ms", "hop_ms", "n_mels", "n_mfcc", "deltas"), ("spectrum",)),
    "level": ("functionals",),
    "context": ("whisper",),
}
OF_NETWORKS = ("model", "revision", "layer", "layers", "precision", "runtime", "boundary")
MAX_DAMAGE = 0.05


READ_AS_THEY_ARE = {"family", "given_modality", "source", "pooling", "block_clips"}  # what features take


class Encoder(Section):
    model_config = ConfigDict(serialize_by_alias=True)

    # transformer is BERT or any AutoModel text encoder; image is a backbone run on each frame. spectrum and functionals
    # have no weights: what they compute of a sound is said by kind
    family: Literal[
        "wav2vec2",
        "hubert",
        "wavlm",
        "unispeech",
        "unispeech-sat",
        "data2vec-audio",
        "wav2vec2-bert",
        "whisper",
        "spectrum",
        "functionals",
        "timesformer",
        "videomae",
        "image",
        "transformer",
        "features",
    ]
    # features: what somebody else computed. source (a path, or a mapping with one) says where they lie, and modality
    # what they are of; beside these two only pooling (none or mean) and block_clips have a meaning
    given_modality: Modality | None = Field(None, alias="modality")
    source: Annotated[Source, BeforeValidator(_located)] | None = None
    model: str = ""  # a hub id, a local folder (./ or / first), or package:NAME for weights in an installed package
    revision: str | None = None  # a commit of the hub repository: required with a hub id
    # Index into hidden_states: 0 is what enters the first layer, -1 the last layer's output.
    layer: Annotated[int, Field(ge=-1000, le=1000)] = -1
    # Several of them from one forward pass, as one row a clip: all, or a list. Needs pooling: mean or statistics.
    layers: Literal["all"] | Annotated[list[LayerNumber], Field(min_length=1)] | None = None
    # Over time; a number is a target rate in Hz. statistics: of each of the layers its mean and its deviation.
    pooling: Literal["none", "mean", "statistics"] | PositiveFloat = "none"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # what the network computes in
    runtime: Literal["torch", "openvino"] = "torch"  # openvino: a faster CPU runtime, installed as an extra
    # The most time steps or tokens in a forward pass, padding counted.
    batch_tokens: Annotated[int, Field(gt=0, le=10**9)] = 8192
    block_clips: PositiveInt | None = None  # clips sorted into batches at a time; default: audio 64, video 16, text 256
    n_frames: PositiveInt | None = None  # video: frames taken, evenly spaced; default: the model's own number
    # Longer audio is cut into overlapping windows of this length, longer video into equal segments no longer than it,
    # longer text into overlapping windows of the model's own limit.
    window_seconds: Annotated[float, Field(ge=1, le=86_400)] = 30
    overlap: Annotated[float, Field(ge=0, le=0.5)] = 0.1  # of audio and text windows, as a share of a window
    # Seconds that a decoder could run, without a sign of life; it is then stopped.
    decode_timeout: Annotated[float, Field(gt=0, le=86_400)] = 60
    # A clip of which a larger share cannot be decoded is refused; below, it is taken and listed in damaged.parquet.
    max_damage: Share = MAX_DAMAGE
    channel: Literal["mix", "left", "right"] | PositiveInt = "mix"  # audio: all averaged, or one (1 is left, 2 right)
    silent_audio: Literal["missing", "kept"] = "missing"  # a sound track that is digital silence from end to end
    # spectrum: mfcc, fbank (Kaldi's logarithmic mel energies) or mel. functionals: one of openSMILE's sets.
    kind: Literal["mfcc", "fbank", "mel", "eGeMAPSv02", "ComParE_2016"] | None = None
    window_ms: Annotated[float, Field(ge=1, le=250)] = 25  # spectrum: what a time step is computed from ...
    hop_ms: Annotated[float, Field(ge=1, le=250)] = 10  # ... and the time from one to the next
    n_mels: Annotated[int, Field(ge=4, le=512)] = 40  # spectrum: mel filters
    n_mfcc: Annotated[int, Field(ge=1, le=512)] = 13  # mfcc: coefficients that are kept
    deltas: Literal[0, 1, 2] = 0  # spectrum: 1 puts slopes over five time steps beside the values, 2 also theirs
    level: Literal["functionals", "lld"] = "functionals"  # one vector a clip, or openSMILE's low-level descriptors
    # whisper: full reads 30 s, silence behind a clip that is shorter; clip cuts spectrum and positions to the clip
    context: Literal["full", "clip"] = "full"
    face_crop: FaceCrop | None = None
    # Video: what of a frame the network sees. processor: what the checkpoint's own image processor shows (scaled and
    # the middle cut out, or all of it squeezed into a square; packaged networks: square); square: the middle, as large
    # as it goes; whole: all of it, squeezed. With a face_crop it is the face's square, all of it.
    frame: Literal["processor", "square", "whole"] = "processor"
    # The store keeps what enters this layer, of every token: heads can then train the layers from here on (fine_tune).
    boundary: Annotated[int, Field(ge=0, le=1000)] | None = None
    conversation: bool = False  # text: what a labelled clip says is read together with what was said before it
    prefix: Annotated[str, Field(max_length=1000)] = ""  # text: put before each, as E5 was trained with "query: "
    # Beside the clips themselves (view 0), so many changed versions of each training clip are stored, for heads to
    # learn from; what is judged is view 0 alone. docs/views.md
    views: Annotated[int, Field(ge=0, le=100)] = 0
    augment: Augment | None = None  # what views differ in

    @property
    def modality(self) -> Modality:
        """What it reads of a clip."""
        if self.given_modality is not None:
            return self.given_modality
        return next(modality for modality, families in FAMILIES.items() if self.family in families)

    @property
    def origin(self) -> str:
        """What its values come from, for people: a checkpoint, or a kind of features."""
        return str(self.source.path) if self.source else self.model or str(self.kind)

    @property
    def channel_number(self) -> int | None:
        """The one channel that is heard, counted from 1."""
        numbers = {"mix": None, "left": 1, "right": 2}
        return numbers[self.channel] if isinstance(self.channel, str) else self.channel

    @model_validator(mode="after")
    def _says_where_it_comes_from(self) -> "Encoder":
        if self.family != "features":
            if self.source is not None or self.given_modality is not None:
                named = "source" if self.source is not None else "modality"
                raise ValueError(f"{named}: only of 'family: features'; what a {self.family} reads is known")
            if not self.model.strip() and self.family not in KINDS:
                raise ValueError("model: missing, and it has no default")
            return self
        if self.source is None:
            raise ValueError("source: missing: name the folder or the file that holds the features")
        if self.given_modality is None:
            raise ValueError("modality: missing: say what the features are of: audio, video or text")
        for name, field in type(self).model_fields.items():
            if name not in READ_AS_THEY_ARE and getattr(self, name) != field.default:
                raise ValueError(f"{name}: features are read as they are: leave it out")
        if isinstance(self.pooling, float):
            raise ValueError("pooling: nobody knows how long a step of features from elsewhere is: none or mean")
        return self

    @model_validator(mode="after")
    def _fits_its_modality(self) -> "Encoder":
        if self.face_crop and self.modality != "video":
            raise ValueError("face_crop: only video has faces")
        if self.frame != "processor" and self.modality != "video":
            raise ValueError("frame: only video has frames")
        if self.frame != "processor" and self.face_crop:
            raise ValueError("frame: with a face_crop the network sees the face's square: leave frame out")
        if self.conversation and self.modality != "text":
            raise ValueError("conversation: only texts are joined")
        if self.prefix and (self.modality != "text" or not self.prefix.isprintable()):
            raise ValueError("prefix: only texts have one, of one line")
        if self.max_damage != MAX_DAMAGE and self.modality == "text":
            raise ValueError("max_damage: texts are not decoded")
        if (self.channel, self.silent_audio) != ("mix", "missing") and self.modality != "audio":
            raise ValueError("channel, silent_audio: only audio has channels, and silence")
        return self

    @model_validator(mode="after")
    def _fits_its_family(self) -> "Encoder":
        def is_set(name: str) -> bool:
            return bool(getattr(self, name) != type(self).model_fields[name].default)

        for name, families in OF_FAMILIES.items():
            if is_set(name) and self.family not in families:
                raise ValueError(f"{name}: is for the family {' or '.join(families)}: leave it out")
        if self.family not in KINDS:
            return self
        useless = [name for name in OF_NETWORKS if is_set(name)]
        if useless:
            raise ValueError(f"{useless[0]}: {self.family} has no weights: leave it out")
        if self.kind not in KINDS[self.family]:
            raise ValueError(f"kind: of the family {self.family} it is {' or '.join(KINDS[self.family])}")
        if self.hop_ms > self.window_ms:
            raise ValueError(f"hop_ms = {self.hop_ms:g}: leaves sound out between windows of {self.window_ms:g} ms")
        if is_set("n_mfcc") and self.kind != "mfcc":
            raise ValueError("n_mfcc: is for kind: mfcc; mel filters are n_mels")
        if self.kind == "mfcc" and self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc = {self.n_mfcc}: more than the {self.n_mels} mel filters (n_mels) give")
        return self

    @field_validator("layers")
    @classmethod
    def _names_each_layer_once(cls, layers: Any) -> Any:
        if isinstance(layers, list) and sorted(set(layers)) != layers:
            raise ValueError("name each layer once, in rising order")
        return layers

    @model_validator(mode="after")
    def _pools_several_layers(self) -> "Encoder":
        if self.layers is None:
            if self.pooling == "statistics":
                raise ValueError("pooling: statistics is for layers: heads take deviations of time steps themselves")
            return self
        if self.layer != -1 or self.boundary is not None:
            raise ValueError("layers: stands in the place of layer and boundary: leave these out")
        if self.pooling not in ("mean", "statistics"):
            raise ValueError("layers: of every time step they would fill the disk: write pooling: mean or statistics")
        return self

    @model_validator(mode="after")
    def _boundary_keeps_everything(self) -> "Encoder":
        if self.boundary is not None and (self.layer != -1 or self.pooling != "none" or self.runtime != "torch"):
            raise ValueError("boundary keeps every token of one layer: leave out layer, pooling and runtime")
        return self

    @model_validator(mode="after")
    def _changes_its_views(self) -> "Encoder":
        if self.views and self.augment is None:
            raise ValueError("views: of what? name what they differ in: augment: {speed: [0.9, 1.1]}")
        if self.augment is None:
            return self
        if not self.views:
            raise ValueError("augment: changes views, of which there are none: write views: 3")
        if self.boundary is not None:
            raise ValueError(
                "views: not with a boundary, whose store holds every token: it would be as many times larger"
            )
        if problem := self.augment.unfit(self.modality):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _hub_ids_are_pinned(self) -> "Encoder":
        if self.family in KINDS:
            return self
        if self.model.startswith("~"):
            TypeAdapter(HomePath).validate_python(self.model)
        is_hub = self.source is None and not self.model.startswith(("package:", ".", "/", "~"))
        if is_hub and not self.revision:
            raise ValueError(
                f"model {self.model!r} is a hub id and needs a revision (a commit hash); "
                "write ./FOLDER for a local folder"
            )
        return self


class View(Encoder):
    """An encoder that reads a changed version of each training clip; a profile's file has none."""

    number: PositiveInt
    seed: int

    @classmethod
    def of(cls, encoder: Encoder, number: int, seed: int) -> "View":
        return cls.model_construct(encoder.model_fields_set, **dict(encoder), number=number, seed=seed)

    @property
    def plain(self) -> Encoder:
        """The encoder of view 0."""
        own = {name: getattr(self, name) for name in Encoder.model_fields}
        return Encoder.model_construct(self.model_fields_set & own.keys(), **own)
