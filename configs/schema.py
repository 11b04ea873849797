"""What a profile may say: every setting with its meaning, its default and what is allowed."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    field_validator,
    model_validator,
)

from configs.heads import Head, Pretraining, Range, Tail, shape_of, unfit_start, unpretrainable, unsearchable
from configs.sections.common import (
    TAKEN_NAMES,
    HomePath,
    Metric,
    Modality,
    Name,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
    Url,
)
from configs.sections.datasets import Dataset

__all__ = [
    "Dataset",
    "Encoder",
    "FaceCrop",
    "Fusion",
    "Head",
    "Modality",
    "Pretraining",
    "Profile",
    "Range",
    "StoreSettings",
    "Tail",
    "shape_of",
    "unpretrainable",
]

SHELF = "stores"  # below runs/: the stores of all profiles
SHARED = (SHELF, "media")  # below runs/, and no profiles; media are those that lay inside of datasets


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
OF_NETWORKS = ("model", "revision", "layer", "precision", "runtime", "boundary")
MAX_DAMAGE = 0.05


class Encoder(Section):
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
    ]
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

    @property
    def modality(self) -> Modality:
        """What it reads of a clip."""
        return next(modality for modality, families in FAMILIES.items() if self.family in families)

    @property
    def origin(self) -> str:
        """What its values come from, for people: a checkpoint, or a kind of features."""
        return self.model or str(self.kind)

    @property
    def channel_number(self) -> int | None:
        """The one channel that is heard, counted from 1."""
        numbers = {"mix": None, "left": 1, "right": 2}
        return numbers[self.channel] if isinstance(self.channel, str) else self.channel

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
            if not self.model.strip():
                raise ValueError("model: missing, and it has no default")
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

    @model_validator(mode="after")
    def _boundary_keeps_everything(self) -> "Encoder":
        if self.boundary is not None and (self.layer != -1 or self.pooling != "none" or self.runtime != "torch"):
            raise ValueError("boundary keeps every token of one layer: leave out layer, pooling and runtime")
        return self

    @model_validator(mode="after")
    def _hub_ids_are_pinned(self) -> "Encoder":
        if self.family in KINDS:
            return self
        if self.model.startswith("~"):
            TypeAdapter(HomePath).validate_python(self.model)
        is_hub = not self.model.startswith(("package:", ".", "/", "~"))
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
    encoders: dict[Name, Encoder] = {}  # by names of your own; what a family reads is its modality
    heads: Annotated[dict[Name, Head], Field(min_length=1)]
    fusion: Fusion = Fusion()
    # What heads/search.py tries, for each head: setting: [choices] or {low, high, log}; default: a space for its kind
    search: dict[Name, dict[str, Tried]] = {}
    pretrain: dict[Name, Pretraining] = {}  # how heads/pretrain.py trains each head's network; default: as it comes

    @field_validator("name")
    @classmethod
    def _is_no_shelf(cls, name: str) -> str:
        if name in SHARED:
            raise ValueError(f"runs/{name} holds the {name} of all profiles: choose another name")
        return name

    @model_validator(mode="after")
    def _names_meet(self) -> "Profile":
        for name, encoder in self.encoders.items():
            if name in TAKEN_NAMES:
                raise ValueError(f"encoders.{name}: networks use this name themselves: choose another")
            if name in get_args(Modality) and name != encoder.modality:
                raise ValueError(f"encoders.{name}: {encoder.family} reads {encoder.modality}: give it another name")
            if encoder.kind == "ComParE_2016" and self.store.dtype != "float32":
                raise ValueError(f"encoders.{name}: ComParE_2016 exceeds float16: write store: {{dtype: float32}}")
        for name, head in self.heads.items():
            missing = [encoder for encoder in head.stores if encoder not in self.encoders]
            if missing:
                raise ValueError(f"heads.{name}.inputs names {missing[0]!r}, which is not under encoders")
            without = [encoder for encoder in head.fine_tune if self.encoders[encoder].boundary is None]
            if without:
                raise ValueError(f"heads.{name}.fine_tune: encoders.{without[0]} has no boundary to train from")
            if head.time_masking and any(self.encoders[each].modality == "video" for each in head.fine_tune):
                raise ValueError(f"heads.{name}.time_masking: hides time steps: not with video under fine_tune")
            if problem := unfit_start(head, self.heads):
                raise ValueError(f"heads.{name}.start_from{problem}")
        for name in self.pretrain:
            problem = unpretrainable(self.heads[name]) if name in self.heads else "which is not under heads"
            if problem:
                raise ValueError(f"pretrain.{name}: {problem}")
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

    def pretrained_path(self, head: str) -> Path:
        return self.run_dir / "pretrained" / head

    @property
    def fusion_path(self) -> Path:
        return self.run_dir / "fusion"


def settings_below(place: tuple[int | str, ...]) -> list[str]:
    """The names of all settings that a section of a profile may hold, at any depth."""
    field = Profile.model_fields.get(str(place[0])) if len(place) > 1 else None
    found = dict.fromkeys(Profile.model_fields) if field is None else dict[str, None]()
    waiting = [] if field is None else [field.annotation]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, Section):
            fields = kind.model_fields
            found |= dict.fromkeys(fields)
            waiting += [each.annotation for each in fields.values()]
        waiting += get_args(kind)
    return list(found)
