"""What a profile may say: every setting with its meaning, its default and what is allowed."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from configs.heads import Head, Pretraining, Range, Tail, shape_of, unfit_start, unpretrainable, unsearchable
from configs.sections.common import (
    TAKEN_NAMES,
    Metric,
    Modality,
    Name,
    Section,
    Share,
    Url,
)
from configs.sections.datasets import Dataset
from configs.sections.encoders import MAX_DAMAGE, Augment, Encoder, FaceCrop, Source, View

__all__ = [
    "MAX_DAMAGE",
    "Augment",
    "Dataset",
    "Encoder",
    "FaceCrop",
    "Fusion",
    "Head",
    "Modality",
    "Pretraining",
    "Profile",
    "Range",
    "Source",
    "StoreSettings",
    "Tail",
    "View",
    "shape_of",
    "unpretrainable",
]

SHELF = "stores"  # below runs/: the stores of all profiles
OF_VIEW = "@"  # between an encoder's name and the number of a view
SHARED = (SHELF, "media")  # below runs/, and no profiles; media are those that lay inside of datasets


class StoreSettings(Section):
    backend: Literal["zarr", "hdf5"] = "zarr"
    dtype: Literal["float16", "float32"] = "float16"
    chunk_mb: Annotated[float, Field(gt=0, le=16_384)] = 16  # size of one chunk file
    commit_seconds: Annotated[float, Field(ge=0, le=86_400)] = 20  # after them, a commit follows the next block's end
    max_error_share: Share = 0.01  # a pass that loses a larger share of clips ends with exit code 3
    verify_reads: bool = True  # heads compare what they read with the hash that was taken when it was written
    url: Url | None = None  # s3://bucket/prefix: a copy of each store is kept there, and fetched where there is none


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
    # best: the best, or a simpler one that equals it. Of it and of what is not a standard error behind it, likeliest is
    # the one of the lowest log-loss, one_se the simplest
    choice: Literal["likeliest", "best", "one_se"] = "likeliest"
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
            if head.layer is not None and all(self.encoders[each].layers is None for each in head.stores):
                raise ValueError(f"heads.{name}.layer: none of its encoders stores several: write layers: all there")
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

    def views_of(self, encoder: str) -> list[str]:
        """The names of an encoder's augmented views, each of which has a store of its own."""
        return [f"{encoder}{OF_VIEW}{number}" for number in range(1, self.encoders[encoder].views + 1)]

    def encoder(self, name: str) -> Encoder:
        """By its name, or by that of one of its views."""
        base, _, number = name.partition(OF_VIEW)
        return View.of(self.encoders[base], int(number), self.seed) if number else self.encoders[base]

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

    def resolved(self) -> dict[str, Any]:
        """Every setting that it uses, defaults too, as :func:`configs.profiles.load` reads them."""
        heads = {name: head.model_dump(mode="json", include=head.used) for name, head in self.heads.items()}
        return self.model_dump(mode="json") | {"heads": heads}

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
