"""A corpus of AvaMERG's shape, at any share of its size: its layouts, its names, tiny media in its containers.

33,048 dialogues and 152,021 utterances, as its paper counts them, each with a WAV and an MP4, profiles, topics and a
chain of empathy. Splits are in the proportions of EmpatheticDialogues, from which it was made. Training and validation
records are in the mapped layout (Windows separators in the paths, as in the field), test records in the original one.
The same seed and share give the same bytes.
"""

import json
import wave
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

DIALOGUES, UTTERANCES = 33_048, 152_021
SPLITS = {"train": 19_541, "val": 2_769, "test": 2_546}  # EmpatheticDialogues' official ones: proportions
RATE = 16_000  # Hz
FOLDER = 10_000  # files in a folder
TEMPLATES = 12  # films of each class; every clip's file is one of them with a box of its own
MISSING = 0.0005  # of the media files that records name
WORDS = 8_000  # of the made-up vocabulary
OFTEN = np.cumsum(1 / np.arange(5, WORDS + 5)) / np.sum(1 / np.arange(5, WORDS + 5))  # of a word or a commoner one
TOPICS = ("Relationships", "Work", "Family", "Health", "School", "Travel", "Money", "Pets", "Food", "Loss")
EMOTIONS = {  # class: how often, and words that project onto it
    "happy": (0.27, ("joyful", "proud", "grateful", "excited", "hopeful", "caring")),
    "surprised": (0.08, ("surprised", "impressed")),
    "angry": (0.12, ("angry", "annoyed", "furious")),
    "fear": (0.11, ("afraid", "terrified", "apprehensive")),
    "sad": (0.34, ("lonely", "sentimental", "guilty", "disappointed", "anxious", "embarrassed")),
    "disgusted": (0.05, ("disgusted",)),
    "contempt": (0.03, ("jealous",)),
}
PROFILES = [
    {"age": age, "gender": gender, "timbre": timbre, "ID": 24 * copy + number}
    for copy in range(4)
    for number, (age, gender, timbre) in enumerate(
        (age, gender, timbre)
        for age in ("child", "young", "middle-aged", "elderly")
        for gender in ("male", "female")
        for timbre in ("high", "mid", "low")
    )
]


@dataclass(frozen=True)
class Dialogue:
    number: int  # among all: decides all that is drawn for it
    split: str
    n_utterances: int
    first: int  # utterances of its split before it

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


def dialogues(share: float, extra: int = 0) -> list[Dialogue]:
    """All dialogues of a share of the corpus, and so many of four utterances added to its training split."""
    n, n_utterances = round(DIALOGUES * share), round(UTTERANCES * share)
    shares = np.cumsum([0, *SPLITS.values()]) / sum(SPLITS.values())
    bounds = dict(zip(SPLITS, pairwise(np.round(shares * n).astype(int).tolist()), strict=True))
    lengths = np.random.default_rng([0, n]).choice([4, 6, 8], n, p=[0.75, 0.2, 0.05])
    at = 0
    while (lacking := n_utterances - int(lengths.sum())) != 0:  # to the utterance
        step = int(np.clip(lacking, -2, 2))
        lengths[at % n] += step if 3 <= lengths[at % n] + step <= 10 else 0
        at += 1
    found: list[Dialogue] = []
    for split, (start, end) in bounds.items():
        sizes = [*lengths[start:end].tolist(), *([4] * extra if split == "train" else [])]
        numbers = [*range(start, end), *(range(90_000, 90_000 + extra) if split == "train" else [])]
        before = np.cumsum([0, *sizes]).tolist()
        found += [Dialogue(*row) for row in zip(numbers, [split] * len(sizes), sizes, before[:-1], strict=True)]
    return found


def write_corpus(root: Path, share: float, seed: int = 0, extra: int = 0, workers: int = 2) -> dict[str, int]:
    """The corpus below ``root``; media that are there already stay as they are.

    Args:
        extra: dialogues added to the training split: with others, everything else stays byte for byte.
    Returns:
        how many dialogues, utterances, media files and files that are named and not there.
    """
    films = _films(seed)
    every = dialogues(share, extra)
    for split in SPLITS:
        most = sum(d.n_utterances for d in every if d.split == split)
        for kind in ("audio", "video"):
            for part in range(most // FOLDER + 1):
                (root / _folder(split, kind, part * FOLDER)).mkdir(parents=True, exist_ok=True)
    parts = [every[i : i + 64] for i in range(0, len(every), 64)]
    missing = 0
    with ProcessPoolExecutor(workers) as pool:
        work = pool.map(partial(_write_media, root, seed, films), parts)
        for count in tqdm(work, "media", len(parts), unit="64 dialogues", disable=None):
            missing += count
    (root / "json").mkdir(exist_ok=True)
    for split in SPLITS:
        layout = "original" if split == "test" else "mapped"
        records = [_record(dialogue, seed) for dialogue in every if dialogue.split == split]
        (root / f"json/{layout}_{split}_data.json").write_text(json.dumps(records), encoding="utf-8")
    n_utterances = sum(dialogue.n_utterances for dialogue in every)
    return {
        "dialogues": len(every),
        "utterances": n_utterances,
        "media": 2 * n_utterances - missing,
        "missing": missing,
    }


def _folder(split: str, kind: str, number: int) -> str:
    return f"data/{split}_{kind}/{kind}_v5_{number // FOLDER}"


def _drawn(dialogue: Dialogue, seed: int) -> tuple[np.random.Generator, str, str, dict[str, Any], dict[str, Any]]:
    """Its generator, class, the annotator's word, and who speaks and listens."""
    rng = np.random.default_rng([seed, dialogue.number])
    label = str(rng.choice(list(EMOTIONS), p=[often for often, _ in EMOTIONS.values()]))
    speaker, listener = (PROFILES[int(i)] for i in rng.choice(len(PROFILES), 2, replace=False))
    return rng, label, str(rng.choice(EMOTIONS[label][1])), speaker, listener


def _files(dialogue: Dialogue, speaker: dict[str, Any], listener: dict[str, Any]) -> Iterator[dict[str, str]]:
    """For each utterance the path of its sound and of its film."""
    for i in range(dialogue.n_utterances):
        who = (speaker, listener)[i % 2]["ID"]
        name = f"dia{dialogue.name}utt{i}_{who}"
        yield {
            kind: f"{_folder(dialogue.split, kind, dialogue.first + i)}/{name}.{ending}"
            for kind, ending in (("audio", "wav"), ("video", "mp4"))
        }


def _record(dialogue: Dialogue, seed: int) -> dict[str, Any]:
    rng, label, emotion, speaker, listener = _drawn(dialogue, seed)
    files = list(_files(dialogue, speaker, listener))
    texts = [_sentence(rng, label if i % 2 == 0 else "") for i in range(dialogue.n_utterances)]
    roles = [("speaker", "listener")[i % 2] for i in range(dialogue.n_utterances)]
    empathy = {
        "speaker_emotion": emotion,
        "event_scenario": _sentence(rng, label),
        "emotion_cause": _sentence(rng, label),
        "goal_to_response": f"To answer somebody who is {emotion}.",
    }
    about = {
        "conversation_id": dialogue.name,
        "speaker_profile": speaker,
        "listener_profile": listener,
        "topic": str(rng.choice(TOPICS)),
    }
    if dialogue.split == "test":
        turns = [
            {
                "turn_id": str(k),
                "context": texts[0],
                "dialogue_history": [{"index": i, "role": roles[i], "utterance": texts[i]} for i in range(end)],
                "response": texts[end] if end < len(texts) else None,
                "chain_of_empathy": empathy,
            }
            for k, end in enumerate(range(1, len(texts) + 1, 2))
        ]
        return about | {"turns": turns}
    roles[-1] = "listener_response" if roles[-1] == "listener" else roles[-1]
    utterances = [
        {"index": i, "role": roles[i], "text": texts[i]}
        | {f"{kind}_name": path.rpartition("/")[2] for kind, path in files[i].items()}
        | {f"{kind}_path": "\\".join(path.rsplit("/", 1)) for kind, path in files[i].items()}
        for i in range(dialogue.n_utterances)
    ]
    turn = {"turn_id": "1", "context": texts[0], "dialogue": utterances, "chain_of_empathy": empathy}
    return about | {"turn": turn}


def _sentence(rng: np.random.Generator, label: str) -> str:
    """4 to 40 words, rare ones rarely; some that the class makes likelier. One in fifty is said by many."""
    if rng.random() < 0.02:
        return ("thank you so much .", "i am sorry to hear that .", "that is great !")[int(rng.integers(3))]
    n = int(np.clip(rng.lognormal(2.5, 0.5), 4, 40))
    words = [f"w{number}" for number in np.searchsorted(OFTEN, rng.random(n)).tolist()]
    if label and rng.random() < 0.6:
        words.insert(int(rng.integers(len(words))), f"{label}{int(rng.integers(20))}")
    return " ".join(words) + " ."


def vocabulary() -> list[str]:
    """Every word that sentences may have."""
    said = ["thank", "you", "so", "much", ".", "i", "am", "sorry", "to", "hear", "that", "is", "great", "!"]
    return [*said, *(f"{label}{i}" for label in EMOTIONS for i in range(20)), *(f"w{i}" for i in range(WORDS))]


def _write_media(root: Path, seed: int, films: dict[str, list[bytes]], some: list[Dialogue]) -> int:
    """Sounds and films of some dialogues. Returns how many are left out."""
    missing = 0
    for dialogue in some:
        _, label, _, speaker, listener = _drawn(dialogue, seed)
        for i, files in enumerate(_files(dialogue, speaker, listener)):
            rng = np.random.default_rng([seed, dialogue.number, i])
            heard = label if i % 2 == 0 and rng.random() < 0.7 else str(rng.choice(list(EMOTIONS)))
            lost = rng.random(2) < MISSING
            film = films[heard][int(rng.integers(TEMPLATES))]
            samples = _sound(list(EMOTIONS).index(heard), rng)
            for path, absent in zip((root / files["audio"], root / files["video"]), lost, strict=True):
                missing += bool(absent)
                if absent or path.exists():
                    continue
                if path.suffix == ".wav":
                    write_sound(path, samples)
                else:
                    path.write_bytes(film + own_box(path.name))
    return missing


def write_sound(path: Path, samples: np.ndarray) -> None:
    """Samples (n,) of -1 to 1 as a WAV of 16 bits at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def own_box(name: str) -> bytes:
    """A box of an MP4 that players skip: with it no two files have the same bytes."""
    return (8 + len(name)).to_bytes(4, "big") + b"free" + name.encode()


def _sound(number: int, rng: np.random.Generator) -> np.ndarray:
    """(samples,) a tone whose pitch leans to the class, in noise, 0.4 to 1.2 s in steps of 50 ms."""
    time = np.arange(int(rng.integers(8, 25)) * RATE // 20) / RATE
    tone = np.sin(2 * np.pi * (150 + 60 * number + rng.normal(0, 40)) * time)
    return np.clip(0.3 * tone + rng.normal(0, 0.05, len(time)), -1, 1)


def _films(seed: int) -> dict[str, list[bytes]]:
    """For each class H.264 films in MP4, 64 x 48, 25 frames a second, 0.4 to 1 s."""
    import io

    import av

    films: dict[str, list[bytes]] = {}
    for number, label in enumerate(EMOTIONS):
        films[label] = []
        for copy in range(TEMPLATES):
            rng = np.random.default_rng([seed, number, copy, 1])
            file = io.BytesIO()
            with av.open(file, "w", format="mp4") as container:
                # x264's slower presets look ahead, and do not always give the same bytes for the same pictures
                stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                base = rng.integers(0, 120, (6, 8, 3)) + np.array([number * 18, 100 - number * 14, 60])
                image = base.clip(0, 255).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
                for k in range(int(rng.integers(10, 26))):
                    moved = np.roll(image, k * (1 + number % 3), axis=1)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
                container.mux(stream.encode(None))
            films[label].append(file.getvalue())
    return films
