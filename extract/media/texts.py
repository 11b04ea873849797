"""The texts of a conversation as one source."""

from collections.abc import Iterable

BETWEEN_TEXTS = "\x1f"  # between the texts until the tokenizer is known: the unit separator of ASCII


def join_texts(texts: Iterable[str]) -> str:
    """What an encoder with ``conversation: true`` reads of a unit."""
    return BETWEEN_TEXTS.join(text.replace(BETWEEN_TEXTS, " ") for text in texts)
