"""Each leak is planted and must be found, by the check that is made for it; a project without leaks must pass."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_heads import frame_of, make_units

from cache import StoreWriter, write_sums
from configs.command_line import command
from configs.schema import Profile
from extract.corpora.manifest import Manifest, make_manifest, write_manifest
from fusion.audit import main
from fusion.leaks.chance import DRAWS, against_chance, clustered_p, relabelling_p
from fusion.leaks.outputs import Check, worst
from fusion.leaks.overlap import overlap_checks
from fusion.leaks.permutation import permutation_checks, with_permuted_labels
from fusion.leaks.probes import identity_check, metadata_check, privileged_checks
from fusion.leaks.scores import scores_check
from fusion.leaks.units import Audited, normalised
from fusion.strategies.catalogue import fit_all
from fusion.strategies.nested import Fusion, fuse
from fusion.tables.predictions import Predictions
from heads.data.folds import FoldTask, Record
from heads.fitting.kinds import KINDS, Kind

CLASSES = ("angry", "happy", "sad")
N = 120  # conversations of two clips, three of each speaker; every fourth speaker is a test speaker
PROFILE: dict[str, Any] = {
    "name": "tiny",
    "folds": 3,
    "dataset": {"adapter": "avamerg", "root": ".", "group": "both"},
    "encoders": {"audio": {"family": "wav2vec2", "model": "./none"}},
    "heads": {
        "words": {"kind": "bag_of_words", "inputs": ["text"], "c": 10.0},
        "sound": {"kind": "linear", "inputs": ["audio"], "c": 0.1},
    },
    "fusion": {"strategies": ["mean", "weighted", "logistic"]},
}
Row = dict[str, Any]


def dataset(change: Callable[[int, str, Row], Row] = lambda c, label, row: {}, conversations: int = N) -> Manifest:
    """Units whose words tell the class; ``change`` of (conversation, label, row) gives columns of the labelled clip."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for c in range(conversations):
        label = CLASSES[rng.integers(3)]
        words = " ".join(f"word{i}" for i in rng.integers(1000, size=14))
        shared = {
            "conversation_id": f"c{c:03}",
            "split": "test" if c // 3 % 4 == 3 else "train",
            "group": f"s{c // 3}",
            "speaker": f"s{c // 3}",
        }
        rows.append({"clip_id": f"c{c:03}u0", "index": 0, "role": "listener", "text": "Well, what is it?"} | shared)
        told = {"clip_id": f"c{c:03}u1", "index": 1, "role": "speaker", "text": f"So {label}: {words}.", "label": label}
        told |= {"audio": f"{c:03}.wav"} | shared
        rows.append(told | change(c, label, told))
    return make_manifest(pl.DataFrame(rows, infer_schema_length=None), Path(), CLASSES, {}, "synthetic")


def audited(manifest: Manifest, **settings: Any) -> Audited:
    return Audited.of(Profile.model_validate(PROFILE | settings), manifest)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def write_store(manifest: Manifest, content: Callable[[str], str] = lambda clip: f"hash of {clip}") -> None:
    rng = np.random.default_rng(1)
    with StoreWriter(Path("runs/tiny/stores/audio"), {"encoder": "synthetic"}, dim=6, dtype="float32") as writer:
        for clip, label in manifest.clips.drop_nulls("label").select("clip_id", "label").iter_rows():
            values = rng.normal(size=(3, 6)).astype(np.float32)
            values[:, CLASSES.index(label)] += 1
            writer.append(clip, values, content(clip))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, manifest: Manifest, *arguments: str, **settings: Any) -> tuple[int, Any]:
    """The script's exit code, and audit.json."""
    Path("profile.yaml").write_text(yaml.safe_dump(PROFILE | settings, sort_keys=False))
    write_manifest(manifest, Path("runs/tiny/manifest.parquet"))
    if not Path("runs/tiny/stores/audio").exists():
        write_store(manifest)
    monkeypatch.setattr(sys, "argv", ["audit.py", "--config", "profile.yaml", *arguments])
    code = 0
    try:
        command(main)
    except SystemExit as end:
        code = int(end.code or 0)
    path = Path("runs/tiny/audit/audit.json")
    return code, json.loads(path.read_text()) if path.is_file() else None


# --- the whole ---


def test_a_clean_project_passes_and_its_heads_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = Path("runs/tiny/heads/words/predictions.parquet")
    trained.parent.mkdir(parents=True)
    frame_of(make_units(90, test_share=0.3)).write_parquet(trained)
    as_it_was = trained.read_bytes()
    code, audit = run(monkeypatch, dataset())
    assert code == 0
    verdicts = {check["name"]: check["verdict"] for check in audit["checks"]}
    assert set(verdicts.values()) == {"pass", "skipped"}
    nothing_there = {"probe.metadata", "probe.privileged", "privileged.heads", "privileged.text"}
    undecided = {"permutation.true_labels"}  # three classes, one permutation
    assert {name for name, verdict in verdicts.items() if verdict == "skipped"} == nothing_there | undecided
    assert audit["verdict"] == "pass"
    assert audit["permuted_heads"] == ["words", "sound"]
    assert audit["units"] == {"train": 90, "val": 0, "test": 30}
    assert trained.read_bytes() == as_it_was
    assert [path.name for path in Path("runs/tiny/heads").rglob("*")] == ["words", "predictions.parquet"]
    printed = capsys.readouterr().out
    assert "permutation.test" in printed
    assert Path("runs/tiny/audit/audit.txt").read_text().startswith("Leak audit of profile tiny: pass")

    before = Path("runs/tiny/audit/audit.json").read_bytes()
    assert run(monkeypatch, dataset())[0] == 0
    assert Path("runs/tiny/audit/audit.json").read_bytes() == before
    run(monkeypatch, dataset(), "--no-permutation")  # what was found is kept
    assert Path("runs/tiny/audit/audit.json").read_bytes() == before
    _, other = run(monkeypatch, dataset(), "--no-permutation", seed=PROFILE.get("seed", 0) + 1)
    assert all("with other data or settings" in c["text"] for c in other["checks"] if c["name"].startswith("permut"))


def test_a_leak_ends_with_exit_code_4_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leak = dataset(lambda c, label, row: {"meta_mood": f"so {label}"})
    code, audit = run(monkeypatch, leak, "--no-permutation")
    assert code == 4
    error = capsys.readouterr().err
    assert error == "error: runs/tiny/audit/audit.txt: leaks found: probe.metadata\n"
    assert audit["verdict"] == "fail"
    skipped = [check for check in audit["checks"] if check["name"].startswith("permutation")]
    assert {check["verdict"] for check in skipped} == {"skipped"}
    assert all("python fusion/audit.py does it" in check["text"] for check in skipped)
    assert run(monkeypatch, leak, "--no-permutation", "--exit-zero")[0] == 0


def test_heads_that_fine_tune_are_left_out_unless_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = {"inputs": ["audio"], "fine_tune": {"audio": {}}}
    changes = {
        "encoders": {"audio": PROFILE["encoders"]["audio"] | {"boundary": 2}},
        "heads": PROFILE["heads"] | {"tuned": tuned},
    }
    code, audit = run(monkeypatch, dataset(), **changes)
    assert code == 0
    assert audit["permuted_heads"] == ["words", "sound"]
    said = next(check["text"] for check in audit["checks"] if check["name"] == "permutation.oof")
    assert "Not trained on permuted labels: tuned, which fine-tune encoders" in said

    alone = {"encoders": changes["encoders"], "heads": {"tuned": tuned}}
    code, audit = run(monkeypatch, dataset(), **alone)
    said = next(check for check in audit["checks"] if check["name"] == "permutation.oof")
    assert (code, said["verdict"]) == (0, "skipped")


def test_an_unknown_head_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, dataset(), "--heads", "smell")[0] == 2
    assert "--heads smell: no such head in the profile; it has: words, sound" in capsys.readouterr().err


def test_the_gravest_verdict_counts() -> None:
    def checks(*verdicts: Any) -> list[Check]:
        return [Check("a", verdict, None, None, "") for verdict in verdicts]

    assert worst(checks("pass", "warn", "fail")) == "fail"
    assert worst(checks("pass", "skipped")) == "pass"
    assert worst(checks("skipped", "warn")) == "warn"


# --- scores ---


def write_heads(**sharpness: float) -> None:
    """Predictions of heads that say the label out of fold with a logit of so much more, and of 1.5 on val and test."""
    units = make_units(600, (1.5, 1.5), test_share=0.4)
    splits = np.where((units.splits == "test") & (np.arange(600) < 480), "val", units.splits)
    for h, (name, more) in enumerate(sharpness.items()):
        logits = units.logits.copy()
        oof = units.splits == "oof"
        logits[oof, h, units.labels[oof]] += more
        folder = Path("runs/tiny/heads") / name
        folder.mkdir(parents=True)
        frame_of(replace(units, logits=logits, splits=splits), h).drop("^logit_.*$").write_parquet(
            folder / "predictions.parquet"
        )


def test_features_that_met_the_training_labels_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    write_heads(words=0.0, sound=6.0)
    code, audit = run(monkeypatch, dataset(), "--no-permutation")
    check = by_name([Check(**check) for check in audit["checks"]])["scores.oof"]
    assert (code, check.verdict) == (4, "fail")
    assert check.text.startswith("Head sound scores accuracy ")
    assert "more than chance explains" in check.text
    assert check.number is not None
    assert check.number > 0.1
    assert any(example.startswith("head sound, oof and val: ") for example in check.examples)
    assert not any(example.startswith("head words") for example in check.examples)
    assert {f"{name} {split}" for name in ("head:words", "head:sound", "weighted") for split in ("val", "test")} == set(
        check.details
    )


def test_scores_that_agree_pass_and_those_of_nobody_are_skipped() -> None:
    project = audited(dataset())
    assert scores_check(project).verdict == "skipped"
    write_heads(words=0.0)
    check = scores_check(project)
    assert check.verdict == "pass"
    assert check.text.startswith("Out-of-fold scores of words are not higher than those on val and test")


# --- overlap ---

SENTENCE = "I never thought that my brother would forget the birthday of our mother again this year after all we said"
EDITED = "I never thought that my brother would forget the birthday of our mother again this year, after what we said!"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (SENTENCE, f"  {SENTENCE.upper()}!! "),
        ("Ｉ ｗａｓ so very glad about it", "i was so; very glad\nabout it"),
    ],
)
def test_copied_texts_are_found_in_splits_and_in_folds(first: str, second: str) -> None:
    """Conversations 0 .. 8 are of three training speakers, 9 .. 11 of a test speaker."""
    copies = dataset(lambda c, label, row: {"text": first if c % 2 else second} if c < 12 else {})
    checks = by_name(overlap_checks(audited(copies)))
    splits, folds = checks["overlap.text.splits"], checks["overlap.text.folds"]
    assert (splits.verdict, folds.verdict) == ("fail", "fail")
    assert splits.number == pytest.approx(3 / 30)
    assert "(test) and " in splits.examples[0]
    assert "(train): " in splits.examples[0]
    others = {name for name, found in checks.items() if found.verdict == "fail"}
    assert others == {"overlap.text.splits", "overlap.text.folds"}


def test_edited_copies_of_texts_are_found() -> None:
    edited = dataset(lambda c, label, row: {"text": {0: SENTENCE, 9: EDITED, 10: EDITED}.get(c, row["text"])})
    checks = by_name(overlap_checks(audited(edited)))
    assert {name for name, found in checks.items() if found.verdict == "fail"} == {"overlap.near_text.splits"}
    assert checks["overlap.near_text.splits"].number == pytest.approx(2 / 30)


def test_what_everybody_says_is_no_copy() -> None:
    said = dataset(lambda c, label, row: {"text": "Thank you so much, dear!"})
    assert by_name(overlap_checks(audited(said)))["overlap.text.splits"].verdict == "pass"
    heard = dataset()
    clips = heard.clips.with_columns(
        text=pl.when(pl.col("role") == "listener").then(pl.lit(SENTENCE)).otherwise("text")
    )
    assert by_name(overlap_checks(audited(replace(heard, clips=clips))))["overlap.text.splits"].verdict == "pass"


def test_a_script_that_all_read_under_every_label_is_no_leak() -> None:
    script = ["The kids are talking by the door", "The dogs are sitting by the door"]
    found = by_name(overlap_checks(audited(dataset(lambda c, label, row: {"text": script[c % 2]}))))
    check = found["overlap.text.splits"]
    assert (check.verdict, check.number) == ("warn", 1.0)
    assert "a script" in check.text
    told = dataset(lambda c, label, row: {"text": f"The {label} kids are talking by the door"})
    assert by_name(overlap_checks(audited(told)))["overlap.text.splits"].verdict == "fail"


def test_one_copy_among_many_is_a_warning() -> None:
    few = dataset(lambda c, label, row: {"text": SENTENCE} if c in (0, 9) else {}, conversations=480)
    check = by_name(overlap_checks(audited(few)))["overlap.text.splits"]
    assert check.verdict == "warn"
    assert check.number == pytest.approx(1 / 120)


def test_copied_media_are_found_by_the_stores_hashes() -> None:
    manifest = dataset()
    write_store(manifest, lambda clip: "the same" if clip in ("c000u1", "c003u1", "c009u1") else clip)
    check = by_name(overlap_checks(audited(manifest)))["overlap.media.splits"]
    assert check.verdict == "fail"
    assert "c009u1 (test) and c000u1 (train): 000.wav, 003.wav, 009.wav" in check.examples


def test_copied_media_are_found_without_a_store() -> None:
    manifest = dataset()
    for c in range(N):
        Path(f"{c:03}.wav").write_bytes(b"the same" if c in (0, 3, 9) else f"clip {c}".encode())
    Path("004.wav").unlink()
    check = by_name(overlap_checks(audited(manifest)))["overlap.media.splits"]
    assert (check.verdict, check.number) == ("fail", pytest.approx(1 / 30))
    assert "1 media files cannot be read and were not compared" in check.text


def test_speakers_on_both_sides_fail_where_groups_promise_otherwise_and_warn_elsewhere() -> None:
    """Conversation 9 of the test split, of a group of its own, is spoken by a training speaker."""
    shared = dataset(lambda c, label, row: {"speaker": "s0"} if c == 9 else {})
    found = by_name(overlap_checks(audited(shared)))["overlap.speaker.splits"]
    assert (found.verdict, found.number) == ("fail", pytest.approx(1 / 30))
    assert found.examples == ["s0"]
    by_conversation = {"dataset": {"adapter": "avamerg", "root": ".", "group": "conversation"}}
    assert by_name(overlap_checks(audited(shared, **by_conversation)))["overlap.speaker.splits"].verdict == "warn"
    unknown = dataset(lambda c, label, row: {"speaker": None})
    assert by_name(overlap_checks(audited(unknown)))["overlap.speaker.splits"].verdict == "skipped"


def test_conversations_and_groups_on_both_sides_are_found() -> None:
    """A manifest of foreign make, whose writer did not check it."""
    clips = dataset().clips.with_columns(
        conversation_id=pl.when(pl.col("conversation_id") == "c009").then(pl.lit("c000")).otherwise("conversation_id")
    )
    torn = replace(dataset(), clips=clips.sort("clip_id").with_columns(index=pl.int_range(pl.len(), dtype=pl.Int32)))
    assert by_name(overlap_checks(audited(torn)))["overlap.conversation.splits"].verdict == "fail"
    clips = dataset().clips.with_columns(group=pl.when(pl.col("group") == "s3").then(pl.lit("s0")).otherwise("group"))
    assert by_name(overlap_checks(audited(replace(dataset(), clips=clips))))["overlap.group.splits"].verdict == "fail"
    known = replace(dataset(), clips=clips, counts={"groups_across_splits": 1})
    assert by_name(overlap_checks(audited(known)))["overlap.group.splits"].verdict == "warn"


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalised(text)
    assert normalised(f"  {text.upper().lower()}...") == normalised(text.upper().lower())
    assert "  " not in once
    assert once == once.strip()


# --- probes ---


def test_metadata_that_is_the_label_fails_and_names_the_field() -> None:
    told = dataset(lambda c, label, row: {"meta_age": ["old", "young"][c % 2], "meta_mood": f"code {label[0]}"})
    check = metadata_check(audited(told, heads={"trees": {"kind": "xgboost", "metadata": ["mood"]}}))
    assert check.verdict == "fail"
    assert check.number == 1.0
    assert "'mood'" in check.text
    assert "Heads that read metadata: trees" in check.text


def test_metadata_that_tells_the_label_only_together_fails() -> None:
    def halves(c: int, label: str, row: Row) -> Row:
        first = (c * 7) % 3
        return {"meta_a": str(first), "meta_b": str((CLASSES.index(label) + first) % 3)}

    check = metadata_check(audited(dataset(halves)))
    assert check.verdict == "fail"
    assert "'all together'" in check.text


def test_metadata_that_says_something_warns_and_noise_passes() -> None:
    rng = np.random.default_rng(5)
    some = dataset(lambda c, label, row: {"meta_topic": label if rng.random() < 0.4 else str(rng.integers(3))})
    check = metadata_check(audited(some))
    assert check.verdict == "warn"
    noise = dataset(lambda c, label, row: {"meta_topic": str(rng.integers(3)), "meta_id": label})
    check = metadata_check(audited(noise))
    assert check.verdict == "pass"
    assert check.number is not None
    assert check.number < 0.5


def test_identity_that_tells_the_label_fails_only_where_people_are_on_both_sides() -> None:
    def moody(c: int, label: str, row: Row) -> Row:
        return {"label": CLASSES[c // 3 % 3]}  # each speaker has one mood

    apart = identity_check(audited(dataset(moody)))
    assert apart.verdict == "pass"
    assert "recognising who it is would pay there" in apart.text
    mixed = dataset(lambda c, label, row: moody(c, label, row) | {"group": f"c{c}", "speaker": f"s{c // 3 % 3}"})
    check = identity_check(audited(mixed))
    assert check.verdict == "fail"
    assert "'speaker'" in check.text


def test_identity_that_nobody_shares_is_skipped() -> None:
    alone = dataset(lambda c, label, row: {"group": f"c{c}", "speaker": None})
    assert identity_check(audited(alone)).verdict == "skipped"


@pytest.mark.parametrize(("allowed", "verdict"), [(False, "fail"), (True, "warn")])
def test_heads_that_read_privileged_fields_are_found(allowed: bool, verdict: str) -> None:
    manifest = dataset(lambda c, label, row: {"privileged_cause": f"Something that makes one {label}, number {c}."})
    trees = {"kind": "xgboost", "inputs": ["audio"], "metadata": ["cause"], "privileged": allowed}
    checks = by_name(privileged_checks(audited(manifest, heads={"trees": trees})))
    assert checks["privileged.heads"].verdict == verdict
    assert checks["privileged.heads"].examples == ["head trees (profile) reads cause"]
    assert checks["probe.privileged"].number == 1.0
    clean = by_name(privileged_checks(audited(manifest)))
    assert clean["privileged.heads"].verdict == "pass"


def test_a_trained_head_that_hides_what_it_reads_is_found() -> None:
    manifest = dataset(lambda c, label, row: {"privileged_cause": f"for being {label}"})
    folder = Path("runs/tiny/heads/sound")
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "head.json").write_text('{"settings": {"metadata": ["cause"], "privileged": true}}')
    (folder / "metrics.json").write_text('{"privileged": false}')
    write_sums(folder)
    check = by_name(privileged_checks(audited(manifest)))["privileged.heads"]
    assert check.verdict == "fail"
    assert check.examples == ["head sound (trained) reads cause"]


def test_privileged_texts_that_units_see_are_found() -> None:
    def told(c: int, label: str, row: Row) -> Row:
        return {"privileged_cause": "Her dog ran away", "text": row["text"] + " But: her DOG ran away."}

    check = by_name(privileged_checks(audited(dataset(told))))["privileged.text"]
    assert (check.verdict, check.number) == ("fail", 1.0)


# --- permutation ---


@dataclass(frozen=True)
class Oracle:
    """Answers with labels that it was given."""

    answers: np.ndarray

    def log_probabilities(self, data: Any, indices: np.ndarray) -> np.ndarray:
        return np.log(np.where(self.answers[indices, None] == np.arange(3), 0.8, 0.1))

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        raise AssertionError("nothing of an audit is saved")


def plant(monkeypatch: pytest.MonkeyPatch, answers: Callable[[FoldTask], np.ndarray]) -> None:
    """Linear heads become oracles."""

    def fit(task: FoldTask) -> tuple[Oracle, list[Record]]:
        return Oracle(answers(task)), []

    monkeypatch.setitem(KINDS, "linear", Kind(lambda *read: None, fit, KINDS["linear"].load))


def permuted(heads: list[str], runs: int = 1, **settings: Any) -> dict[str, Check]:
    manifest = dataset()
    write_manifest(manifest, Path("runs/tiny/manifest.parquet"))
    write_store(manifest)
    return by_name(permutation_checks(audited(manifest, **settings), heads, "", runs))


def test_a_head_that_reads_the_labels_it_predicts_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda task: task.labels)
    checks = permuted(["words", "sound"])
    assert checks["permutation.oof"].verdict == "fail"
    assert checks["permutation.test"].verdict == "fail"
    assert checks["permutation.oof"].number == 1.0
    assert checks["permutation.fusion"].verdict == "pass"


def test_a_fusion_that_is_judged_on_what_it_was_fitted_to_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_folds(units: Predictions, strategies: Any, seed: int = 0) -> tuple[Any, None, Any]:
        oof = units.where(units.splits == "oof")
        fitted = fit_all(strategies, oof.outputs, oof.labels, oof.groups, seed)
        return {name: strategy.predict_logits(units.outputs) for name, strategy in fitted.items()}, None, fitted

    monkeypatch.setattr("fusion.strategies.nested.cross_fit", without_folds)
    checks = permuted(["words", "sound"], fusion={"strategies": ["xgboost"]})
    verdicts = {name: check.verdict for name, check in checks.items()}
    assert verdicts["permutation.fusion"] == "fail"
    assert verdicts["permutation.oof"] == verdicts["permutation.test"] == "pass"


def test_training_on_the_fold_that_is_predicted_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heads.fitting.cross_validation.training_part", lambda folds, _: np.flatnonzero(folds >= 0))
    checks = permuted(["words"])
    assert checks["permutation.oof"].verdict == "fail"
    assert checks["permutation.test"].verdict == "pass"


def test_training_that_the_permuted_labels_do_not_reach_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = np.array([CLASSES.index(unit.label) for unit in dataset().units()])
    plant(monkeypatch, lambda task: true)
    asked = []

    def noted(*given: Any, **how: Any) -> Fusion:
        asked.append((how["metric"], how["choice"]))
        return fuse(*given, **how)

    monkeypatch.setattr("fusion.leaks.permutation.fuse", noted)
    assert permuted(["sound"])["permutation.true_labels"].verdict == "skipped"  # as likely as one in six
    checks = permuted(["sound"], runs=6, fusion={"strategies": ["mean"], "metric": "accuracy", "choice": "one_se"})
    assert set(asked) == {("macro_f1", "likeliest"), ("accuracy", "one_se")}  # as the profile has it
    assert checks["permutation.oof"].verdict == "pass"
    assert checks["permutation.true_labels"].verdict == "fail"
    assert checks["permutation.true_labels"].number == pytest.approx(1)


def test_permuting_keeps_each_splits_counts_and_takes_finer_labels_along() -> None:
    manifest = dataset(lambda c, label, row: {"meta_shade": f"{label}{c % 2}", "meta_age": str(c)})
    before = audited(manifest, heads={"net": {"inputs": ["audio"], "auxiliary": "shade"}})
    after = with_permuted_labels(before, ["net"], np.random.default_rng(0))
    assert [unit.unit_id for unit in after.units] == [unit.unit_id for unit in before.units]
    for split in ("train", "test"):
        labels = [np.bincount(one.labels[one.splits == split]).tolist() for one in (before, after)]
        assert labels[0] == labels[1]
    assert (after.labels != before.labels).mean() > 0.5
    assert [str(shade)[:-1] for shade in after.fields("meta_")["shade"]] == [unit.label for unit in after.units]
    assert after.fields("meta_")["age"] == before.fields("meta_")["age"]
    assert after.manifest.clips.drop("label", "meta_shade").equals(manifest.clips.drop("label", "meta_shade"))


# --- chance ---


def test_p_values_of_nothing_are_uniform() -> None:
    rng = np.random.default_rng(0)
    p, by_group, relabelled = [], [], []
    for seed in range(40):
        labels, guesses = rng.integers(4, size=60), rng.integers(4, size=(3, 60))
        blocks = np.arange(60) % 3
        chance = against_chance(labels, dict(zip("abc", guesses, strict=True)), 4, blocks, seed, False)
        p.append(min(chance.p.values()))
        # speakers with a mood and a voice each: units are worth nothing beyond their speaker
        speakers = np.repeat(np.arange(20), 3)
        moods, voices = rng.integers(4, size=20)[speakers], rng.integers(4, size=20)[speakers]
        by_group.append(clustered_p(moods, voices, 4, np.zeros(60, dtype=int), speakers, seed, False))
        relabelled.append(relabelling_p(rng.permutation(np.eye(4) * 50)[None], seed)[0])
    for values in (p, by_group, relabelled):
        assert np.mean(np.array(values) <= 0.1) <= 0.2
    for values in (p, by_group):  # the third can only be 1/24, 7/24, 15/24 or 1
        assert 0.4 <= np.mean(np.array(values) <= 0.6) <= 0.8


def test_predictions_of_the_labels_are_no_chance_and_one_answer_for_all_is() -> None:
    labels = np.arange(90) % 3
    chance = against_chance(labels, {"all": labels, "one": np.zeros(90, dtype=int)}, 3, labels * 0, 0, False)
    assert chance.best == "all"
    assert chance.p == {"all": 1 / (1 + DRAWS), "one": 1.0}
    assert chance.scores["one"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert chance.expected["all"]["balanced_accuracy"] == pytest.approx(1 / 3, abs=0.01)
    assert chance.limit["one"] == pytest.approx(1 / 3)
    assert 0.4 < chance.limit["all"] < 0.6
    assert chance.gain("all") == 1.0
    assert clustered_p(labels, labels, 3, labels * 0, np.arange(90), 0, False) == 1 / (1 + DRAWS)


def test_what_folds_know_of_their_class_counts_is_no_leak() -> None:
    """The answer is the fold's own commonest class: better than a third overall, worth nothing within a fold."""
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.arange(3), 100)
    labels = np.where(rng.random(300) < 0.6, blocks, rng.integers(3, size=300))
    chance = against_chance(labels, {"fold": blocks}, 3, blocks, 0, True)
    assert chance.scores["fold"]["balanced_accuracy"] > 0.6
    assert chance.p["fold"] == 1.0
