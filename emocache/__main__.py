"""``emocache WORD ...``: the script of that word, as if it were called by its own name."""

import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from emocache.commands import COMMANDS, ROOMS


def main() -> None:
    """Call the script of the first argument with the others. Nothing else is imported: help answers at once."""
    word, *rest = sys.argv[1:] or ["--help"]
    if word in ("--help", "-h", "help"):
        print(_usage())
        return
    if word == "--version":
        print(f"emocache {version('emocache')}")
        return
    if word not in COMMANDS:
        near = get_close_matches(word, COMMANDS, 1)
        meant = f"did you mean {near[0]}?" if near else "emocache --help lists them"
        print(f"error: {word[:100]!r}: no such command: {meant}", file=sys.stderr)
        raise SystemExit(2)
    script = import_module(COMMANDS[word][0])
    sys.argv[1:] = getattr(script, "repeated", list)(rest)  # of one that takes lists of files
    from configs.command_line import command

    command(script.main, f"emocache {word}")


def _usage() -> str:
    lines = ["Usage: emocache COMMAND [OPTIONS] [ARGUMENTS]", ""]
    for room, title in ROOMS.items():
        lines += [f"{title}:"]
        lines += [f"  {word:<16} {does}" for word, (module, does) in COMMANDS.items() if module.startswith(f"{room}.")]
        lines += [""]
    return "\n".join([*lines, "emocache COMMAND --help says more. Begin with: emocache demo, or emocache new FOLDER"])


if __name__ == "__main__":
    main()
