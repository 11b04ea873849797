"""The bag-of-words head on its own."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from configs import UserError
from configs.schema import Head
from extract.corpora.manifest import make_manifest
from heads.data.scripts import TERM, folded
from heads.models.bag_of_words import BagModel, fit_fold, load_fold, text_features, unit_texts

NONE = np.array([], dtype=int)


def bag(**settings: object) -> Head:
    return Head.model_validate({"kind": "bag_of_words", "inputs": ["text"]} | settings)


def test_texts_are_of_the_past_and_mark_the_speaker() -> None:
    lines = [
        ("context", "the exam"),
        ("speaker", "I passed"),
        ("listener", "were you sad"),
        ("speaker", None),
        ("listener_response", "congratulations"),
    ]
    rows = [
        {
            "clip_id": f"u{i}",
            "conversation_id": "c",
            "index": i,
            "role": role,
            "text": text,
            "split": "train",
            "label": "happy" if i == 3 else None,
            "group": "c",
        }
        for i, (role, text) in enumerate(lines)
    ]
    manifest = make_manifest(pl.DataFrame(rows), Path(), ("happy", "sad"), {}, "by hand")
    texts = unit_texts(manifest, manifest.units())
    assert texts.tolist() == [["the exam\nI passed\nwere you sad", "the exam\nI passed", ""]]


def test_it_learns_and_its_probabilities_sum_to_one(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(80)
    units = manifest.units()
    texts, labels = unit_texts(manifest, units), np.array([manifest.classes.index(unit.label) for unit in units])
    train, watch = np.arange(40), np.arange(40, 60)
    model, history = fit_fold(tools.task(texts, train, watch, bag(), 3, labels=labels))
    assert sum(record["best"] for record in history) == 1
    rest = np.arange(60, 80)
    log_p = model.log_probabilities(texts, rest)
    assert (log_p.argmax(1) == labels[rest]).mean() > 0.9
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1)


def test_what_is_said_of_a_c_is_what_it_gives_alone(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(80)
    units = manifest.units()
    texts, labels = unit_texts(manifest, units), np.array([manifest.classes.index(unit.label) for unit in units])

    def loss_of_each(**settings: object) -> dict[float, float]:
        task = tools.task(texts, np.arange(40), np.arange(40, 60), bag(letters=False, **settings), 3, labels=labels)
        return {record["c"]: record["inner_loss"] for record in fit_fold(task)[1]}

    together = loss_of_each()
    assert len(together) > 2
    assert together == {c: loss for each in together for c, loss in loss_of_each(c=each).items()}


def test_a_chosen_c_needs_no_validation_and_an_unknown_text_no_words(tools: SimpleNamespace) -> None:
    manifest, _ = tools.dataset(40)
    units = manifest.units()
    texts, labels = unit_texts(manifest, units), np.array([manifest.classes.index(unit.label) for unit in units])
    everything = np.arange(40)
    model, history = fit_fold(tools.task(texts, everything, NONE, bag(c=2.0), 3, labels=labels))
    assert history == [{"c": 2.0, "best": True, "read": "all"}]
    unknown = np.array([[""] * 3, ["zzz"] * 3], dtype=object)
    assert np.isfinite(model.log_probabilities(unknown, np.arange(len(unknown)))).all()


def test_texts_without_words_are_refused(tools: SimpleNamespace) -> None:
    texts = np.full((6, 3), "", dtype=object)
    with pytest.raises(UserError, match="nothing to learn from"):
        fit_fold(tools.task(texts, np.arange(6), NONE, bag(c=1.0), 2, labels=np.array([0, 1] * 3)))


@pytest.mark.parametrize("own", [True, False])
def test_the_labelled_clip_is_not_lost_among_what_was_said_before(tools: SimpleNamespace, own: bool) -> None:
    """One word shows the class, in the labelled clip alone or before it; the same words stand at random elsewhere."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 2
    words = np.array(["glad", "grim"])
    before = [" ".join(words[rng.integers(2, size=9)]) for _ in labels]
    said = [words[label] if own else words[rng.integers(2)] for label in labels]
    before = before if own else [words[label] for label in labels]
    texts = np.array([[f"{past}\n{now}"] * 2 + [now] for past, now in zip(before, said, strict=True)], dtype=object)
    model, history = fit_fold(tools.task(texts, np.arange(80), np.arange(80, 120), bag(), 2, labels=labels))
    assert history[0]["read"] in ({"own", "apart"} if own else {"all", "apart"})
    assert (model.log_probabilities(texts, np.arange(120, 160)).argmax(1) == labels[120:]).mean() > 0.9


HAPPY_SAD = {  # opposite feelings about the same things
    "English": (["I am very happy about", "what a joy it is to have"], ["I am so sad about", "it hurts to think of"]),
    "Chinese": (["我今天非常高兴因为", "真是太开心了关于"], ["我今天非常难过因为", "真是太伤心了关于"]),
    "Japanese": (["とても嬉しいです", "本当に楽しい"], ["とても悲しいです", "本当に辛い"]),
    "Thai": (["ฉันมีความสุขมากกับ", "ดีใจจังเลยเรื่อง"], ["ฉันเศร้ามากกับ", "เสียใจจังเลยเรื่อง"]),
    "Hindi": (["मैं बहुत खुश हूँ", "कितना आनंद है"], ["मैं बहुत दुखी हूँ", "कितना दर्द है"]),
    "emoji": (["😀", "👍🏽"], ["😢", "👎"]),
    "emphasis": (["!!!", "!"], ["...", "?"]),
}
ENGLISH = ["exam", "trip", "work", "family", "friend", "house", "weather", "film", "boss", "child"]
ABOUT = {
    "Chinese": ["考试", "旅行", "工作", "家人", "朋友", "房子", "天气", "电影", "老板", "孩子"],
    "Japanese": ["試験", "旅行", "仕事", "家族", "友達", "家", "天気", "映画", "上司", "子供"],
    "Thai": ["สอบ", "เที่ยว", "งาน", "ครอบครัว", "เพื่อน", "บ้าน", "อากาศ", "หนัง", "เจ้านาย", "ลูก"],
}


@pytest.mark.parametrize("language", HAPPY_SAD)
def test_it_learns_from_any_script(tools: SimpleNamespace, language: str) -> None:
    things = ABOUT.get(
        language, ["exam", "trip", "work", "family", "friend", "house", "weather", "film", "boss", "child"]
    )
    space = "" if language in ABOUT else " "
    lines = [
        (said + space + thing, c) for c, side in enumerate(HAPPY_SAD[language]) for said in side for thing in things
    ]
    lines = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]
    texts = np.array([[folded(line)] * 3 for line, _ in lines], dtype=object)
    labels = np.array([label for _, label in lines])
    train, watch, rest = np.arange(20), np.arange(20, 30), np.arange(30, 40)
    model, _ = fit_fold(tools.task(texts, train, watch, bag(), 2, labels=labels))
    assert (model.log_probabilities(texts, rest).argmax(1) == labels[rest]).mean() >= 0.9


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("I don't KNOW!!", ["don", "know", "!", "!"]),
        ("Gut gemacht 👍🏽❤️ :-)", ["gut", "gemacht", "👍", "❤", ":-)"]),
        ("👨‍👩‍👧 🇩🇪🇫🇷", ["👨‍👩‍👧", "🇩🇪", "🇫🇷"]),
        ("ＷＯＷ！？ … ok", ["wow", "!", "?", "...", "ok"]),
        ("cafe\u0301 हिन्दी में", ["café", "हिन्दी", "में"]),
        ("안녕 왜", ["안녕", "왜"]),
        ("see http://a.b/c", ["see", "http"]),
        ("我很好iPhone", ["iphone"]),
        (" . , ", []),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert re.findall(TERM, folded(text).lower()) == terms


def test_letters_are_added_where_inner_units_like_them(tools: SimpleNamespace, tmp_path: Path) -> None:
    """Words never recur, their stems do: only letters carry the class."""
    rng = np.random.default_rng(1)
    labels = np.tile([0, 1], 60)
    lines = [("glad" if label == 0 else "grim") + "".join(rng.choice(list("bcfhjkpqvwxyz"), 5)) for label in labels]
    texts = np.array([[line] * 3 for line in lines], dtype=object)
    train, watch, rest = np.arange(60), np.arange(60, 90), np.arange(90, 120)
    model, history = fit_fold(tools.task(texts, train, watch, bag(), 2, labels=labels))
    best = next(record for record in history if record["best"])
    assert best["letters"]
    assert best["inner_macro_f1"] == best["inner_macro_f1_letters"] > best["inner_macro_f1_words"]
    assert (model.log_probabilities(texts, rest).argmax(1) == labels[rest]).all()
    assert isinstance(model, BagModel)
    before = model.log_probabilities(texts, rest)
    about = model.save(tmp_path, "fold0")
    np.testing.assert_array_equal(model.log_probabilities(texts, rest), before)  # saving leaves it as it was
    np.testing.assert_array_equal(load_fold(tmp_path, about).log_probabilities(texts, rest), before)
    assert b"glad" in (tmp_path / about["terms"]).read_bytes()
    assert b"glad" not in (tmp_path / about["file"]).read_bytes()  # skops says much of each word that it meets
    plain, history = fit_fold(tools.task(texts, train, watch, bag(letters=False), 2, labels=labels))
    assert not next(record for record in history if record["best"])["letters"]
    assert (plain.log_probabilities(texts, rest).argmax(1) == labels[rest]).mean() < 0.8


def test_a_model_of_several_scripts_is_the_same_when_loaded(tools: SimpleNamespace, tmp_path: Path) -> None:
    lines = ["很高兴 happy 😀", "难过 sad 😢", "开心 glad!", "伤心 grim ..."] * 3
    texts, labels = np.array([[line] * 3 for line in lines], dtype=object), np.array([0, 1] * 6)
    everything = np.arange(12)
    model, _ = fit_fold(tools.task(texts, everything, NONE, bag(c=1.0, letters=True), 2, labels=labels))
    loaded = load_fold(tmp_path, model.save(tmp_path, "fold0"))
    np.testing.assert_array_equal(
        loaded.log_probabilities(texts, everything), model.log_probabilities(texts, everything)
    )


def test_one_rare_character_among_many_texts_harms_nothing() -> None:
    texts = np.array([[f"word{i % 9} again", "", ""] for i in range(1200)], dtype=object)
    texts[5, 0] = "日 again"
    assert text_features(texts).fit_transform(texts).shape[0] == 1200
