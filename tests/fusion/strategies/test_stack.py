import json
import os
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from shells import REPOSITORY
from synthetic_heads import CLASSES, frame_of, make_units

import fusion.stack
from cache import Store, StoreError, StoreWriter, attach, verify_whole, write_sealed_parquet, write_sums
from configs import UserError
from configs.command_line import command
from fusion.report.context import TOLD
from fusion.stack import main, repeated
from fusion.strategies.catalogue import load
from fusion.tables.predictions import read
from heads.metrics.scores import evaluate

pytestmark = pytest.mark.xdist_group("stack")  # what is made for all of them is made once
SCRIPT = REPOSITORY / "fusion" / "stack.py"
CHARTS = ("strategies", "confusion_matrix", "per_class", "reliability", "where_heads_win")
HOSTILE = {"happy": "<script>alert(1)</script>", "sad": "a\"b' onload=x", "angry": "$x_{}${{7*7}}"}
PROFILE = """
name: mine
dataset: {adapter: table, root: ., table: t.csv, columns: {clip_id: id, label: label}, splits: {test: 0.2}}
encoders: {text: {family: transformer, model: ./model}}
heads: {h0: {inputs: [text]}, h1: {inputs: [text], privileged: true}}
fusion: {strategies: [mean, weighted], bootstrap: 100}
"""


def stack(folder: Path, *arguments: object, ok: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a profile, its two heads' predictions, and what ``stack.py`` made of them."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "mine.yaml").write_text(PROFILE)
    units = make_units(300, test_share=0.3)
    for h in range(2):
        path = folder / f"runs/mine/heads/h{h}/predictions.parquet"
        path.parent.mkdir(parents=True)
        frame_of(units, h).write_parquet(path)
    store = folder / "runs/mine/stores/text"
    with StoreWriter(store, {"model": "./model"}, dim=4):
        pass
    errors = {"clip_id": ["c1", "c2"], "stage": ["decode", "decode"], "reason": ["<b>not a text</b>"] * 2}
    attach(store, "errors.parquet", pl.DataFrame(errors).write_parquet)
    damaged = {"clip_id": ["c3", "c4"], "share": [0.01, 0.04], "reason": ["<i>gaps</i>"] * 2}
    attach(store, "damaged.parquet", pl.DataFrame(damaged).write_parquet)
    told = {"clip_id": ["c1", "c2", "c3", "c4"], "conversation_id": ["d"] * 4, "index": [0, 1, 2, 3]}
    told |= {name: [None] * 4 for name in TOLD}
    about = {"root": ".", "classes": [], "counts": {"dropped": {"label tired": 3}}}
    clips = pl.DataFrame(told, schema_overrides=dict.fromkeys(TOLD, pl.String))
    write_sealed_parquet(folder / "runs/mine/manifest.parquet", clips, {"emocache": json.dumps(about)})
    (folder / "stdout.txt").write_text(stack(folder, "--config", "mine.yaml", "fusion.bootstrap=200").stdout)
    return folder


def test_everything_is_written(run: Path) -> None:
    out = run / "runs/mine/fusion"
    names = {
        "predictions.parquet",
        "metrics.json",
        "headline.json",
        "confusion.csv",
        "summary.txt",
        "report.html",
        "model",
        "SHA256SUMS",
    }
    assert {path.name for path in out.iterdir()} == names | {f"{name}.png" for name in CHARTS}
    for picture in out.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_printed_summary_ends_with_the_comparison_and_the_report(run: Path) -> None:
    lines = (run / "stdout.txt").read_text().splitlines()
    assert lines[-1] == "report: runs/mine/fusion/report.html"
    assert lines[-3].startswith("fused on test: ")
    assert "over head h0" in lines[-3]
    assert "over head h1" in lines[-2]
    for name in ("majority", "head h0", "head h1", "mean", "weighted"):
        assert sum(re.match(rf"[ *] {name} +0\.", line) is not None for line in lines) == 2  # test and oof


def test_the_metrics_are_those_of_the_predictions(run: Path) -> None:
    out = run / "runs/mine/fusion"
    metrics = json.loads((out / "metrics.json").read_text())
    fused = read({"fused": out / "predictions.parquet"})
    test = fused.where(fused.splits == "test")
    score = evaluate(test.label_names, np.exp(test.logits[:, 0]), CLASSES, test.groups.tolist(), bootstrap=200)
    headline = metrics["headline"]
    assert headline["split"] == "test"
    assert headline["macro_f1"] == pytest.approx(score["macro_f1"]["value"])
    assert headline["macro_f1_low"] == pytest.approx(score["macro_f1"]["low"])
    chosen = headline["strategy"]
    assert metrics["strategies"][chosen]["test"]["accuracy"] == headline["accuracy"]
    assert set(metrics["heads"]) == {"h0", "h1"}
    assert metrics["majority"]["test"]["accuracy"] < headline["accuracy"]
    confusion = pl.read_csv(out / "confusion.csv")
    assert confusion.columns == ["actual", "predicted"]
    assert (confusion["actual"] == confusion["predicted"]).mean() == pytest.approx(headline["accuracy"])


def test_the_saved_model_makes_the_saved_predictions(run: Path) -> None:
    out = run / "runs/mine/fusion"
    heads = read({h: run / f"runs/mine/heads/{h}/predictions.parquet" for h in ("h0", "h1")})
    fused = read({"fused": out / "predictions.parquet"})
    axes = {"heads": ["h0", "h1"], "classes": list(CLASSES), "baselines": []}
    assert json.loads((out / "model/inputs.json").read_text()) == axes
    test = heads.splits == "test"
    again = load(out / "model").predict_logits(heads.where(test).outputs)
    np.testing.assert_allclose(fused.logits[test, 0], again, atol=1e-9)


def test_the_report_tells_where_the_numbers_come_from(run: Path) -> None:
    html = (run / "runs/mine/fusion/report.html").read_text()
    assert "privileged" in re.search("<title>(.*)</title>", html)[1]  # type: ignore[index]
    assert Store(run / "runs/mine/stores/text").fingerprint in html
    assert "&lt;b&gt;not a text&lt;/b&gt;" in html
    assert html.index("c4</td><td>4.00%") < html.index("c3</td><td>1.00%")
    assert "&lt;i&gt;gaps&lt;/i&gt;" in html
    assert "dropped › label tired" in html
    assert "python heads/train.py --config mine.yaml --head h1" in html
    assert "python fusion/stack.py --config mine.yaml fusion.bootstrap=200" in html


def test_same_seed_same_files(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    main("mine.yaml", out=Path("again"), overrides=["fusion.bootstrap=200"])
    for name in ("metrics.json", "predictions.parquet", "confusion.csv", "summary.txt", "strategies.png"):
        assert (run / "again" / name).read_bytes() == (run / "runs/mine/fusion" / name).read_bytes()


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_foreign_csvs_with_hostile_class_names_are_fused_and_escaped(tmp_path: Path) -> None:
    units = make_units(120)
    for h in range(2):
        frame = frame_of(units, h).drop("split", "group", "^logit_.*$")
        frame = frame.with_columns(pl.col("label").replace(HOSTILE))
        frame.rename({f"p_{old}": f"p_{new}" for old, new in HOSTILE.items()}).write_csv(tmp_path / f"m{h}.csv")
    done = stack(tmp_path, "--predictions", "m0.csv", "m1.csv", "--out", "out", "--strategy", "mean")
    assert "mean: asked for" in done.stdout
    html = (tmp_path / "out/report.html").read_text()
    tags = _Tags()
    tags.feed(html)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in tags.found)
    assert not [attrs for _, attrs in tags.found if {"src", "onload"} & set(attrs)]
    assert all((attrs["href"] or "").startswith("#") for _, attrs in tags.found if "href" in attrs)
    assert "http://" not in html
    assert "https://" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_a_list_of_files_ends_at_an_option_or_a_setting() -> None:
    given = ["--predictions", "a", "b", "--out", "o", "--predictions", "c", "d", "seed=1"]
    expected = ["--predictions", "a", "--predictions", "b", "--out", "o", "--predictions", "c", "--predictions", "d"]
    assert repeated(given) == [*expected, "seed=1"]


def test_heads_are_named_by_folder_where_files_share_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = make_units(60)
    for h, name in enumerate(("text", "audio")):
        (tmp_path / name).mkdir()
        frame_of(units, h).write_parquet(tmp_path / name / "predictions.parquet")
    monkeypatch.chdir(tmp_path)
    main(predictions=[Path(f"{name}/predictions.parquet") for name in ("text", "audio")], out=Path("out"))
    assert list(json.loads((tmp_path / "out/metrics.json").read_text())["heads"]) == ["text", "audio"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"config": "mine.yaml", "overrides": ["name=other"]},
            "make it with: python heads/train.py --head h0",
        ),
        ({"config": "mine.yaml", "strategy": "no_such"}, "--strategy no_such: one of mean, weighted, class_weighted"),
        (
            {"config": "mine.yaml", "overrides": ["fusion.strategies=[greedy]"]},
            "fusion.strategies.0 = 'greedy': Input",
        ),
        (
            {"config": "mine.yaml", "overrides": ["fusion.metric=f1"]},
            "fusion.metric = 'f1': Input should",
        ),
        ({"predictions": [Path("a.csv")]}, "name a folder for the results with --out"),
        ({"predictions": [Path("a.csv")], "out": Path("o"), "overrides": ["seed=1"]}, "seed=1: changes a profile"),
        ({"predictions": [Path("a.csv")] * 2, "out": Path("o")}, "the same file is named twice"),
        ({"config": "mine.yaml", "group_from": "(.)"}, "--group-from: goes with --predictions"),
    ],
)
def test_mistakes_are_told_in_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(run)
    with pytest.raises(UserError) as caught:
        main(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_on_the_command_line_ends_with_code_2(run: Path) -> None:
    done = stack(run, "--predictions", "a.csv", "--out", "o", ok=False)
    assert done.returncode == 2
    assert done.stderr == "error: a.csv: no such prediction table\n"


def test_a_published_heads_baseline_is_a_candidate_and_its_row_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline of h0 knows more than h0 does; that of h1, the same one, is listed once; h2 is somebody else's."""
    units = make_units(300, (0.6, 0.5, 0.1), test_share=0.3)
    simple = frame_of(make_units(300, (2.5,), test_share=0.3))
    for h in range(3):
        folder = tmp_path / f"h{h}"
        (folder / "baseline").mkdir(parents=True)
        (folder / "model").mkdir()
        frame_of(units, h).write_parquet(folder / "predictions.parquet")
        simple.write_parquet(folder / "baseline/predictions.parquet")
        about = {"settings": {"kind": ("sequence", "linear", "sequence")[h]}}
        (folder / "model/head.json").write_text(json.dumps(about))
        worse = {"macro_f1": {"value": -0.2, "low": -0.3, "high": -0.1}}
        (folder / "metrics.json").write_text(json.dumps({"oof": {"over_baseline": worse}}))
        if h < 2:
            write_sums(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stack.py"])
    tables = [Path(f"h{h}/predictions.parquet") for h in range(3)]
    monkeypatch.setattr(fusion.stack, "write_charts", lambda *_: None)
    Path("mine.yaml").write_text(PROFILE)
    main("mine.yaml", predictions=tables, out=Path("out"))
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert metrics["headline"]["strategy"] == "baseline:h0"
    assert set(metrics["baselines"]) == {"h0", "h1"}
    assert metrics["baselines"]["h0"] == metrics["baselines"]["h1"]
    assert metrics["best_baseline"] == {"head": "h0", **metrics["baselines"]["h0"]["test"]}
    assert json.loads(Path("out/headline.json").read_text())["best_baseline"]["macro_f1"] > 0.8
    summary, html = Path("out/summary.txt").read_text(), Path("out/report.html").read_text()
    assert len(re.findall(r"^\* baseline h0 +0\.", summary, re.MULTILINE)) == 2  # test and oof
    for said in (
        "Nothing was clearly better than the plain baseline of head h0",
        "Head h0 is out of fold WORSE than the plain baseline on its inputs, macro-F1 -0.200 [-0.300, -0.100]: "
        "try heads.h0.kind=linear.",
        "Head h1 is out of fold WORSE than the plain baseline on its inputs, macro-F1 -0.200 [-0.300, -0.100].",
        "that of h0 is that of h1, too",
    ):
        assert said in summary
        assert said in html
    assert "plain baseline of head h0" in html
    assert json.loads(Path("out/model/inputs.json").read_text())["baselines"] == ["h0"]
    heads = {path.parent.name: path for path in tables}
    again = read(heads, {"h0": Path("h0/baseline/predictions.parquet")})
    test = again.splits == "test"
    fused = read({"fused": Path("out/predictions.parquet")})
    np.testing.assert_allclose(
        load(Path("out/model")).predict_logits(again.where(test).outputs), fused.logits[test, 0], atol=1e-9
    )


def test_groups_are_taken_from_ids_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = frame_of(make_units(120)).drop("group", "fold")
    names = [f"03-{i % 7:02}-{i // 12:02}" for i in range(120)]
    for name in ("a.csv", "b.csv"):
        frame.with_columns(unit_id=pl.Series([f"{n}-{i:03}" for i, n in enumerate(names)])).write_csv(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stack.py"])
    tables = [Path("a.csv"), Path("b.csv")]
    monkeypatch.setattr(fusion.stack, "write_charts", lambda *_: None)
    main(predictions=tables, out=Path("out"), strategy="mean")
    first, second, *_ = Path("out/summary.txt").read_text().splitlines()
    assert first.startswith("! No table has a column fold or group: folds are drawn at random over units.")
    assert "the third of 4 parts takes 10 values ('00', '01', ...; --group-from '" in second
    assert first[2:] in Path("out/report.html").read_text()
    pattern = re.findall(r"--group-from '([^']+)'", second)[-1]
    main(predictions=tables, out=Path("out"), strategy="mean", group_from=pattern)
    assert "No table has" not in Path("out/summary.txt").read_text()
    assert json.loads(Path("out/metrics.json").read_text())["headline"]["n_groups"] == 10


@pytest.mark.parametrize("how", ["fuse", "write_report"])
def test_a_second_fusion_into_a_folder_at_once_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    units = make_units(90, test_share=0.3)
    tables = [tmp_path / f"h{h}.parquet" for h in range(2)]
    for h, path in enumerate(tables):
        frame_of(units, h).write_parquet(path)
    out, refused = tmp_path / "fused", []
    monkeypatch.setattr("sys.argv", ["stack.py"])

    def amid(*arguments: Any, **settings: Any) -> Any:
        with pytest.raises(StoreError, match=rf"fused: another process makes it .*\(process {os.getpid()}\)") as caught:
            main(predictions=tables, out=out, strategy="weighted")
        refused.append(caught)
        return original(*arguments, **settings)

    original = getattr(fusion.stack, how)
    monkeypatch.setattr(fusion.stack, how, amid)
    main(predictions=tables, out=out, strategy="mean")
    assert len(refused) == 1
    verify_whole(out, "")
    assert json.loads((out / "headline.json").read_text())["strategy"] == "mean"
    assert {path.name for path in tmp_path.iterdir()} == {"fused", "h0.parquet", "h1.parquet"}


def test_sighup_amid_a_fusion_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = make_units(90, test_share=0.3)
    tables = [tmp_path / f"h{h}.parquet" for h in range(2)]
    for h, path in enumerate(tables):
        frame_of(units, h).write_parquet(path)
    arguments = ["stack.py", "--out", str(tmp_path / "fused"), "--strategy", "mean"]
    monkeypatch.setattr("sys.argv", arguments + [part for path in tables for part in ("--predictions", str(path))])

    def code() -> Any:
        with pytest.raises(SystemExit) as ended:
            command(main)
        return ended.value.code

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "fused").iterdir() if path.is_file()}

    assert code() == 0
    former = files()
    with monkeypatch.context() as patch:
        patch.setattr(fusion.stack, "write_report", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
        assert code() == 129
    assert files() == former
    assert {path.name for path in tmp_path.iterdir()} == {"fused", "h0.parquet", "h1.parquet"}
    assert code() == 0
    assert {name for name, content in files().items() if content != former[name]} <= {"report.html", "SHA256SUMS"}
