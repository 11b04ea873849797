"""``dvc repro`` as a user sees it: everything once, nothing twice, and after a change only what reads it."""

import json
import re
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from shells import Shell

pytestmark = pytest.mark.xdist_group("project")  # one project folder, one worker


def ran(printed: str, profile: str = "sample") -> list[str]:
    """The stages that ran, without their profile's name, and the one that looks at the code."""
    stages = [name for name in re.findall(r"^Running stage '([^']+)'", printed, flags=re.MULTILINE) if name != "code"]
    assert all(re.search(rf"@{profile}\b", stage) for stage in stages)
    return [re.sub(rf"@{profile}-?", "@", stage).removesuffix("@") for stage in stages]


@pytest.fixture(scope="module")
def first(shell: Shell) -> list[str]:
    return ran(shell("dvc repro").stdout)


def times(folder: Path) -> dict[Path, int]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: path.stat().st_mtime_ns for path in files}


def edit(project: Path, old: str, new: str) -> None:
    path = project / "configs" / "sample.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    time.sleep(0.01)  # DVC looks at a file again when its time stamp changes
    path.write_text(text.replace(old, new))


def test_everything_runs_once_and_leaves_what_the_readme_promises(first, project, shell):
    heads = yaml.safe_load((project / "configs" / "sample.yaml").read_text())["heads"]
    expected = ["profile", "manifest", "extract", "inputs", "audit", "fuse", "bundle"]
    assert sorted(first) == sorted(expected + [f"head@{head}" for head in heads])
    run = project / "runs" / "sample"
    names = ("audio", "speech", "video", "frames")
    errors = {name: pl.read_parquet(run / "stores" / name / "errors.parquet")["clip_id"].to_list() for name in names}
    assert [len(errors[name]) for name in names] == [1, 1, 1, 1]  # the two files that are broken on purpose
    assert (errors["audio"], errors["video"]) == (errors["speech"], errors["frames"])
    for head in heads:
        assert (run / "heads" / head / "predictions.parquet").is_file()
    metrics = json.loads((run / "fusion" / "metrics.json").read_text())
    assert metrics["headline"]["split"] == "test"
    assert metrics["headline"]["n_units"] == 21
    assert set(metrics["heads"]) == set(heads)
    report = (run / "fusion" / "report.html").read_text()
    for clip_id in errors["audio"] + errors["video"]:
        assert clip_id in report
    audit = json.loads((run / "audit" / "audit.json").read_text())
    assert all(check["name"] in (run / "audit" / "audit.txt").read_text() for check in audit["checks"])
    assert "overlap" in report
    assert not [path for path in (run / "bundle").rglob("*") if path.suffix in (".pkl", ".pickle", ".joblib", ".pt")]


def test_the_bundle_answers_as_the_batch_did(first, project, shell):
    """A test unit that is one clip: all that the heads read of it is given to the command line."""
    run = project / "runs" / "sample"
    fused = pl.read_parquet(run / "fusion" / "predictions.parquet").filter(pl.col("split") == "test")
    conversations = sorted((project / "extract" / "sample" / "json").glob("*test*.json"))
    done = shell(f"python fusion/predict.py {conversations[0].relative_to(project)} --json")
    answers = {answer["unit"]: answer for answer in map(json.loads, done.stdout.splitlines())}
    assert len(answers) == 21
    for row in fused.iter_rows(named=True):
        for name, p in answers[row["unit_id"]]["probabilities"].items():
            assert p == pytest.approx(row[f"p_{name}"], abs=1e-5)


def test_a_second_run_does_nothing(first, shell):
    assert ran(shell("dvc repro").stdout) == []


def test_metrics_and_plots_show(first, project, shell):
    for files, column, n in (("fusion", "fused.macro_f1", 1), ("heads/*", "test.baseline_macro_f1", 3)):
        rows = shell(f"dvc metrics show --md runs/sample/{files}/headline.json").stdout.strip().splitlines()
        assert column in rows[0]
        assert len(rows) == 2 + n
        assert len(rows[0]) < 300  # a line that one can read
    assert "test.baseline_macro_f1" in shell("dvc metrics show").stdout
    shell("dvc plots show")
    page = (project / "dvc_plots" / "index.html").read_text()
    assert "confusion_matrix.png" in page
    assert page.count("<img") == 8  # five of the fusion, and each head's curves
    assert "http" not in page  # nothing is fetched
    assert "max-width: 100%" in page


def test_a_change_reaches_what_reads_it_and_nothing_else(first, project, shell):
    """A learning rate, its head; then, with it, another video encoder, and the heads that read that one."""
    heads = yaml.safe_load((project / "configs" / "sample.yaml").read_text())["heads"]
    edit(project, "    - audio\n    - speech\n", "    - audio\n    - speech\n    lr: 0.002\n")
    waiting = [line for line in shell("dvc status").stdout.splitlines() if line and not line.startswith((" ", "\t"))]
    assert "profile@sample:" in waiting  # it tells the others
    others = {name: (project / "runs" / "sample" / "stores" / name).resolve() for name in ("audio", "speech", "frames")}
    former = (project / "runs" / "sample" / "stores" / "video").resolve()
    before = {name: times(path) for name, path in others.items()}
    edit(project, "./models/resnet", "./models/vit")
    readers = {f"head@{name}" for name, head in heads.items() if "video" in head.get("inputs", [])}
    expected = {"profile", "extract", "inputs", "head@audio", "audit", "fuse", "bundle"} | readers
    assert set(ran(shell("dvc repro").stdout)) == expected
    assert {name: times(path) for name, path in others.items()} == before
    assert former.is_dir()  # DVC did not delete the former store, and neither did the pass
    assert former.name in shell("python cache/info.py --unused").stdout


def test_profiles_do_not_touch_each_other_and_share_what_is_the_same(first, project, shell):
    runs = project / "runs"
    before = times(runs / "sample") | times(runs / "stores")
    text = (project / "configs" / "sample.yaml").read_text()
    (project / "configs" / "other.yaml").write_text(text.replace("name: sample", "name: other", 1))
    shell("python extract/manifest.py --config other")
    said = shell("python extract/run.py --config other --modality text").stdout
    assert "text: 0 clips to compute" in said
    assert "text: uses the store of sample (text)" in said
    shell("python extract/run.py --config other --encoder text encoders.text.layer=1")
    assert (runs / "other" / "stores" / "text").resolve() != (runs / "sample" / "stores" / "text").resolve()
    other = yaml.safe_load(text) | {"name": "other", "heads": {"metadata": {"metadata": ["topic"], "kind": "linear"}}}
    for key in ("encoders", "store", "fusion", "seed"):  # what may be left out
        del other[key]
    (project / "configs" / "other.yaml").write_text(yaml.safe_dump(other))
    try:
        assert shell("python configs/use.py other").stdout == "dvc.yaml: uses configs/other.yaml\n"
        # all that comes before training; what is left out of a profile stands in its profile.yaml
        assert ran(shell("dvc repro inputs").stdout, "other") == ["profile", "manifest", "extract", "inputs"]
    finally:
        shell("python configs/use.py sample")
    assert ran(shell("dvc repro").stdout) == []  # and back again, at no cost
    after = times(runs / "sample") | times(runs / "stores")
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("python extract/run.py --modality smell", "smell"),
        ("python extract/run.py --encoder nose", "it has: audio, speech, video, frames, text"),
        ("python extract/run.py --modality audio encoders.audio.layr=2", "encoders.audio.layr: no such setting"),
        ("python heads/train.py --head nose", "nose"),
        ("python heads/train.py --head audio heads.audio.lr=fast", "heads.audio.lr = 'fast'"),
        ("python heads/train.py --head audio --config nowhere", "configs/nowhere.yaml: no such profile"),
        ("python fusion/stack.py fusion.strategies=[magic]", "fusion.strategies.0 = 'magic'"),
        ("python fusion/stack.py name=fresh", "python heads/train.py"),
    ],
)
def test_a_mistake_ends_in_one_line_before_any_work(first, shell, line, says):
    done = shell(line, code=2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    if "--modality smell" not in line:  # the option parser frames its own message
        assert len(done.stderr.strip().splitlines()) == 1
