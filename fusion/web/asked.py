"""What a client asks: its files in a folder of their own, a text, metadata; read from a request within limits."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from configs import UserError, one_line
from extract.corpora.media_paths import AUDIO, VIDEO
from fusion.web.uploads import Uploads

MOST_CHARACTERS = 20_000  # of a text
MOST_FIELDS = 32  # of metadata
UPLOAD = "emocache-upload-"  # what names of files begin with; no text of an answer holds it otherwise
LONGEST_NAME = 120  # characters of a file's, as it is given back
FORMS, JSON = "multipart/form-data", "application/json"
HEAD, WINDOW, HOP = "head", "window", "hop"


class Refused(Exception):
    """A request that is not answered, in one line that its sender may read; ``wait``: seconds until it may be."""

    def __init__(self, status: int, line: str, wait: int | None = None) -> None:
        super().__init__(line)
        self.status, self.line, self.wait = status, line, wait


class Said(BaseModel):
    """What a request says beside its files."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str | None = Field(None, max_length=MOST_CHARACTERS, description="What is said in the clip.")
    metadata: dict[str, str] = Field(
        default_factory=dict,
        max_length=MOST_FIELDS,
        description="What is known of the clip; fields are those of /about.",
    )
    window: float | None = Field(
        None, ge=0.5, le=3600, description="Seconds: the clip is also answered in windows of this length."
    )
    hop: float | None = Field(None, ge=0.5, le=3600, description="Seconds between windows. Default: a window.")


class SaidToExplain(Said):
    head: str | None = Field(None, max_length=200, description="Which head. Default: the one that contributed most.")


@dataclass
class Asked:
    """One request. ``folder`` holds its files and goes with them.

    Attributes:
        files: field: where the upload lies. ``names``: what its sender calls it.
        seconds: the longest of sound and pictures; 0 where there is neither.
    """

    folder: Path
    said: Said
    files: dict[str, Path] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def unit(self) -> str:
        given = self.names.get("video") or self.names.get("audio")
        return given or ("metadata" if self.said.text is None else "text")

    def shown(self, value: Any) -> Any:
        """Something that is sent back, with the sender's names for files in place of this machine's."""
        if isinstance(value, str):
            for kind, path in self.files.items():
                value = value.replace(str(path), self.names[kind]).replace(path.name, self.names[kind])
            return value.replace(str(self.folder), "")
        if isinstance(value, Mapping):
            return {key: self.shown(each) for key, each in value.items()}
        return [self.shown(each) for each in value] if isinstance(value, list) else value

    def forget(self) -> None:
        """Remove its files."""
        shutil.rmtree(self.folder, ignore_errors=True)


def without_paths(line: str) -> str:
    """An error's line for others' eyes: of a path on this machine the last part."""
    return re.sub(r"(?<![\w.:/])/(?:[^\s/:'\"]+/)+([^\s/:'\"]+)", r"\1", line)


async def read_request(request: Request, uploads: Uploads, model: type[Said]) -> Asked:
    """A multipart form (files ``video`` and ``audio``, the rest as fields) or JSON.

    Raises:
        Refused: it is neither, has what is not asked for, or nothing.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == JSON:
        try:
            said = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise Refused(422, f"the body is not JSON ({one_line(error, 100)})") from error
        checked = _checked(model, said)
        asked = Asked(uploads.folder(), checked)
    elif kind == FORMS:
        asked = await _from_form(request, uploads, model)
    else:
        raise Refused(415, f"send {FORMS} or {JSON}, not {kind[:50] or 'nothing'}")
    if not asked.files and asked.said.text is None and not asked.said.metadata:
        asked.forget()
        raise Refused(422, "nothing to predict: send a clip (video, audio), a text, or metadata")
    return asked


async def _from_form(request: Request, uploads: Uploads, model: type[Said]) -> Asked:
    try:
        form = await request.form(max_files=2, max_fields=8, max_part_size=1 << 20)
    except HTTPException as error:  # Starlette's own, which say what is wrong
        raise Refused(422, f"the form cannot be read: {one_line(error.detail, 200)}") from error
    async with _closing(form):
        said: dict[str, Any] = {}
        files: dict[str, UploadFile] = {}
        for name, value in form.multi_items():
            if name in said or name in files:
                raise Refused(422, f"{name[:50]}: given twice")
            if isinstance(value, UploadFile):
                if name not in ("video", "audio"):
                    raise Refused(422, f"{name[:50]}: not a field for a file: those are video and audio")
                files[name] = value
            elif name in ("video", "audio"):
                raise Refused(422, f"{name}: this must be a file")
            elif value != "":  # a form sends its empty fields, too
                said[name] = _value(name, value)
        checked = _checked(model, said)
        asked = Asked(uploads.folder(), checked)
        try:
            for name, upload in files.items():
                called = _name(upload.filename, name)
                suffix = PurePosixPath(called).suffix.lower()
                path = asked.folder / f"{UPLOAD}{name}{suffix if suffix in (*AUDIO, *VIDEO) else ''}"
                asked.files[name], asked.names[name] = path, called
                await run_in_threadpool(_copy, upload, path)
        except BaseException:
            asked.forget()
            raise
    return asked


class _closing:
    """A form whose temporary files go, however it ends."""

    def __init__(self, form: Any) -> None:
        self._form = form

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        await self._form.close()


def _copy(upload: UploadFile, path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file, 1 << 20)


def _name(given: str | None, kind: str) -> str:
    """What the sender calls a file: its last part, what of it can be shown."""
    last = re.split(r"[/\\]", given or "")[-1]
    return "".join(letter for letter in last if letter.isprintable())[-LONGEST_NAME:] or kind


def _value(name: str, value: str) -> Any:
    if name == "metadata":
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Refused(422, 'metadata: write a JSON object, as {"topic": "exams"}') from error
    if name in (WINDOW, HOP):
        try:
            return float(value)
        except ValueError as error:
            raise Refused(422, f"{name}: a number of seconds, not {value[:50]!r}") from error
    return value


def _checked(model: type[Said], said: Any) -> Said:
    if not isinstance(said, dict):
        raise Refused(422, "the body must be a JSON object")
    try:
        checked = model.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part)[:50] for part in first["loc"])
        known = f"; known are {', '.join(model.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise Refused(422, f"{place}: {first['msg'].lower()}{known}") from error
    if checked.hop is not None and checked.window is None:
        raise Refused(422, "hop: only with a window")
    return checked


def as_refused(error: UserError, status: int = 422) -> Refused:
    """An error of the program's own in words for a client: options of the command line are fields here."""
    return Refused(status, without_paths(str(error)).replace("--", ""))
