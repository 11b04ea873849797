"""What a profile may say: every setting with its meaning, its default and what is allowed."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    field_validator,
    model_validator,
)

from configs.heads import Head, Range, Tail, unsearchable
from configs.sections import (
    TAKEN_NAMES,
    HomePath,
    HomeText,
    Metric,
    Modality,
    Name,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
)

__all__ = [
    "Dataset",
    "Encoder",
    "FaceCrop",
    "Fusion",
    "Head",
    "Modality",
    "Profile",
    "Range",
    "Source",
    "StoreSettings",
    "Tail",
]

SHELF = "stores"  # below runs/: the stores of all profiles


def _url(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+://[^/\s]+(/[^/]+)*/?", text):
        raise ValueError("is no URL of object storage: write s3://bucket/prefix")
    return text.removesuffix("/")


def _place(given: object) -> object:
    if not isinstance(given, str):
        return given
    return _url(given) if "://" in given else TypeAdapter(HomePath).validate_python(given)


Url = Annotated[str, AfterValidator(_url)]
Place = Annotated[Path | str, BeforeValidator(_place)]  # a folder, or a URL as a string


def _written(name: str) -> str:
    if not name.strip():
        raise ValueError("is empty: give a name")
    return name.strip()  # as tables are read: with white space around it, the label could pass for another column


Written = Annotated[str, AfterValidator(_written)]  # what a table calls something


class MakeSplits(Section):
    """Splits drawn here: grouped, stratified by label, seeded."""

    val: Share = 0.0
    test: Share = 0.0

    @model_validator(mode="after")
    def _leaves_training_units(self) -> "MakeSplits":
        if self.val + self.test >= 1:
            raise ValueError(f"val ({self.val}) and test ({self.test}) leave nothing to train on")
        return self


class DatasetFiles(Section):
    """Where a dataset lies."""

    root: HomePath  # the folder that holds the annotations and, unless media_root says otherwise, the media
    media_root: Place | None = None  # where the media are, if elsewhere: a folder, or s3://bucket/prefix

    @property
    def media(self) -> Path | str:
        """What media paths are relative to; a string is a URL."""
        return self.root if self.media_root is None else self.media_root

    @field_validator("root")
    @classmethod
    def _is_local(cls, root: Path) -> Path:
        if re.match(r"[a-z0-9]{2,}:/", root.as_posix()):
            raise ValueError("must be a local folder; only media may be elsewhere: media_root")
        return root


class AvamergDataset(DatasetFiles):
    """AvaMERG's JSON, in its mapped or its original layout; the media files lie anywhere below the media's root."""

    adapter: Literal["avamerg"]
    files: dict[Literal["train", "val", "test"], HomeText] = {  # glob patterns below root, one per split
        "train": "json/mapped_train_data*.json",
        "val": "json/mapped_val_data*.json",
        "test": "json/mapped_test_data*.json",
    }
    units: Literal["last", "every"] = "last"  # the last labelled turn of a conversation, or every one
    # Media files that are named and not there: allow takes them as missing, and lists them.
    missing_media: Literal["refuse", "allow"] = "allow"
    context: bool = False  # the situation text as a first clip of the conversation, role "context"
    group: Literal["conversation", "speaker", "both"] = "conversation"  # what must not straddle a split or fold


class TableDataset(DatasetFiles):
    """Any CSV or Parquet table with a row per clip. Media paths are relative to the media's root, and stay below it."""

    adapter: Literal["table"]
    table: HomeText  # the CSV or Parquet file, relative to root
    # Media files that are named and not there: allow takes them as missing, and lists them.
    missing_media: Literal["refuse", "allow"] = "refuse"
    columns: dict[
        Literal[
            "clip_id",
            "conversation_id",
            "index",
            "role",
            "text",
            "audio",
            "video",
            "split",
            "label",
            "group",
            "speaker",
        ],
        Written,
    ]  # our name: the table's name. A column that is not named here is not read
    metadata: list[Written] = []  # free columns that heads may use
    privileged: list[Written] = []  # columns derived from the label: kept apart, refused by default
    # The label set, in order; default: the sorted labels of the table.
    classes: Annotated[list[Written], Field(min_length=1)] | None = None
    splits: MakeSplits | None = None  # draw splits here; required when columns names no split

    @model_validator(mode="after")
    def _has_what_a_table_needs(self) -> "TableDataset":
        for needed in ("clip_id", "label"):
            if needed not in self.columns:
                raise ValueError(f"columns.{needed}: name the table's column for it")
        if ("split" in self.columns) == (self.splits is not None):
            raise ValueError("give exactly one of columns.split (a column) and splits (draw them here)")
        return self

    @model_validator(mode="after")
    def _names_each_column_once(self) -> "TableDataset":
        free = self.metadata + self.privileged
        twice = [name for name in free if free.count(name) > 1]
        if twice:
            raise ValueError(f"metadata + privileged: {twice[0]!r} is named twice")
        if self.columns["label"] in free:
            raise ValueError(f"metadata and privileged: {self.columns['label']!r} is the label itself")
        for ours, theirs in self.columns.items():
            if ours != "label" and theirs in (self.columns["label"], *self.privileged):
                raise ValueError(f"columns.{ours}: {theirs!r} is the label itself, or derived from it (privileged)")
        return self


Dataset = Annotated[AvamergDataset | TableDataset, Field(discriminator="adapter")]


class StoreSettings(Section):
    backend: Literal["zarr", "hdf5"] = "zarr"
    dtype: Literal["float16", "float32"] = "float16"
    chunk_mb: Annotated[float, Field(gt=0, le=16_384)] = 16  # size of one chunk file
    commit_seconds: Annotated[float, Field(ge=0, le=86_400)] = 20  # after them, a commit follows the next block's end
    max_error_share: Share = 0.01  # a pass that loses a larger share of clips ends with exit code 3
    verify_reads: bool = True  # heads compare what they read with the hash that was taken when it was written
    url: Url | None = None  # s3://bucket/prefix: a copy of each store is kept there, and fetched where there is none


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


def _located(given: Any) -> Any:
    return {"path": given} if isinstance(given, str) else given


FAMILIES: dict[Modality, tuple[str, ...]] = {
    "audio": ("wav2vec2", "hubert", "wavlm", "whisper"),
    "video": ("timesformer", "videomae", "image"),
    "text": ("transformer",),
}


MAX_DAMAGE = 0.05


READ_AS_THEY_ARE = {"family", "given_modality", "source", "pooling", "block_clips"}  # what features take


class Encoder(Section):
    model_config = ConfigDict(serialize_by_alias=True)

    family: Literal[
        "wav2vec2", "hubert", "wavlm", "whisper", "timesformer", "videomae", "image", "transformer", "features"
    ]  # transformer is BERT or any AutoModel text encoder; image is a backbone run on each frame
    # features: what somebody else computed. source (a path, or a mapping with one) says where they lie, and modality
    # what they are of; beside these two only pooling (none or mean) and block_clips have a meaning
    given_modality: Modality | None = Field(None, alias="modality")
    source: Annotated[Source, BeforeValidator(_located)] | None = None
    model: str = ""  # a hub id, a local folder (./ or / first), or package:NAME for weights in an installed package
    revision: str | None = None  # a commit of the hub repository: required with a hub id
    # Index into hidden_states: 0 is what enters the first layer, -1 the last layer's output.
    layer: Annotated[int, Field(ge=-1000, le=1000)] = -1
    pooling: Literal["none", "mean"] | PositiveFloat = "none"  # over time; a number is a target rate in Hz
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
    face_crop: FaceCrop | None = None
    # Video: what of a frame the network sees. processor: what the checkpoint's own image processor shows (scaled and
    # the middle cut out, or all of it squeezed into a square; packaged networks: square); square: the middle, as large
    # as it goes; whole: all of it, squeezed. With a face_crop it is the face's square, all of it.
    frame: Literal["processor", "square", "whole"] = "processor"
    # The store keeps what enters this layer, of every token: heads can then train the layers from here on (fine_tune).
    boundary: Annotated[int, Field(ge=0, le=1000)] | None = None
    conversation: bool = False  # text: what a labelled clip says is read together with what was said before it

    @property
    def modality(self) -> Modality:
        """What it reads of a clip."""
        if self.given_modality is not None:
            return self.given_modality
        return next(modality for modality, families in FAMILIES.items() if self.family in families)

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
            if not self.model:
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
        if self.max_damage != MAX_DAMAGE and self.modality == "text":
            raise ValueError("max_damage: texts are not decoded")
        if (self.channel, self.silent_audio) != ("mix", "missing") and self.modality != "audio":
            raise ValueError("channel, silent_audio: only audio has channels, and silence")
        return self

    @model_validator(mode="after")
    def _boundary_keeps_everything(self) -> "Encoder":
        if self.boundary is not None and (self.layer != -1 or self.pooling != "none" or self.runtime != "torch"):
            raise ValueError("boundary keeps every token of one layer: leave out layer, pooling and runtime")
        return self

    @model_validator(mode="after")
    def _hub_ids_are_pinned(self) -> "Encoder":
        if self.model.startswith("~"):
            TypeAdapter(HomePath).validate_python(self.model)
        is_hub = self.source is None and not self.model.startswith(("package:", ".", "/", "~"))
        if is_hub and not self.revision:
            raise ValueError(
                f"model {self.model!r} is a hub id and needs a revision (a commit hash); "
                "write ./FOLDER for a local folder"
            )
        return self


Strategy = Literal[
    "mean",
    "weighted",
    "class_weighted",
    "logistic",
    "xgboost",
    "attention",
    "blend",
]


class Fusion(Section):
    heads: Annotated[list[str], Field(min_length=1)] | None = None  # heads to fuse; default: all of the profile
    strategies: Annotated[list[Strategy], Field(min_length=1)] = list(get_args(Strategy))  # those that are compared
    metric: Metric = "macro_f1"  # what the choice among them goes by
    # best: the best, or a simpler one that equals it; one_se: the simplest that is not a standard error behind it
    choice: Literal["best", "one_se"] = "best"
    bootstrap: Annotated[int, Field(ge=100, le=1_000_000)] = 1000  # resamples behind each 95 % interval
    # speaker: what heads say is centred for each speaker first. Transductive: it reads the other, unlabelled units of
    # the person who is judged; every title says so, and a clip by itself gets the plain fusion
    standardise: Literal["none", "speaker"] = "none"


Tried = Annotated[
    Annotated[list[Any], Field(min_length=1), Tag("choices")] | Annotated[Range, Tag("range")],
    Discriminator(lambda given: "range" if isinstance(given, dict | Range) else "choices"),
]


class Profile(Section):
    name: Name  # outputs go to runs/<name>
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    folds: Annotated[int, Field(ge=2, le=100)] = 5  # grouped, stratified folds behind out-of-fold predictions
    dataset: Dataset
    store: StoreSettings = StoreSettings()
    encoders: dict[Name, Encoder]  # by names of your own; what a family reads is its modality
    heads: Annotated[dict[Name, Head], Field(min_length=1)]
    fusion: Fusion = Fusion()
    # What heads/search.py tries, for each head: setting: [choices] or {low, high, log}; default: a space for its kind
    search: dict[Name, dict[str, Tried]] = {}

    @field_validator("name")
    @classmethod
    def _is_no_shelf(cls, name: str) -> str:
        if name == SHELF:
            raise ValueError(f"runs/{SHELF} holds the stores of all profiles: choose another name")
        return name

    @model_validator(mode="after")
    def _names_meet(self) -> "Profile":
        for name, encoder in self.encoders.items():
            if name in TAKEN_NAMES:
                raise ValueError(f"encoders.{name}: networks use this name themselves: choose another")
            if name in get_args(Modality) and name != encoder.modality:
                raise ValueError(f"encoders.{name}: {encoder.family} reads {encoder.modality}: give it another name")
        for name, head in self.heads.items():
            missing = [encoder for encoder in head.stores if encoder not in self.encoders]
            if missing:
                raise ValueError(f"heads.{name}.inputs names {missing[0]!r}, which is not under encoders")
            without = [encoder for encoder in head.fine_tune if self.encoders[encoder].boundary is None]
            if without:
                raise ValueError(f"heads.{name}.fine_tune: encoders.{without[0]} has no boundary to train from")
            if head.time_masking and any(self.encoders[each].modality == "video" for each in head.fine_tune):
                raise ValueError(f"heads.{name}.time_masking: hides time steps: not with video under fine_tune")
        for name in self.fusion.heads or []:
            if name not in self.heads:
                raise ValueError(f"fusion.heads names {name!r}, which is not under heads")
        for name, space in self.search.items():
            if name not in self.heads:
                raise ValueError(f"search names {name!r}, which is not under heads")
            for setting, choices in space.items():
                if setting not in Head.model_fields:
                    raise ValueError(f"search.{name}.{setting}: heads have no such setting")
                problem = unsearchable(self.heads[name], setting, choices)
                if problem:
                    raise ValueError(f"search.{name}.{setting}: {problem}")
        return self

    @property
    def run_dir(self) -> Path:
        """Everything this profile writes lies below it, so profiles never overwrite each other."""
        return Path("runs") / self.name

    @property
    def manifest_path(self) -> Path:
        return self.run_dir / "manifest.parquet"

    def modality_of(self, name: str) -> str:
        """What one of a head's inputs reads of a clip: an encoder's modality; of a bag of words, text itself."""
        return self.encoders[name].modality if name in self.encoders else name

    def encoders_of(self, modality: str) -> list[str]:
        """The names of the encoders that read a modality."""
        return [name for name, encoder in self.encoders.items() if encoder.modality == modality]

    def store_path(self, encoder: str) -> Path:
        """The store that this profile uses under an encoder's name: a link, see docs/store.md."""
        return self.run_dir / "stores" / encoder

    def store_url(self, encoder: str) -> str | None:
        """Where the copy of a store is kept, if anywhere."""
        return None if self.store.url is None else f"{self.store.url}/{encoder}"

    def sources_path(self, modality: str) -> Path:
        """What is remembered of a modality's files, so that they are not read again to see whether they changed."""
        return self.run_dir / "stores" / f".{modality}.sources.parquet"

    @property
    def receipts_dir(self) -> Path:
        return self.run_dir / "extracted"

    def receipt_path(self, encoder: str) -> Path:
        """What an extraction wrote, in a few lines: it stands for the store in dvc.yaml."""
        return self.receipts_dir / f"{encoder}.json"

    def head_path(self, head: str) -> Path:
        return self.run_dir / "heads" / head

    def search_path(self, head: str) -> Path:
        return self.run_dir / "search" / head

    @property
    def fusion_path(self) -> Path:
        return self.run_dir / "fusion"
