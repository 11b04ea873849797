"""Where words begin and end in any script: for heads that count words, and for explanations that take them away."""

import re
import sys
import unicodedata

# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, Tibetan, Tai, Balinese and Javanese, kana, Bopomofo,
# Han, Yi.
UNSEPARATED = (
    r"\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f"
    r"\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u9fff\ua000-\ua48f\ua980-\ua9ff"
    r"\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)


def _marks() -> str:
    """All combining marks, for a class of a regular expression: vowel signs are no letters to ``\\w``, and without them
    it tears the words of Devanagari, Tamil or vocalised Arabic apart. Joiners stand within words, too."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)).startswith("M"):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges) + "\u200c\u200d"


MARKS = _marks()
WORD = rf"[^\W{UNSEPARATED}](?:[^\W{UNSEPARATED}]|[{MARKS}])+"  # of two characters or more, where words are separated
CHARACTER = rf"[{UNSEPARATED}][{MARKS}]*"  # where they are not
HANGUL = r"[\uac00-\ud7a3]"  # a syllable that stands alone is a word
_PICTURE = r"[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff]"
EMOJI = rf"[\U0001f1e6-\U0001f1ff]{{2}}|{_PICTURE}(?:\u200d{_PICTURE})*"
EMOTICON = r"(?<!\w)[:;=]['-]?[()dpo*]+(?!\w)|</?3(?!\w)"
EMPHASIS = r"[!?¡¿؟]|\.{3}"
TERM = "|".join([WORD, HANGUL, EMOJI, EMOTICON, EMPHASIS])

_SHOWN_WORD = re.compile(rf"{CHARACTER}|[^\s{UNSEPARATED}]+")
_VARIANTS = re.compile(r"[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")


def words(text: str) -> list[tuple[int, int]]:
    """Where the words of a text stand, as (start, stop); punctuation belongs to the word that it touches, and what is
    written without spaces is taken character by character."""
    return [match.span() for match in _SHOWN_WORD.finditer(text)]


def folded(text: str) -> str:
    """A text in which what looks alike is alike: full-width forms, composed letters, variants of an emoji."""
    return text if text.isascii() else _VARIANTS.sub("", unicodedata.normalize("NFKC", text))
