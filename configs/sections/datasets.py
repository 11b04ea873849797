"""What a profile may say of its data: a section for each reader, ``docs/corpora.md`` shows them side by side."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from configs.sections.common import HomePath, HomeText, Name, Place, Section, Share

__all__ = [
    "AudformatDataset",
    "AvamergDataset",
    "CorporaDataset",
    "Dataset",
    "DatasetFiles",
    "EmoboxDataset",
    "FilesDataset",
    "FolderDataset",
    "HuggingFaceDataset",
    "IemocapDataset",
    "MakeSplits",
    "MeldDataset",
    "PublicDataset",
    "TableDataset",
    "WebDataset",
]


def _written(name: str) -> str:
    if not name.strip():
        raise ValueError("is empty: give a name")
    return name.strip()  # as tables are read: with white space around it, the label could pass for another column


def _code(given: Any) -> Any:
    if not isinstance(given, str):  # YAML reads 01 as 1, 08 as text and no as false
        raise ValueError(f"{given!r} is not text to YAML: put it in quotes, as it is written there: '01'")
    return given


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return text


Written = Annotated[str, BeforeValidator(_code), AfterValidator(_written)]  # what a corpus calls something
Pattern = Annotated[str, AfterValidator(_pattern)]
Part = Literal["train", "val", "test"]
Ours = Literal[
    "clip_id",
    "conversation_id",
    "index",
    "role",
    "text",
    "audio",
    "video",
    "split",
    "fold",
    "label",
    "group",
    "speaker",
]


# The corpus's class: what it is called here, which joins classes; null drops a class's clips. Others stay.
Labels = dict[Written, Written | None]


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
    exclude: HomeText | None = None  # a text file, relative to root: ids of clips to leave out, one a line

    @property
    def media(self) -> Path | str:
        """What media paths are relative to; a string is a URL."""
        return self.root if self.media_root is None else self.media_root

    @property
    def has_roles(self) -> bool:
        """Whether clips may say what their role in the conversation is."""
        return "role" in getattr(self, "columns", {})

    @property
    def parts_speakers(self) -> bool:
        """Whether its groups promise that no speaker straddles a split or a fold."""
        return True

    @field_validator("root")
    @classmethod
    def _is_local(cls, root: Path) -> Path:
        if re.match(r"[a-z0-9]{2,}:/", root.as_posix()):
            raise ValueError("must be a local folder; only media may be elsewhere: media_root")
        return root


class AvamergDataset(DatasetFiles):
    """AvaMERG's JSON, in its mapped or its original layout; the media files lie anywhere below the media's root."""

    adapter: Literal["avamerg"]
    files: dict[Part, HomeText] = {  # glob patterns below root, one per split
        "train": "json/mapped_train_data*.json",
        "val": "json/mapped_val_data*.json",
        "test": "json/mapped_test_data*.json",
    }
    units: Literal["last", "every"] = "last"  # the last labelled turn of a conversation, or every one
    labels: Labels = {}  # of the seven classes that emotions are projected onto
    # Media files that are named and not there: allow takes them as missing, and lists them.
    missing_media: Literal["refuse", "allow"] = "allow"
    context: bool = False  # the situation text as a first clip of the conversation, role "context"
    group: Literal["conversation", "speaker", "both"] = "conversation"  # what must not straddle a split or fold

    @property
    def has_roles(self) -> bool:
        return True

    @property
    def parts_speakers(self) -> bool:
        return self.group != "conversation"


class PublicDataset(DatasetFiles):
    """What all readers share that make a table with a row per clip: see extract/corpora/rows.py."""

    labels: Labels = {}
    # The label set, in order; default: the labels that are left, sorted.
    classes: Annotated[list[Written], Field(min_length=1)] | None = None
    splits: MakeSplits | None = None  # draw splits here; default: those of the corpus, or all of it is train
    # Media files that are named and not there: allow takes them as missing, and lists them.
    missing_media: Literal["refuse", "allow"] = "refuse"


class TableDataset(PublicDataset):
    """Any CSV or Parquet table with a row per clip. Media paths are relative to the media's root, and stay below it."""

    adapter: Literal["table"]
    # The CSV or Parquet file, relative to root. Left out: root is the file itself, and media lie beside it.
    table: HomeText | None = None
    columns: dict[
        Ours, Written
    ]  # our name: the table's name. A column that is not named here is not read; without clip_id the row is the id
    metadata: list[Written] = []  # free columns that heads may use
    privileged: list[Written] = []  # columns derived from the label: kept apart, refused by default

    @property
    def path(self) -> Path:
        """The table itself."""
        return self.root if self.table is None else self.root / self.table

    @property
    def media(self) -> Path | str:
        return self.path.parent if self.table is None and self.media_root is None else super().media

    @property
    def parts_speakers(self) -> bool:
        return self.columns.get("group", self.columns.get("speaker")) == self.columns.get("speaker")

    @model_validator(mode="after")
    def _has_what_a_table_needs(self) -> "TableDataset":
        if "label" not in self.columns:
            raise ValueError("columns.label: name the table's column for it")
        if "split" in self.columns and self.splits is not None:
            raise ValueError("give exactly one of columns.split (a column) and splits (draw them here)")
        if not {"split", "fold"} & self.columns.keys() and self.splits is None:
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


class NamedFiles(PublicDataset):
    """Media files of which a path says what they are.

    Named groups of a regular expression are what a clip is: ``label``, ``speaker``, ``split``, ``fold``, ``group``,
    ``text``, ``clip_id``, ``conversation_id``, ``index``; any other is metadata of that name.
    """

    film_sound: bool = True  # a film is heard, too, where no sound file is beside it
    # Group: what its values mean. A value that is not listed is refused.
    codes: dict[str, dict[Written, Written]] = {}

    @property
    def groups(self) -> list[str]:
        """The named groups of the pattern."""
        return list(re.compile(getattr(self, "pattern", None) or "").groupindex)

    @model_validator(mode="after")
    def _names_meet(self) -> "NamedFiles":
        for name in self.codes:
            if name not in self.groups:
                raise ValueError(f"codes.{name}: pattern has no group (?P<{name}>...)")
        for name in self.groups:
            if name in ("audio", "video", "role"):
                raise ValueError(f"pattern: a group cannot be called {name!r}: which file is {name} its suffix says")
        return self


class FolderDataset(NamedFiles):
    """A folder of media for each class."""

    adapter: Literal["folder"]
    # Which folder of a file's path below root is its class: -1 the one that holds it, -2 the one above, 0 the first.
    label_folder: Annotated[int, Field(ge=-20, le=20)] = -1
    # Searched in a file's path below root, for whatever else the path says: speaker, split, fold, ...
    pattern: Pattern | None = None

    @model_validator(mode="after")
    def _takes_the_label_from_folders(self) -> "FolderDataset":
        if "label" in self.groups:
            raise ValueError("pattern: has a group 'label': a folder is the label here; write adapter: files")
        return self


class FilesDataset(NamedFiles):
    """Media whose names say all: what a corpus of acted speech is, see ``configs/corpora/``."""

    adapter: Literal["files"]
    # Of a file's path below root: all of it, or its end from some folder on. Files that do not match are counted.
    pattern: Pattern
    # Files with the same values of these groups are one clip, such as its sound and its film; default: the same path
    # but for the suffix.
    clip: list[str] = []

    @model_validator(mode="after")
    def _tells_the_label(self) -> "FilesDataset":
        if "label" not in self.groups:
            raise ValueError("pattern: has no group (?P<label>...)")
        for name in self.clip:
            if name not in self.groups:
                raise ValueError(f"clip: pattern has no group (?P<{name}>...)")
        return self


class MeldDataset(PublicDataset):
    """MELD: ``train/dev/test_sent_emo.csv`` and ``dia{D}_utt{U}.mp4``, anywhere below root; every utterance a unit."""

    adapter: Literal["meld"]
    label: Literal["emotion", "sentiment"] = "emotion"
    missing_media: Literal["refuse", "allow"] = "allow"  # some clips of the published archive are broken or not there

    @property
    def parts_speakers(self) -> bool:
        return False  # groups are dialogues: the six friends are in all of them


class IemocapDataset(PublicDataset):
    """IEMOCAP as it is published: ``Session?/dialog/EmoEvaluation``, transcriptions, ``sentences/wav``."""

    adapter: Literal["iemocap"]
    # four: angry, happy (with excited), neutral, sad; five: excited by itself; six: frustrated, too; all: as annotated.
    merge: Literal["four", "five", "six", "all"] = "four"
    # An utterance sees what was said before it, those of no class, too; false: each stands by itself, as SER has it.
    dialogues: bool = True


class EmoboxDataset(PublicDataset):
    """A corpus by EmoBox's partition: its JSONL below ``root/CORPUS``, with folds, or train, valid and test."""

    adapter: Literal["emobox"]
    corpus: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]  # a folder's name, such as savee
    pattern: Pattern | None = None  # searched in an entry's key and path: (?P<speaker>...), others are metadata
    map_labels: bool = True  # by the corpus's label_map.json, which merges; false: labels as they are written

    @property
    def parts_speakers(self) -> bool:
        return False  # some of the published folds share speakers


class AudformatDataset(PublicDataset):
    """An ``audformat`` database: a folder with db.yaml."""

    adapter: Literal["audformat"]
    tables: list[Written] = []  # those that hold the label, one for each split; default: all that do
    columns: dict[Literal["label", "speaker", "text", "fold"], Written] = {}  # default: emotion, speaker
    metadata: list[Written] = []  # other columns, or what the scheme of speakers says of one: gender


class _Embedding(PublicDataset):
    """Records with media inside, which become files, once: named by their content below ``unpacked``."""

    columns: dict[Ours, Written]  # our name: theirs
    metadata: list[Written] = []
    unpacked: HomePath = Path("runs/media")

    @property
    def media(self) -> Path | str:
        return self.unpacked

    @model_validator(mode="after")
    def _has_a_label(self) -> "_Embedding":
        if "label" not in self.columns:
            raise ValueError("columns.label: name what holds the label")
        if self.media_root is not None:
            raise ValueError("media_root: the media are inside the records; 'unpacked' says where their files go")
        return self


class HuggingFaceDataset(_Embedding):
    """What ``save_to_disk`` of the library ``datasets`` wrote, or Parquet files as the hub has them."""

    adapter: Literal["huggingface"]


class WebDataset(_Embedding):
    """WebDataset's tar files; their names say the split. A column is a member's suffix, or a key of its JSON."""

    adapter: Literal["webdataset"]


Alone = (
    AvamergDataset
    | TableDataset
    | FolderDataset
    | FilesDataset
    | MeldDataset
    | IemocapDataset
    | EmoboxDataset
    | AudformatDataset
    | HuggingFaceDataset
    | WebDataset
)


class CorporaDataset(DatasetFiles):
    """Several corpora as one: the corpus is a prefix of ids and groups, and a metadata field."""

    adapter: Literal["corpora"]
    corpora: Annotated[
        dict[Name, Annotated[Alone, Field(discriminator="adapter")]], Field(min_length=2)
    ]  # each with its own root, labels, splits
    split: dict[Name, Part] = {}  # all of a corpus: test on it, or train on it; others keep their own splits
    classes: Annotated[list[Written], Field(min_length=1)] | None = None  # default: all that are left, sorted

    @property
    def has_roles(self) -> bool:
        return any(each.has_roles for each in self.corpora.values())

    @property
    def parts_speakers(self) -> bool:
        return all(each.parts_speakers for each in self.corpora.values())

    @model_validator(mode="after")
    def _names_meet(self) -> "CorporaDataset":
        if self.media_root is not None:
            raise ValueError("media_root: each corpus has its own: write it there")
        for name in self.split:
            if name not in self.corpora:
                raise ValueError(f"split.{name}: no such corpus")
        return self


Dataset = Annotated[Alone | CorporaDataset, Field(discriminator="adapter")]
