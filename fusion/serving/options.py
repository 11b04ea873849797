"""What command lines of a bundle share: their options, the bundle itself, and NAME=VALUE."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from configs import UserError
from configs.profiles import changed, load
from configs.schema import Profile
from fusion.serving.bundle import Bundle, open_bundle
from fusion.serving.doubt import check_doubt

BundleOption = Annotated[Path | None, typer.Option(help="Default: the bundle of the profile that dvc.yaml names.")]
EncoderOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FOLDER", help="Where an encoder's files lie, if not where the profile says."),
]
DeviceOption = Annotated[
    str, typer.Option(help="For encoders: cpu, cuda, cuda:1, mps; auto takes a CUDA GPU if there is one.")
]
PrecisionOption = Annotated[
    Literal["bf16", "int8"] | None,
    typer.Option(help="Of encoders: faster, and near what the heads were trained on. Default: the profile's."),
]
ConfidenceOption = Annotated[
    float | None,
    typer.Option(
        help="Say so if unsure: answer with the set of classes that holds the true one in so large a share of "
        "cases, such as 0.9; more than one is said as don't know."
    ),
]


def opened(bundle: Path | None, encoder: list[str] | None, confidence: float | None) -> tuple[Bundle, Profile]:
    """The bundle that is named, or dvc.yaml's, and its profile with encoders' folders as they are on this machine.

    Raises:
        UserError: no bundle, or none that answers with a confidence; see :func:`with_encoders`.
    """
    found = open_bundle(bundle or load().run_dir / "bundle")
    if confidence is not None:
        check_doubt(found, confidence)
    return found, with_encoders(found.profile, encoder)


def pairs(option: str, given: list[str] | None, allowed: list[str] | None = None) -> dict[str, str]:
    """
    Raises:
        UserError: not NAME=VALUE, a name that is not ``allowed``, or one that is given twice.
    """
    found: dict[str, str] = {}
    for pair in given or []:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise UserError(f"{option} {pair}: write NAME=VALUE")
        if allowed and key not in allowed:
            raise UserError(f"{option} {pair}: the bundle has encoders for {', '.join(allowed)}")
        if key in found:
            raise UserError(f"{option} {pair}: {key} is given twice")
        found[key] = value
    return found


def with_encoders(profile: Profile, given: list[str] | None) -> Profile:
    """A bundle's profile with encoders' folders as --encoder says.

    Raises:
        UserError: as :func:`pairs`, or an encoder that has no folder.
    """
    for name, folder in pairs("--encoder", given, list(profile.encoders)).items():
        if profile.encoders[name].source:
            raise UserError(f"--encoder {name}: its features were computed elsewhere: there is no encoder to load")
        profile = changed(profile, {"encoders": {name: {"model": str(Path(folder).expanduser().absolute())}}})
    return profile
