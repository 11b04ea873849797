"""NAME=VALUE on the command line, and where encoders lie on this machine."""

from pathlib import Path

from configs import Profile, UserError, changed


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
