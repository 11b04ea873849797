"""The corpus of AvaMERG's shape is one, and growth is computed as it says."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from shells import REPOSITORY
from small_project import run

from benchmarks.avamerg_like import DIALOGUES, SPLITS, UTTERANCES, dialogues, write_corpus
from benchmarks.rehearsal import CODE, exponent, later_stages, stages, table
from configs.sections.datasets import AvamergDataset
from extract.corpora.avamerg import read_avamerg
from extract.media.hashing import new_content_hash

SHARE = 0.001
FILES = {split: f"json/*_{split}_data.json" for split in SPLITS}


def hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.file_digest(path.open("rb"), new_content_hash).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_corpus(root, SHARE, workers=1)
    return root


@pytest.mark.parametrize("share", [0.001, 0.01, 1])
def test_sizes_are_those_of_the_paper_times_the_share(share: float):
    every = dialogues(share)
    assert len(every) == round(DIALOGUES * share)
    assert sum(each.n_utterances for each in every) == round(UTTERANCES * share)
    assert all(2 <= each.n_utterances <= 10 for each in every)
    shares = np.array([sum(each.split == split for each in every) for split in SPLITS]) / len(every)
    assert shares == pytest.approx(np.array(list(SPLITS.values())) / sum(SPLITS.values()), abs=0.02)


def test_the_reader_finds_everything_in_it(corpus: Path):
    manifest = read_avamerg(AvamergDataset(adapter="avamerg", root=corpus, files=FILES))
    clips = manifest.clips
    assert len(clips) == round(UTTERANCES * SHARE)
    assert len(manifest.units()) == clips["conversation_id"].n_unique() == round(DIALOGUES * SHARE)
    n_media = len(list(corpus.glob("data/*/*/*")))
    assert 2 * len(clips) - clips["audio"].null_count() - clips["video"].null_count() == n_media
    assert set(clips["audio"].drop_nulls().str.slice(-4)) == {".wav"}


def test_every_file_has_bytes_of_its_own_and_the_same_ones_again(corpus: Path, tmp_path: Path):
    found = hashes(corpus)
    assert len(set(found.values())) == len(found)
    write_corpus(tmp_path, SHARE, workers=1)
    assert hashes(tmp_path) == found


def test_what_is_added_leaves_the_rest_as_it_was(corpus: Path, tmp_path: Path):
    write_corpus(tmp_path, SHARE, extra=2, workers=1)
    before, after = hashes(corpus), hashes(tmp_path)
    assert {path for path in before if after.get(path) != before[path]} == {"json/mapped_train_data.json"}
    assert len(after) == len(before) + 2 * 8


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_growth_is_found_whatever_starting_costs(power: float):
    n = [100, 1_000, 10_000]
    assert exponent(n, [7 + 0.01 * k**power for k in n], 0.01) == pytest.approx(power, abs=1e-9)


def test_growth_that_is_too_small_to_be_seen_is_not_named():
    assert exponent([1, 10, 100], [5.0, 5.1, 5.2], 1.0) is None
    assert exponent([1, 10], [5.0, 5.1], 1.0) is None


def test_the_table_marks_what_grows_faster_than_it_should():
    def results(share: float, seconds: float) -> dict[str, object]:
        row = {"stage": "audit", "seconds": seconds, "cpu": seconds, "memory": 2**28, "bytes": 10**6, "files": 3}
        return {"share": share, "corpus": {"utterances": int(share * 1000)}, "stages": [row]}

    lines = table([results(1, 10_002.0), results(0.1, 102.0), results(0.01, 3.0)]).splitlines()
    assert lines[0].startswith("| stage | 10 clips | 100 clips | 1,000 clips |")
    assert "n^2.00 **!**" in lines[-1]


def test_every_stage_is_a_command_that_exists():
    for words in {tuple(stage.command.split()) for stage in (*stages(["audio"]), *later_stages())}:
        if words[0] == "python":
            done = run(words[1].removesuffix(".py"), "--help")
            assert done.code == 0
            assert all(word in done.out for word in words if word.startswith("--")), words


def test_the_code_that_the_pipeline_hashes_comes_along():
    watched = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]["code"]["deps"]
    assert list(CODE) == watched


def test_everything_that_dvc_would_run_is_run_before_it_takes_stock():
    pipeline = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"].values()
    wanted = {(stage.get("do") or stage)["cmd"].split()[1] for stage in pipeline}
    typed = [stage.command for stage in stages(["audio"])]
    ran = {command.split()[1] for command in typed[: next(i for i, each in enumerate(typed) if "dvc commit" in each)]}
    assert wanted <= ran
