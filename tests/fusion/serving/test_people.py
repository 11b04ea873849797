"""New clips of people: alone they get the plain answer, together they are centred as people of the training were."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cache import StoreWriter
from configs.schema import Profile
from extract.corpora.manifest import TO_PREDICT, Manifest, make_manifest, read_manifest, write_manifest
from fusion.serving.bundle import Bundle, make_bundle, open_bundle
from fusion.serving.doubt import with_set
from fusion.serving.live import Predictor
from fusion.stack import main as stack
from fusion.strategies.speakers import Met
from fusion.tables.predictions import HeadOutputs
from heads.fitting.cross_validation import cross_validate
from heads.fitting.saved import predict

pytestmark = pytest.mark.xdist_group("people")  # what is made for all of them is made once
CLASSES = ("happy", "sad")
WORDS = {"happy": ("so happy", "very glad", "what joy"), "sad": ("so sad", "very down", "what grief")}
N_SPEAKERS, N_CLIPS = 6, 8
Sounds = dict[str, np.ndarray]


def rows(speaker: int, split: str, rng: np.random.Generator) -> tuple[list[dict[str, Any]], Sounds]:
    """Clips of somebody who says one word by habit, and whose voice is his own."""
    clips, sounds, voice = [], {}, rng.normal(scale=3, size=3)
    for number in range(N_CLIPS):
        label, name = CLASSES[number % 2], f"s{speaker}c{number}"
        text = f"{WORDS[label][int(rng.integers(3))]} {('happy', 'sad')[speaker % 2] * (number % 3 == 0)}"
        clip = {"clip_id": name, "conversation_id": name, "index": 0, "text": text, "audio": f"{name}.wav"}
        clips.append(clip | {"label": label, "split": split, "group": f"s{speaker}", "speaker": f"s{speaker}"})
        sounds[name] = (voice + rng.normal(size=(4, 3)) + (number % 2) * np.array([2, 0, 0])).astype(np.float32)
    return clips, sounds


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bundle, Manifest, Sounds]]:
    """A bundle, and somebody new: clips without labels, and what an encoder says of them."""
    root, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    known = [rows(speaker, "train", rng) for speaker in range(N_SPEAKERS)]
    profile = Profile.model_validate(
        {
            "name": "people",
            "folds": 2,
            "dataset": {"adapter": "avamerg", "root": "."},
            "encoders": {"audio": {"family": "wav2vec2", "model": "./none"}},
            "heads": {
                "words": {"kind": "bag_of_words", "inputs": ["text"], "c": 1.0},
                "sound": {"kind": "linear", "inputs": ["audio"], "c": 0.1, "standardise": "speaker"},
            },
            "fusion": {"bootstrap": 100, "standardise": "speaker"},
        }
    )
    clips = pl.DataFrame([clip for part, _ in known for clip in part])
    with contextlib.chdir(root):
        write_manifest(make_manifest(clips, Path(), CLASSES, {}, "people"), profile.manifest_path)
        with StoreWriter(profile.store_path("audio"), {"encoder": "tiny"}, dim=3, dtype="float32") as writer:
            for name, values in (pair for _, sounds in known for pair in sounds.items()):
                writer.append(name, values, name)
        for head in profile.heads:
            cross_validate(profile, read_manifest(profile.manifest_path), head)
        Path("people.yaml").write_text(profile.model_dump_json(exclude_unset=True))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["stack.py"])
            for slow in ("write_charts", "write_report"):  # and not asked for here
                patch.setattr(f"fusion.stack.{slow}", lambda *_: None)
            stack(config="people.yaml", strategy="mean")
        make_bundle(profile, root / "bundle")
        new, sounds = rows(9, "test", rng)
        unlabelled = pl.DataFrame(new).with_columns(label=pl.lit(TO_PREDICT))
        yield open_bundle(root / "bundle"), make_manifest(unlabelled, Path(), (TO_PREDICT,), {}, "new"), sounds


def answered(bundle: Bundle, manifest: Manifest, sounds: Sounds, speaker: str | None, n: int) -> list[dict[str, Any]]:
    clips = manifest.clips.head(n).with_columns(speaker=pl.lit(speaker, pl.String))
    there = {clip: values for clip, values in sounds.items() if clip in clips["clip_id"].to_list()}
    with pytest.MonkeyPatch.context() as patch, Predictor(bundle, bundle.profile, "cpu") as predictor:
        patch.setattr(predictor, "features", lambda *_: ({"audio": there}, {}))
        return list(predictor.answers(Manifest(clips, manifest.root, manifest.classes, {})))


def test_clips_of_a_named_speaker_are_centred_on_those_so_far(made: tuple[Bundle, Manifest, Sounds]) -> None:
    bundle, manifest, sounds = made
    answers = answered(bundle, manifest, sounds, "anna", N_CLIPS)
    assert [answer["centred_on"] for answer in answers] == [None] * 4 + [5, 6, 7, 8]
    heads = [head.load() for head in bundle.heads]
    units = manifest.units()
    logits = np.stack([predict(head, manifest, units, {"audio": sounds}) for head in heads], axis=1)
    people = bundle.people
    assert people is not None
    met = Met(people)
    for i, answer in enumerate(answers):
        own, n = met.centre("anna", logits[i])
        fitted = people.fitted if n else bundle.fusion
        given = HeadOutputs(own[None], np.ones((1, 2), dtype=bool))
        expected = np.exp(fitted.predict_logits(given))[0]
        np.testing.assert_allclose(list(answer["probabilities"].values()), expected, atol=1e-9)
        assert answer["missing"] == []


def test_either_fit_has_limits_of_its_own(made: tuple[Bundle, Manifest, Sounds]) -> None:
    bundle, manifest, sounds = made
    assert bundle.sets is not None
    assert bundle.centred_sets is not None
    assert bundle.sets.everyone != bundle.centred_sets.everyone
    answers = answered(bundle, manifest, sounds, "anna", N_CLIPS)
    for answer in (answers[0], answers[-1]):
        sets = bundle.centred_sets if answer["centred_on"] else bundle.sets
        present = np.array([[head["prediction"] is not None for head in answer["heads"].values()]])
        p = np.array([list(answer["probabilities"].values())])
        chosen = with_set(bundle, answer, 0.85)["set"]["classes"]
        assert [name in chosen for name in bundle.classes] == sets.sets(p, present, 0.85)[0].tolist()


def test_a_clip_by_itself_gets_the_plain_answer_without_heads_that_need_more(
    made: tuple[Bundle, Manifest, Sounds],
) -> None:
    bundle, manifest, sounds = made
    for speaker, n in ((None, N_CLIPS), ("anna", 1), ("anna", 2)):
        for answer in answered(bundle, manifest, sounds, speaker, n):
            assert answer["centred_on"] is None
            assert answer["heads"]["sound"]["prediction"] is None
            assert answer["heads"]["words"]["prediction"]
            why = [each["why"] for each in answer["missing"] if each["what"] == "speaker"]
            assert "head sound is centred on 3 clips or more of one: give --metadata speaker=NAME" in why
