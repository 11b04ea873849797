"""What is said, by whom, about what, and which of its signals tell the emotion: the sample's plot, drawn from a seed.

For every conversation the four signals (voice, face, words, topic) fail independently: a signal that fails is neutral,
or shows another emotion. No conversation is left with fewer than two signals that tell the truth.
"""

from dataclasses import dataclass, field
from itertools import product

import numpy as np

from extract.sample.sentences import ASKS, FOLLOW_UPS, NEUTRAL, OPENINGS, RESPONSE_TAILS, RESPONSES, SLOTS

CLASSES = ("happy", "surprised", "angry", "fear", "sad", "disgusted", "contempt")
PER_CLASS = {"train": 5, "val": 1, "test": 3}  # conversations of each class
FAILURE_RATE = {"voice": 0.3, "face": 0.3, "words": 0.3, "topic": 0.5}
KINDER = 0.6  # in train, where five conversations of a class must teach it, all but the topic fail less often
SHORT_EVERY = 3  # in each class, every third conversation has two clips; the others have four

FINE_WORDS = {  # what an annotator wrote: words that AvaMERG projects onto the class
    "happy": ("joyful", "happy"),
    "surprised": ("surprised",),
    "angry": ("furious", "angry", "annoyed"),
    "fear": ("terrified", "afraid"),
    "sad": ("lonely", "sad"),
    "disgusted": ("disgusted",),
    "contempt": ("contempt",),
}

HOME_TOPIC = {
    "happy": "Life Events",
    "surprised": "Entertainment",
    "angry": "Work & Career",
    "fear": "Travel & Adventure",
    "sad": "Family",
    "disgusted": "Food & Cooking",
    "contempt": "Social Issues",
}
OPEN_TOPICS = ("Relationships", "Education", "Hobbies & Interests")


@dataclass(frozen=True)
class Person:
    """Somebody of the sample. Looks and voice are kept by ``looks`` and ``voices`` under the same ID."""

    id: int
    age: str
    gender: str
    timbre: str
    split: str

    def profile(self) -> dict[str, str | int]:
        return {"age": self.age, "gender": self.gender, "timbre": self.timbre, "ID": self.id}


PEOPLE = (
    Person(3, "young", "male", "mid", "train"),
    Person(8, "middle-aged", "female", "low", "train"),
    Person(14, "elderly", "male", "low", "train"),
    Person(21, "child", "female", "high", "train"),
    Person(27, "elderly", "female", "mid", "val"),
    Person(33, "young", "male", "high", "val"),
    Person(46, "young", "female", "high", "test"),
    Person(52, "middle-aged", "male", "mid", "test"),
)


@dataclass
class Line:
    """One clip of a conversation: what is said, and the emotion that its voice and its face show (0 to 1 strong)."""

    role: str
    person: Person
    text: str
    voice: str
    face: str
    strength: float


@dataclass
class Conversation:
    """One conversation; ``failures`` names the signals that do not tell its emotion."""

    id: str
    split: str
    emotion: str
    fine_word: str
    topic: str
    context: str
    failures: set[str]
    lines: list[Line] = field(default_factory=list)


class _Deck:
    """Sentences dealt without repetition until all are used, each pile shuffled once."""

    def __init__(self, piles: dict[str, tuple[str, ...]], rng: np.random.Generator) -> None:
        self._piles = {name: [str(s) for s in rng.permutation(pile)] for name, pile in piles.items()}

    def deal(self, name: str) -> str:
        if not self._piles[name]:
            raise RuntimeError(f"no sentence left for {name!r}: write more of them, or take another seed")
        return self._piles[name].pop()


def _draw_failures(n: int, kindness: float, rng: np.random.Generator) -> list[dict[str, str]]:
    """For each of n conversations, ``{signal: "neutral" or "other"}`` for the signals that fail.

    Each conversation keeps two true signals of the four, and no two of its signals mislead: a failure that would
    break this moves to a conversation drawn at random, so that each signal's number of failures stays.
    """
    failures: list[dict[str, str]] = [{} for _ in range(n)]
    for signal, rate in FAILURE_RATE.items():
        rate *= 1.0 if signal == "topic" else kindness
        for rank, chosen in enumerate(rng.permutation(n)[: round(rate * n)]):
            failures[chosen][signal] = "other" if rank % 3 == 2 else NEUTRAL
    while crowded := [f for f in failures if len(f) > 2 or list(f.values()).count("other") > 1]:
        signal = str(rng.choice(list(crowded[0])))
        free = [f for f in failures if signal not in f]
        free[rng.integers(len(free))][signal] = crowded[0].pop(signal)
    return failures


def _other(emotion: str, rng: np.random.Generator) -> str:
    return str(rng.choice([c for c in CLASSES if c != emotion]))


def write(seed: int) -> list[Conversation]:
    """The whole sample's conversations, in order of split and ID. Same seed, same conversations."""
    rng = np.random.default_rng(seed)
    openings, follow_ups = _Deck(OPENINGS, rng), _Deck(FOLLOW_UPS, rng)
    others = _Deck(
        {"ask": ASKS} | {c: tuple(f"{a} {b}" for a, b in product(r, RESPONSE_TAILS)) for c, r in RESPONSES.items()}, rng
    )
    conversations: list[Conversation] = []
    for split, per_class in PER_CLASS.items():
        people = [p for p in PEOPLE if p.split == split]
        emotions = [str(e) for e in rng.permutation(CLASSES * per_class)]
        failures = _draw_failures(len(emotions), KINDER if split == "train" else 1.0, rng)
        turns_taken = {
            emotion: int(start) for emotion, start in zip(CLASSES, rng.permutation(len(CLASSES)), strict=True)
        }
        for emotion, failed in zip(emotions, failures, strict=True):
            shown = {
                signal: {None: emotion, NEUTRAL: NEUTRAL, "other": _other(emotion, rng)}[failed.get(signal)]
                for signal in FAILURE_RATE
            }
            topic = str(rng.choice(OPEN_TOPICS)) if shown["topic"] == NEUTRAL else HOME_TOPIC[shown["topic"]]
            slots = dict(zip(("who", "place", "thing"), (str(rng.choice(s)) for s in SLOTS[topic]), strict=True))
            speaker = people[turns_taken[emotion] % len(people)]
            turns_taken[emotion] += 1
            listener = people[(people.index(speaker) + int(rng.integers(1, len(people)))) % len(people)]
            conversation = Conversation(
                id=f"{100 + 7 * len(conversations):05d}",
                split=split,
                emotion=emotion,
                fine_word=str(rng.choice(FINE_WORDS[emotion])),
                topic=topic,
                context=f"Something happened {slots['place']}, and it has to do with {slots['thing']}.",
                failures=set(failed),
            )
            said = [("speaker", speaker, _sentence(openings.deal(shown["words"]), slots))]
            if sum(c.emotion == emotion for c in conversations) % SHORT_EVERY:
                said.append(("listener", listener, others.deal("ask")))
                said.append(("speaker", speaker, follow_ups.deal(shown["words"])))
            said.append(("listener_response", listener, others.deal(emotion)))
            for role, person, text in said:
                speaks = role == "speaker"
                conversation.lines.append(
                    Line(
                        role,
                        person,
                        text,
                        voice=shown["voice"] if speaks else "sad",
                        face=shown["face"] if speaks else "happy",
                        strength=float(rng.uniform(0.85, 1.1) if speaks else rng.uniform(0.1, 0.25)),
                    )
                )
            conversations.append(conversation)
    return conversations


def _sentence(template: str, slots: dict[str, str]) -> str:
    text = template.format(**slots)
    return text[0].upper() + text[1:]
