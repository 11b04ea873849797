"""AvaMERG's whole pipeline at AvaMERG's size, with tiny encoders: what grows, and how.

A corpus of its exact shape (``benchmarks/avamerg_like.py``), every stage as a user runs it, in a folder of its own:
seconds, memory, bytes and files of each, at several shares of the size, and the exponent of growth. Encoders are tiny
and random, so features mean little and no score is printed: it is everything around the networks that is measured.
"""

import json
import math
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

REPOSITORY = Path(__file__).parents[1]
# In this folder files are named as packages are.
sys.path[:] = [str(REPOSITORY), *(path for path in sys.path if not path.endswith("benchmarks"))]

import numpy as np
import psutil
import torch
import transformers as hf
import typer
import yaml

from benchmarks.avamerg_like import dialogues, vocabulary, write_corpus, write_sound
from configs import UserError
from configs.command_line import command

SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
PIXELS = 32
CODE = ("cache", "configs", "emocache", "extract", "fusion", "heads")
CONFIG = "configs/rehearsal.yaml"
EVERY = 0.5  # seconds between two looks at the memory
WORTH = 1.0  # seconds: differences below say nothing of growth
FAULT = 1.15  # n log n is 1.09 from a tenth to the whole, and a clock is no ruler
ADDED, CHANGED, REMOVED = 100, 1, 10  # clips


@dataclass(frozen=True)
class Stage:
    name: str
    command: str  # as typed, below the folder


@dataclass
class Measured:
    stage: str
    command: str
    seconds: float
    cpu: float  # seconds of all its processes: other work on the machine hardly changes them
    memory: int  # bytes that the whole tree of processes had to itself, at its peak; not what it maps of files
    bytes: int  # that runs/ grew by
    files: int
    said: list[str] = field(default_factory=list)


def stages(heads: Sequence[str], unit: str = "UNIT") -> Iterator[Stage]:
    """All of a project's life, in order; ``unit`` is one to explain."""
    yield Stage("manifest", f"python extract/manifest.py --config {CONFIG}")
    for modality in ("audio", "video", "text"):
        yield Stage(f"extract {modality}", f"python extract/run.py --config {CONFIG} --modality {modality}")
    yield Stage("extract: nothing to do", f"python extract/run.py --config {CONFIG}")
    yield Stage("verify audio", "python cache/verify.py runs/rehearsal/stores/audio")
    yield Stage("inputs", f"python heads/inputs.py --config {CONFIG}")
    for head in heads:
        yield Stage(f"head {head}", f"python heads/train.py --config {CONFIG} --head {head}")
    yield Stage("audit", f"python fusion/audit.py --config {CONFIG} --exit-zero --heads metadata --heads bag_of_words")
    yield Stage("fusion, report", f"python fusion/stack.py --config {CONFIG}")
    yield Stage("bundle", f"python fusion/bundle.py --config {CONFIG}")
    yield Stage("predict one", "python fusion/predict.py one.json --json --bundle runs/rehearsal/bundle")
    yield Stage("explain one", f"python heads/explain.py --config {CONFIG} {unit}")
    yield Stage("code", "python emocache/stages.py")
    yield Stage("settings", f"python configs/show.py --config {CONFIG} --out runs/rehearsal/profile.yaml")
    yield Stage("dvc: hashes everything", "dvc commit --force --quiet")
    yield Stage("dvc: nothing to do", "dvc repro --quiet")
    yield Stage("dvc: again", "dvc repro --quiet")


def later_stages() -> Iterator[Stage]:
    """After clips were added, changed and removed."""
    yield Stage("manifest, changed", f"python extract/manifest.py --config {CONFIG}")
    yield Stage("extract, changed", f"python extract/run.py --config {CONFIG}")
    yield Stage("head metadata, changed", f"python heads/train.py --config {CONFIG} --head metadata")


def prepare(folder: Path, share: float, seed: int) -> dict[str, int]:
    """A project in ``folder``: the code as it is now, tiny checkpoints, a profile, and the corpus."""
    for name in CODE:
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "sample"))
    _save_networks(folder / "models")
    profile = yaml.safe_load((REPOSITORY / "configs/avamerg.yaml").read_text())
    (folder / CONFIG).write_text(yaml.safe_dump(_tiny(profile), sort_keys=False))
    pipeline = (REPOSITORY / "dvc.yaml").read_text().replace("configs/sample.yaml", CONFIG)
    (folder / "dvc.yaml").write_text(pipeline)
    shutil.copy(REPOSITORY / ".dvcignore", folder / ".dvcignore")
    made = write_corpus(folder / "data/avamerg", share, seed)
    if not (folder / ".dvc").is_dir():
        subprocess.run(["dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True, env=_environment(folder))
    records = json.loads((folder / "data/avamerg/json/original_test_data.json").read_text())
    (folder / "one.json").write_text(json.dumps(records[:1]))
    return made


def _tiny(profile: dict[str, Any]) -> dict[str, Any]:
    """AvaMERG's own profile, with encoders that cost next to nothing, and its heads narrow, for one epoch."""
    files = {split: f"json/*_{split}_data.json" for split in ("train", "val", "test")}
    profile["dataset"] |= {"files": files}
    for name, encoder in profile["encoders"].items():
        kept = {key: encoder[key] for key in ("family", "pooling") if key in encoder}
        profile["encoders"][name] = kept | {"model": f"./models/{name}"}
    for head in profile["heads"].values():
        if head.get("kind", "sequence") in ("sequence", "cross_modal"):
            head |= {"hidden": 32, "epochs": 1, "patience": 0}
    return profile | {"name": "rehearsal"}


def _save_networks(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    waves = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 1}
    hf.Wav2Vec2Model(hf.Wav2Vec2Config(**SMALL, **waves)).save_pretrained(folder / "audio")
    hf.Wav2Vec2FeatureExtractor().save_pretrained(folder / "audio")
    images = {"image_size": PIXELS, "patch_size": 16, "num_frames": 8}
    hf.TimesformerModel(hf.TimesformerConfig(**SMALL, **images)).save_pretrained(folder / "video")
    stated = {
        "size": {"shortest_edge": PIXELS},
        "crop_size": {"height": PIXELS, "width": PIXELS},
        "image_mean": [0.45] * 3,
        "image_std": [0.225] * 3,
    }
    (folder / "video/preprocessor_config.json").write_text(json.dumps(stated))
    words = {word: i for i, word in enumerate(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *vocabulary()]))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names).save_pretrained(
        folder / "text"
    )
    hf.BertModel(hf.BertConfig(**SMALL, vocab_size=len(words))).save_pretrained(folder / "text")


def alter(folder: Path, share: float, seed: int) -> None:
    """Add 100 clips to the training split, change the sound of one, take away that of ten."""
    corpus = folder / "data/avamerg"
    sounds = sorted((corpus / "data/train_audio/audio_v5_0").iterdir())[: CHANGED + REMOVED]
    write_corpus(corpus, share, seed, extra=ADDED // 4)
    for path in sounds[:CHANGED]:
        write_sound(path, np.random.default_rng([seed, 1]).normal(0, 0.1, 16_000).clip(-1, 1))
    for path in sounds[CHANGED:]:
        path.unlink()


def measure(stage: Stage, folder: Path) -> Measured:
    """Run a stage to its end, looking at its processes' memory from time to time."""
    before = _size(folder / "runs")
    start, used = time.perf_counter(), _cpu_seconds()
    peak = 0
    log = folder / "log.txt"
    with log.open("w") as out:
        process = psutil.Popen(
            shlex.split(stage.command), cwd=folder, stdout=out, stderr=subprocess.STDOUT, env=_environment(folder)
        )
        while process.poll() is None:
            peak = max(peak, _own_memory(process))
            try:
                process.wait(EVERY)
            except psutil.TimeoutExpired:
                continue
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - used
    lines = log.read_text().splitlines()
    if process.returncode:
        raise UserError(f"{stage.command} (in {folder}) ended with {process.returncode}: {' / '.join(lines[-5:])}")
    after = _size(folder / "runs")
    grown = [now - then for now, then in zip(after, before, strict=True)]
    return Measured(stage.name, stage.command, seconds, cpu, peak, *grown, lines[-12:])


def _cpu_seconds() -> float:
    """Of all children that have ended, and theirs."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def _environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PYTHONPATH": str(folder), "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return os.environ | own  # networks so small gain nothing from a second thread


def _own_memory(process: psutil.Process) -> int:
    """Bytes of memory that a process and its children hold and that are no file's."""
    total = 0
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for each in tree:
        try:  # the kernel keeps these counts; smaps would make it walk all pages while the process waits
            lines = Path(f"/proc/{each.pid}/status").read_text().splitlines()
        except (OSError, ProcessLookupError):  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return total * 1024


def _size(folder: Path) -> tuple[int, int]:
    """Bytes and files below a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(sizes), len(sizes)


def rehearse(folder: Path, share: float, seed: int) -> None:
    """Every stage at one share of the size; what is measured is written down after each."""
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    made = prepare(folder, share, seed)
    results: dict[str, Any] = {"share": share, "seed": seed, "cores": os.cpu_count(), "corpus": made, "stages": []}
    print(f"share {share:g}: {made}, made in {time.perf_counter() - start:.0f} s", flush=True)
    shutil.rmtree(folder / "runs", ignore_errors=True)
    (folder / "dvc.lock").unlink(missing_ok=True)
    heads = list(yaml.safe_load((folder / CONFIG).read_text())["heads"])
    first = dialogues(share)[0]
    unit = f"dia{first.name}utt{(first.n_utterances - 1) // 2 * 2}"  # where its speaker speaks last
    for stage in (*stages(heads, unit), None, *later_stages()):
        if stage is None:
            alter(folder, share, seed)
            continue
        found = measure(stage, folder)
        results["stages"].append(vars(found))
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        print(f"  {found.stage:28} {found.seconds:8.1f} s {found.memory / 2**20:8.0f} MiB", flush=True)


def exponent(n: Sequence[float], cost: Sequence[float], worth: float) -> float | None:
    """c of ``a + b * n ** c`` through three measurements whose n stand in one ratio (two: with a = 0).

    The constant part (starting Python, loading torch) says nothing of growth: differences are without it.
    None where they are too small to say anything, or shrink.
    """
    if len(n) == 2:
        return math.log(cost[1] / cost[0]) / math.log(n[1] / n[0]) if cost[1] - cost[0] >= worth else None
    first, second = cost[-2] - cost[-3], cost[-1] - cost[-2]
    if second < worth or first < 2 * worth:  # starting Python takes a second more or less each time
        return None
    return math.log(second / first) / math.log(n[-1] / n[-2])


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: each stage's cost at each share, and how it grows; what grows faster than n log n is marked."""
    results = sorted(results, key=lambda each: float(each["share"]))[-3:]
    counts = [each["corpus"]["utterances"] for each in results]
    heads = [f"{count:,} clips" for count in counts]
    lines = [
        f"| stage | {' | '.join(heads)} | CPU s | grow by | peak MiB | grow by | written | files |",
        "|---" * (len(heads) + 7) + "|",
    ]
    for rows in zip(*(each["stages"] for each in results), strict=True):
        seconds = [row["seconds"] for row in rows]
        cpu, memory = [row["cpu"] for row in rows], [row["memory"] / 2**20 for row in rows]
        grows = exponent(counts, cpu, WORTH) if len(rows) > 1 else None
        fills = exponent(counts, memory, 50) if len(rows) > 1 else None
        lines.append(
            f"| {rows[0]['stage']} | {' | '.join(f'{value:.1f} s' for value in seconds)} | "
            f"{' / '.join(f'{value:.0f}' for value in cpu)} | {_power(grows)} | "
            f"{' / '.join(f'{value:.0f}' for value in memory)} | {_power(fills)} | "
            f"{_bytes(rows[-1]['bytes'])} | {rows[-1]['files']:+d} |"
        )
    return "\n".join(lines)


def _power(found: float | None) -> str:
    return "" if found is None else f"n^{found:.2f}" + (" **!**" if found > FAULT else "")


def _bytes(n: int) -> str:
    for unit in ("B", "kB", "MB"):
        if abs(n) < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:.2f} GB"


def main(
    share: Annotated[
        list[float] | None,
        typer.Option(help="Share of AvaMERG's size; repeat it. Of what was measured before: --table."),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where to work: 5 GB for the corpus at share 1.")] = Path("rehearsal"),
    seed: Annotated[int, typer.Option(help="Decides the corpus.")] = 0,
    only_table: Annotated[
        bool, typer.Option("--table", help="Print what was measured in the folder, and stop.")
    ] = False,
) -> None:
    """Run the whole pipeline on a corpus of AvaMERG's shape, and say what each stage costs and how that grows."""
    folder = folder.absolute()
    for each in sorted(share or ([] if only_table else [0.01])):
        if not 0 < each <= 1:
            raise UserError(f"--share {each:g}: above 0, up to 1")
        rehearse(folder / f"share-{each:g}", each, seed)
    found = [json.loads(path.read_text()) for path in folder.glob("share-*/results.json")]
    if not found:
        raise UserError(f"{folder}: nothing was measured there; run it with --share 0.01")
    print(table(found))


if __name__ == "__main__":
    command(main)
