"""AvaMERG's emotion words and the seven classes that they are projected onto.

The table is the one that AvaMERG's own loader carries (``ed_emotion_projection``), laid out by target.
"""

__all__ = ["CLASSES", "PROJECTION", "project"]

CLASSES = ("happy", "surprised", "angry", "fear", "sad", "disgusted", "contempt")

# The 75 keys of AvaMERG's emotion projection, by what each of them points to. It has two levels: words that
# annotators used point to one of EmpatheticDialogues' 32 emotions, and those point to a class.
_POINTS_TO = {
    "afraid": "fear fearful fragile helpless helplessness vulnerability vulnerable",
    "annoyed": "frustration",
    "anxious": "anxiety burdened concern concerned conflicted confusion nervous overwhelm overwhelmed stress stressed "
    "uneasy worried worry",
    "ashamed": "inadequacy",
    "disappointed": "disappointment upset",
    "guilty": "regret",
    "jealous": "confused lost",
    "lonely": "loneliness",
    "nostalgic": "nostalgia",
    "sentimental": "pensive reflective thoughtful",
    "tired": "exhausted exhaustion fatigue tired tiredness weary",  # these six never reach a class
    "happy": "anticipating caring confident content excited faithful grateful hopeful joyful prepared proud trusting",
    "surprised": "devastated impressed surprised",
    "angry": "angry annoyed furious",
    "fear": "afraid apprehensive terrified",
    "sad": "anxious ashamed disappointed embarrassed frustrated guilty heavy-hearted lonely melancholic melancholy "
    "nostalgic sadness sentimental",
    "disgusted": "disgusted",
    "contempt": "jealous",
}
PROJECTION = {key: target for target, keys in _POINTS_TO.items() for key in keys.split()}


def project(emotion: str) -> str | None:
    """Follow AvaMERG's projection to one of ``CLASSES``; None where it never arrives or the emotion is unknown."""
    word: str | None = emotion.strip().lower()
    seen = set()
    while word is not None and word not in CLASSES and word not in seen:
        seen.add(word)
        word = PROJECTION.get(word)
    return word if word in CLASSES else None
