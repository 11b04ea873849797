"""What the service says of itself: OpenAPI, a page that shows it without any help from elsewhere, what can be asked."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from extract.pages.rendering import environment
from fusion.web.answering import Answering
from fusion.web.asked import FORMS, JSON, Said
from fusion.web.limits import Limits

TEMPLATES = Path(__file__).with_name("templates")
STRICT = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
REFUSED = {
    400: "the client went away",
    401: "a wrong password, or none",
    403: "sent by a page of another site",
    408: "sent too slowly",
    413: "larger, or longer, than may be",
    415: "neither a form nor JSON",
    421: "without a password: not a name of this machine",
    422: "a file that is no clip, a field that is wrong, nothing to go on",
    429: "the last clip of this session is still being answered",
    500: "a fault of the program",
    503: "too many requests wait (Retry-After says when to come again), or it is stopping",
    504: "no answer in time",
}


class Error(BaseModel):
    """One line for people."""

    error: str


class Head(BaseModel):
    """What one head says by itself; nothing where it is absent."""

    prediction: str | None
    probability: float | None
    probabilities: dict[str, float] | None
    contribution: float | None  # nats by which it raises the winner; null where it is absent, or alone
    reads: list[str]
    lacks: list[str]


class Missing(BaseModel):
    """Something that was not there to be read, and why."""

    what: str
    clip: str | None
    why: str


class Window(BaseModel):
    """An answer for a part of the clip, in seconds."""

    start: float
    stop: float
    prediction: str | None
    probability: float | None
    probabilities: dict[str, float] | None
    error: str | None


class Doubt(BaseModel):
    """The classes that hold the true one in a share of cases, the most probable first."""

    confidence: float
    classes: list[str]
    known: bool  # whether it is one
    says: str
    heads: list[str] | None  # that it goes by; null: by all units, whatever heads they had
    groups: int  # that it was calibrated on
    note: str | None  # how rough it is


class Answer(BaseModel):
    """Calibrated probabilities, and where they come from."""

    unit: str
    prediction: str
    probability: float
    probabilities: dict[str, float]
    heads: dict[str, Head]
    missing: list[Missing]
    error: None
    centred_on: int | None
    set: Doubt | None = None  # where the service was started with --confidence
    seconds: float | None = None  # of the clip, where windows were asked for
    timeline: list[Window] | None = None


class Explanation(BaseModel):
    """What carried a head's answer, in lines and as a page."""

    head: str
    explained: str
    carried: list[list[str]]
    html: str


def described(model: type[Said], result: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says of an endpoint that reads its body by itself."""
    schema = model.model_json_schema()
    file = {"type": "string", "format": "binary"}
    form = {
        **schema,
        "properties": {
            "video": file | {"description": "A clip: its pictures, and its sound where it has some."},
            "audio": file | {"description": "The clip's sound, where it is a file of its own."},
            **schema["properties"],
        },
    }
    content = {FORMS: {"schema": form}, JSON: {"schema": schema, "example": example}}
    return {
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
        "responses": {200: {"model": result}}
        | {status: {"model": Error, "description": why} for status, why in REFUSED.items()},
    }


def plain_page(app: FastAPI) -> HTMLResponse:
    """The endpoints in one page: those that come with FastAPI load their parts from elsewhere."""
    html = environment(TEMPLATES).get_template("docs.html.j2").render(api=app.openapi())
    return HTMLResponse(html, headers={"content-security-policy": STRICT})


def about_bundle(answering: Answering, limits: Limits) -> dict[str, Any]:
    """For clients: what can be asked, and within which limits."""
    bundle, fields = answering.bundle, answering.predictor.fields
    known: dict[str, set[str]] = {field: set() for field in fields}
    for head in answering.predictor.heads:
        for field, words in head.vocabularies.items():
            if field in known:
                known[field].update(words)
    return {
        "profile": answering.profile.name,
        "bundle": bundle.digest[:16],
        "classes": list(bundle.classes),
        "heads": [head.name for head in bundle.heads],
        "reads": sorted(
            {answering.profile.modality_of(name) for head in answering.predictor.heads for name in head.settings.inputs}
        ),
        "metadata": {field: sorted(words) for field, words in known.items()},
        "limits": {
            "megabytes": limits.megabytes,
            "seconds": limits.seconds,
            "timeout": limits.timeout,
            "waiting": limits.waiting,
        },
    }
