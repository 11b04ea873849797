"""A project with sound, pictures, texts and metadata, from conversations to a bundle: what is asked of new clips."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import save_checkpoints
from media_tools import write_mp4

from configs.schema import Profile
from extract.corpora.avamerg import read_avamerg
from extract.corpora.manifest import write_manifest
from extract.passes.extraction import extract
from extract.passes.means import Means
from fusion.serving.bundle import make_bundle
from fusion.stack import main as stack
from fusion.strategies.catalogue import load as load_fitted
from fusion.tables.predictions import HeadOutputs, Predictions, read
from heads.fitting.cross_validation import cross_validate

HEADS: dict[str, dict[str, Any]] = {
    "sound": {"kind": "linear", "inputs": ["audio"], "c": 0.1},
    "both": {"kind": "linear", "inputs": ["audio", "video"], "c": 0.1},
    "joint": {"inputs": ["audio", "text"], "metadata": ["topic"], "hidden": 8, "epochs": 1, "patience": 0},
    "crossed": {"kind": "cross_modal", "inputs": ["video", "text"], "hidden": 8, "epochs": 1, "patience": 0},
    "words": {"kind": "bag_of_words", "inputs": ["text"], "c": 1.0},
}
READS_TEXT = ("joint", "crossed", "words")
WORDS = {"happy": "i am so happy today !", "sad": "i am not happy , so sad ."}
N_TRAIN = 14


@dataclass(frozen=True)
class Project:
    root: Path
    profile: Profile
    bundle: Path
    units: Predictions  # heads' predictions of all units

    def batch(self, unit: str, heads: tuple[str, ...] = tuple(HEADS)) -> np.ndarray:
        """The fused probabilities of a test unit in the batch, with the other heads masked."""
        row = self.units.where((self.units.unit_ids == unit) & (self.units.splits == "test")).outputs
        present = row.present & np.isin(self.units.heads, heads)
        logits = np.where(present[..., None], row.logits, np.nan)
        fitted = load_fitted(self.profile.fusion_path / "model")
        return np.exp(fitted.predict_logits(HeadOutputs(logits, present, row.metadata)))[0]


def record(number: int, label: str | None, clips: list[str | None], words: str) -> dict[str, Any]:
    """A conversation of speaker and listener by turns; the speaker comes last."""
    dialogue = []
    for index, clip in enumerate(clips):
        role = "speaker" if (len(clips) - 1 - index) % 2 == 0 else "listener"
        dialogue.append({"index": index, "role": role, "text": words if role == "speaker" else "and you ?"})
        if clip:
            dialogue[-1] |= {"audio_path": clip, "video_path": clip}
    dialogue.append({"index": len(clips), "role": "listener_response", "text": "you are not very angry"})
    return {
        "conversation_id": f"{number:05d}",
        "topic": ("exams", "work")[number % 2],
        "turn": {"turn_id": "0", "dialogue": dialogue, "chain_of_empathy": {"speaker_emotion": label} if label else {}},
    }


def write_clip(path: Path, seed: int, loud: float, pictures: bool = True) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (5, 2, 3, 3), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    write_mp4(path, images if pictures else None, rng.normal(scale=loud, size=(8000, 1)).astype(np.float32))


def make_project(root: Path) -> Project:
    """All of it, by the real stages, in an empty folder."""
    models = save_checkpoints(root / "models", ["wav2vec2", "resnet", "distilbert"])
    clips = root / "data" / "clips"
    clips.mkdir(parents=True)
    for number in range(N_TRAIN + 3):
        for index in range(2):
            write_clip(clips / f"{number}_{index}.mp4", 2 * number + index, (0.02, 0.2)[number % 2])
    (clips / "broken.mp4").write_bytes((clips / "0_0.mp4").read_bytes()[:900])
    records = []
    for number in range(N_TRAIN):
        label = ("happy", "sad")[number % 2]
        records.append(record(number, label, [f"clips/{number}_0.mp4", f"clips/{number}_1.mp4"], WORDS[label]))
    tests = [
        record(N_TRAIN, "happy", [f"clips/{N_TRAIN}_0.mp4"], WORDS["happy"]),
        record(N_TRAIN + 1, "sad", [f"clips/{N_TRAIN + 1}_0.mp4", None, f"clips/{N_TRAIN + 1}_1.mp4"], WORDS["sad"]),
        record(N_TRAIN + 2, "sad", [f"clips/{N_TRAIN + 2}_0.mp4", None, "clips/broken.mp4"], WORDS["sad"]),
        record(N_TRAIN + 3, "happy", [None], WORDS["happy"]),
    ]
    (root / "data" / "train.json").write_text(json.dumps(records))
    (root / "data" / "test.json").write_text(json.dumps(tests))
    profile = Profile.model_validate(
        {
            "name": "tiny",
            "folds": 2,
            "dataset": {
                "adapter": "avamerg",
                "root": str(root / "data"),
                "files": {"train": "train.json", "test": "test.json"},
            },
            "store": {"max_error_share": 0.5},
            "encoders": {
                "audio": {"family": "wav2vec2", "model": str(models / "wav2vec2"), "pooling": 5.0},
                "video": {"family": "image", "model": str(models / "resnet"), "n_frames": 2},
                "text": {"family": "transformer", "model": str(models / "distilbert"), "pooling": "mean"},
            },
            "heads": HEADS,
            "fusion": {"bootstrap": 100},
        }
    )
    with contextlib.chdir(root):
        manifest = read_avamerg(profile.dataset)  # type: ignore[arg-type]
        write_manifest(manifest, profile.manifest_path)
        for modality in profile.encoders:
            extract(profile, manifest, [modality], Means("cpu", 1))
        for head in HEADS:
            cross_validate(profile, manifest, head)
        config = root / "tiny.yaml"
        config.write_text(profile.model_dump_json(exclude_unset=True))
        stack(config=str(config), strategy="weighted")
        make_bundle(profile, root / "bundle")
        files = {head: profile.head_path(head).absolute() / "predictions.parquet" for head in HEADS}
        return Project(root, profile, root / "bundle", read(files))
