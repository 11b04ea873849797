"""What all sections of a profile share."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    field_validator,
    model_validator,
)

LONGEST_PATH = 4096  # characters; operating systems take no more


def _place_here(given: Any) -> Any:
    """A path as it is written, with ``~`` for somebody's home spelt out."""
    if not isinstance(given, str | Path):
        return given
    text = str(given)
    if not text.strip() or "\0" in text or len(text) > LONGEST_PATH:
        raise ValueError("is no path")
    if not text.startswith("~"):
        return given
    try:
        return str(Path(text).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{text.split('/')[0]}: nobody of that name has a home here: write the whole path") from error


Modality = Literal["audio", "video", "text"]
Metric = Literal["macro_f1", "accuracy", "weighted_f1", "log_loss"]  # that choices go by: heads/metrics/choosing.py
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)]
HomePath = Annotated[Path, BeforeValidator(_place_here)]
HomeText = Annotated[str, AfterValidator(_place_here)]  # a path that is kept as text: a pattern, or one below another


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
Share = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0, le=1_000_000)]
PositiveFloat = Annotated[float, Field(gt=0, le=1_000_000)]


def takes_flags(kind: Any) -> bool:
    """Whether true and false are values of a type; without asking, True would pass for 1."""
    return kind is bool or bool in get_args(kind)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _means_what_it_says(cls, given: Any) -> Any:
        for name, field in cls.model_fields.items():
            value = given.get(name) if isinstance(given, dict) else None
            if isinstance(value, bool) and not takes_flags(field.annotation):
                raise ValueError(f"{name}: is true or false (as yes, no, on and off are in YAML): give another value")
        return given

    @field_validator("*", mode="after")
    @classmethod
    def _names_nothing_twice(cls, value: Any) -> Any:
        twice = [each for each in value if value.count(each) > 1] if isinstance(value, list) else []
        if twice:
            raise ValueError(f"{twice[0]!r} is named twice")
        return value


# Names that an encoder cannot have: torch's ModuleDict has them for itself, and a network could not keep what it makes
# of an encoder under them.
TAKEN_NAMES = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double dump_patches
    eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items keys
    load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule share_memory smart_apply state_dict to to_empty train training type update values xpu
    zero_grad
    """.split()  # noqa: SIM905 (sixty lines otherwise)
)
