"""Notes beside a store that say of an extraction into it that it has begun and not ended."""

from pathlib import Path

from cache.disk.writing import writable, write_text_atomically


def begin(path: Path, who: str, n_clips: int) -> None:
    """Note beside a store that ``who`` is to bring ``n_clips`` clips into it, until :func:`end`: whenever the writer is
    killed, a half is known as one.

    Raises:
        StoreError: the system refuses to write.
    """
    with writable(path):
        write_text_atomically(_note_path(path, who), f"{n_clips}\n")


def end(path: Path, who: str) -> None:
    """All that ``who`` wanted of a store was tried."""
    with writable(path):
        _note_path(path, who).unlink(missing_ok=True)


def begun(path: Path) -> dict[str, int]:
    """Who has not ended yet, and how many clips the store is then to hold of theirs (0: the note is damaged)."""
    prefix = _note_path(path, "").name
    notes = sorted(each for each in path.resolve().parent.glob(".*") if each.name.startswith(prefix))
    found = {note.name.removeprefix(prefix): note.read_bytes().strip() for note in notes}
    return {who: int(text) if text.isdigit() else 0 for who, text in found.items() if not who.endswith(".partial")}


def _note_path(path: Path, who: str) -> Path:
    folder = path.resolve()
    return folder.with_name(f".{folder.name}.unfinished.{who}")
