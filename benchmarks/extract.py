"""Clips per second of this program, of its encoder alone, and of the loops that one would write without it.

All on the same clips, in one run, on networks of base size with random weights: speed does not depend on them.
"""

import sys

sys.path[:] = [path for path in sys.path if not path.endswith("benchmarks")]  # this file is named as the package is

import json
import shutil
import statistics
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers as hf
import typer
from tqdm import tqdm

from configs import UserError
from configs.command_line import command
from configs.schema import Encoder, Modality, StoreSettings
from extract.encoders.encoder import LoadedEncoder, Window
from extract.encoders.loading import load
from extract.media.sources import Clip, Sources
from extract.passes.blocks import BlockComputer, batches_of
from extract.passes.engine import hash_clips, open_writer, plan_pass, run_pass

AVAMERG_CLIPS = 152_021
N_CLIPS: dict[Modality, int] = {"audio": 32, "video": 12, "text": 768}
BLOCKS = {"audio": 8, "video": 4, "text": 256}  # small: in a long pass, too, only the first block is waited for
FAMILY = {"audio": "wav2vec2", "video": "timesformer", "text": "transformer"}
WORDS = 2000  # of the made-up vocabulary


def make_audio(folder: Path, n: int, rng: np.random.Generator) -> list[Path | str]:
    """WAV files of 16 kHz speech-like noise, 1.5 to 12 s long, 4.7 s on average."""
    paths: list[Path | str] = []
    for i in range(n):
        seconds = float(np.clip(rng.lognormal(np.log(4.2), 0.5), 1.5, 12))
        path = folder / f"{i}.wav"
        samples = (rng.normal(scale=0.1, size=int(seconds * 16000)) * 2**15).clip(-(2**15), 2**15 - 1)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(samples.astype("<i2").tobytes())
        paths.append(path)
    return paths


def make_video(folder: Path, n: int, rng: np.random.Generator) -> list[Path | str]:
    """H.264 files, 640 x 360, 25 frames a second, 2 to 8 s long, with moving content."""
    import av

    base = rng.integers(0, 256, (36, 64, 3), dtype=np.uint8).repeat(10, axis=0).repeat(10, axis=1)
    paths: list[Path | str] = []
    for i in range(n):
        path = folder / f"{i}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
            for k in range(int(rng.uniform(2, 8) * 25)):
                image = np.roll(base, (k * 3 + i, k * 5), axis=(0, 1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        paths.append(path)
    return paths


def make_text(folder: Path, n: int, rng: np.random.Generator) -> list[Path | str]:
    """Utterances of 4 to 60 words, 16 on average."""
    lengths = np.clip(rng.lognormal(np.log(14), 0.5, n), 4, 60).astype(int)
    return [" ".join(f"w{word}" for word in rng.integers(0, WORDS, length)) for length in lengths]


def save_network(modality: Modality, folder: Path, tiny: bool = False) -> Path:
    """A checkpoint of base size, or a tiny one, random, as ``from_pretrained`` reads it."""
    torch.manual_seed(0)
    small = (
        {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2} if tiny else {}
    )
    if modality == "audio":
        waves = {"conv_dim": (32,) * 7, "num_conv_pos_embedding_groups": 1} if tiny else {}
        hf.Wav2Vec2Model(hf.Wav2Vec2Config(**small, **waves)).save_pretrained(folder)
        hf.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    elif modality == "video":
        hf.TimesformerModel(hf.TimesformerConfig(**small)).save_pretrained(folder)
        stated = {
            "size": {"shortest_edge": 224},
            "crop_size": {"height": 224, "width": 224},
            "image_mean": [0.45] * 3,
            "image_std": [0.225] * 3,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    else:
        from tokenizers import Tokenizer, models, pre_tokenizers, processors

        vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])}
        vocabulary |= {f"w{i}": i + len(vocabulary) for i in range(WORDS)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names).save_pretrained(folder)
        hf.BertModel(hf.BertConfig(vocab_size=len(vocabulary), **small)).save_pretrained(folder)
    return folder


def plain_loop(
    modality: Modality, checkpoint: Path, device: str, batch: int, precision: str = "float32"
) -> Callable[[list[Any], Path], None]:
    """What one would write with transformers: files in their order, ``batch`` at a time, padded, one .npy each; other
    precisions than float32 by autocast."""
    autocast = torch.autocast(device.partition(":")[0], getattr(torch, precision), enabled=precision != "float32")
    network = hf.AutoModel.from_pretrained(checkpoint).eval().to(device)

    def inputs_of(sources: list[Any]) -> dict[str, Any]:
        if modality == "text":
            return dict(tokenizer(sources, padding=True, return_tensors="pt"))
        if modality == "audio":
            samples = [samples_of(path) for path in sources]
            return dict(extractor(samples, sampling_rate=16000, padding=True, return_tensors="pt"))
        pixels = np.stack([frames_by_cv2(path, 8) for path in sources])
        return {"pixel_values": torch.from_numpy(pixels).permute(0, 1, 4, 2, 3)}

    tokenizer = hf.AutoTokenizer.from_pretrained(checkpoint) if modality == "text" else None
    extractor = hf.AutoFeatureExtractor.from_pretrained(checkpoint) if modality == "audio" else None

    def run(sources: list[Any], out: Path) -> None:
        for start in range(0, len(sources), batch):
            with torch.inference_mode(), autocast:
                inputs = {name: x.to(device) for name, x in inputs_of(sources[start : start + batch]).items()}
                hidden = network(**inputs).last_hidden_state.float().cpu().numpy()
            for i, values in enumerate(hidden):
                np.save(out / f"{start + i}.npy", values.astype(np.float16))

    return run


def samples_of(path: Path) -> np.ndarray:
    """Of a 16-bit WAV file, as fast as Python alone reads it."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(2**15)


def frames_by_cv2(path: Path, n: int) -> np.ndarray:
    import cv2

    capture = cv2.VideoCapture(str(path))
    wanted = set(np.linspace(0, capture.get(cv2.CAP_PROP_FRAME_COUNT) - 1, n).astype(int))
    images, k = [], 0
    while len(images) < n:
        found, image = capture.read()
        if not found:
            break
        if k in wanted:
            image = cv2.cvtColor(cv2.resize(image, (224, 224)), cv2.COLOR_BGR2RGB)
            images.append((image / np.float32(255) - 0.45) / np.float32(0.225))
        k += 1
    capture.release()
    return np.stack(images + [images[-1]] * (n - len(images)))


def program(
    encoders: list[LoadedEncoder], modality: Modality, workers: int, block_clips: int | None = None
) -> Callable[[list[Any], Path], None]:
    """This program, from files to committed stores; ``workers`` decoders are already running, as in a long pass."""
    block = block_clips or BLOCKS[modality]

    def run(sources: list[Any], out: Path) -> None:
        clips = [Clip(f"clip{i}", source) for i, source in enumerate(sources)]
        with ExitStack() as stack:
            stores = [open_writer(out / f"store{k}", encoder, StoreSettings()) for k, encoder in enumerate(encoders)]
            writers = [stack.enter_context(writer) for writer in stores]
            plan = plan_pass(clips, *hash_clips(clips, Sources(None), workers), [{} for _ in encoders], block)
            failures = run_pass(plan, computer.compute(plan.blocks), writers, commit_seconds=20)
            if any(failures):
                raise RuntimeError(f"{failures}")

    computer = BlockComputer(encoders, workers)
    return run


def alone(encoder: LoadedEncoder, batches: list[list[Window]]) -> Callable[[list[Any], Path], None]:
    """The encoder on windows that lie ready in memory."""

    def run(sources: list[Any], out: Path) -> None:
        for _ in encoder.encode(batches):
            pass

    return run


def ready_batches(encoder: LoadedEncoder, sources: list[Any], block: int) -> Iterator[list[Window]]:
    task = encoder.task
    decoded = [task.decode(source, lambda: None) if task else source for source in sources]
    windows = [window for clip in decoded for window in encoder.prepare(clip).windows]
    for start in range(0, len(windows), block):
        part = windows[start : start + block]
        yield from ([part[i] for i in batch] for batch in batches_of(part, encoder))


def candidates(modality: Modality, checkpoint: Path, device: str) -> Iterator[tuple[str, LoadedEncoder]]:
    """Configurations in which a clip's features do not depend on its batch."""
    settings: list[dict[str, Any]] = [
        {"batch_tokens": 1},
        {},
        {"precision": "bfloat16", "batch_tokens": 1},
        {"precision": "bfloat16"},
    ]
    if device == "cpu" and have_openvino():
        settings += [{"precision": "bfloat16", "runtime": "openvino"}]
    for more in settings:
        spec = Encoder(family=FAMILY[modality], model=str(checkpoint), **more)
        in_words = [spec.runtime, spec.precision, "one at a time" if "batch_tokens" in more else "batches"]
        try:
            yield " ".join(in_words), load(spec, torch.device(device))
        except UserError as error:  # a runtime that cannot run this network
            print(f"{modality}: left out: {error}")


def have_openvino() -> bool:
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


def measure(modality: Modality, n_clips: int, device: str, rounds: int, workers: int, folder: Path) -> dict[str, Any]:
    make = {"audio": make_audio, "video": make_video, "text": make_text}[modality]
    media = folder / "media"
    media.mkdir(parents=True)
    sources = make(media, n_clips, np.random.default_rng(0))
    checkpoint = save_network(modality, folder / "network")
    runs: dict[str, Callable[[list[Any], Path], None]] = {}
    encoders = dict(candidates(modality, checkpoint, device))
    for name, encoder in encoders.items():
        runs[f"encoder alone, {name}"] = alone(encoder, list(ready_batches(encoder, sources, BLOCKS[modality])))
    n_timed = dict.fromkeys(runs, 0.0)
    for name, run in tqdm(runs.items(), f"{modality}: which is fastest", disable=None):
        n_timed[name] = timed(run, sources, folder)
    fastest = min(n_timed, key=lambda name: n_timed[name])
    chosen = encoders[fastest.removeprefix("encoder alone, ")]
    for name in (name for name in list(runs) if name != fastest):
        del runs[name]
    runs["this program"] = program([chosen], modality, workers)
    runs["plain loop, one at a time, fp32"] = plain_loop(modality, checkpoint, device, 1)
    runs["plain loop, padded batches of 8, fp32"] = plain_loop(modality, checkpoint, device, 8)
    runs["this program"](sources[:2], fresh(folder / "warm"))  # its decoders start
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds), f"{modality}: rounds", disable=None):
        for name, run in runs.items():
            seconds[name].append(timed(run, sources, folder))
    rates = {name: n_clips / statistics.median(times) for name, times in seconds.items()}
    print(f"\n{modality}: {n_clips} clips, median of {rounds} rounds on {device}, {torch.get_num_threads()} threads")
    for name in n_timed:
        print(f"  {n_clips / n_timed[name]:8.2f} clips/s  {name} (once)")
    for name, rate in rates.items():
        ratio = statistics.median(t / own for t, own in zip(seconds[name], seconds["this program"], strict=True))
        print(f"  {rate:8.2f} clips/s  {name:45} this program is {ratio:.2f} x as fast")
    hours = AVAMERG_CLIPS / rates["this program"] / 3600
    print(f"  at this rate AvaMERG's {AVAMERG_CLIPS:,} clips take {hours:.1f} hours")
    return {"clips": n_clips, "clips_per_second": rates, "fastest": fastest, "once": n_timed, "seconds": seconds}


def together(modality: Modality, n_clips: int, device: str, rounds: int, workers: int, folder: Path) -> dict[str, Any]:
    """What it saves that two encoders of a modality go through each file together: one pass against two.

    With networks of base size, and with tiny ones, beside which decoding is all there is: as on a fast GPU.
    """
    media = folder / "media"
    media.mkdir(parents=True)
    sources = {"audio": make_audio, "video": make_video}[modality](media, n_clips, np.random.default_rng(0))
    found: dict[str, Any] = {}
    for size in ("tiny", "base"):
        checkpoint = save_network(modality, folder / size, tiny=size == "tiny")
        both = [
            load(
                Encoder(family=FAMILY[modality], model=str(checkpoint), layer=layer, pooling="mean"),
                torch.device(device),
            )
            for layer in (-1, -2)
        ]
        apart = [program([encoder], modality, workers) for encoder in both]
        runs = {"one pass": [program(both, modality, workers)], "two passes": apart}
        for run in (run for some in runs.values() for run in some):
            run(sources[:2], fresh(folder / "warm"))  # its decoders start
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in tqdm(range(rounds), f"{modality}, {size}: rounds", disable=None):
            for name, some in runs.items():
                seconds[name].append(sum(timed(run, sources, folder) for run in some))
        ratio = statistics.median(b / a for a, b in zip(seconds["one pass"], seconds["two passes"], strict=True))
        rate = n_clips / statistics.median(seconds["one pass"])
        print(
            f"{modality}, two {size} encoders on {device}: {rate:.2f} clips/s in one pass, {ratio:.2f} x as fast as two"
        )
        found[size] = {"clips": n_clips, "seconds": seconds, "ratio": ratio}
    return found


def layered(modality: Modality, n_clips: int, device: str, rounds: int, workers: int, folder: Path) -> dict[str, Any]:
    """What it costs to store every layer's mean and deviation where one would store the last layer's mean.

    Against the last layer: below it, layers that nothing needs are cut off, and one pass is a shorter network.
    Beside seconds stands the time that processors spent for this process, which others on the machine stretch less.
    """
    media = folder / "media"
    media.mkdir(parents=True)
    make = {"audio": make_audio, "video": make_video, "text": make_text}[modality]
    sources = make(media, n_clips, np.random.default_rng(0))
    checkpoint = save_network(modality, folder / "network")
    kept = {"one layer": {"pooling": "mean"}, "every layer": {"layers": "all", "pooling": "statistics"}}
    runs = {}
    for name, settings in kept.items():
        spec = Encoder.model_validate({"family": FAMILY[modality], "model": str(checkpoint)} | settings)
        runs[name] = program([load(spec, torch.device(device))], modality, workers)
        runs[name](sources[:2], fresh(folder / "warm"))  # its decoders start
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for number in tqdm(range(rounds), f"{modality}: rounds", disable=None):
        for name in list(runs)[:: 1 - 2 * (number % 2)]:  # each goes first in every second round
            before = time.process_time()
            seconds[name].append(timed(runs[name], sources, folder))
            spent[name].append(time.process_time() - before)
    of_wall, of_processors = (
        [every / one for one, every in zip(of["one layer"], of["every layer"], strict=True)] for of in (seconds, spent)
    )
    print(
        f"{modality}: {n_clips} clips on {device}, {rounds} rounds: every layer takes "
        f"{statistics.median(of_wall):.3f} x the time of the last one ({min(of_wall):.3f} to {max(of_wall):.3f}), "
        f"{statistics.median(of_processors):.3f} x the processors' "
        f"({min(of_processors):.3f} to {max(of_processors):.3f})"
    )
    return {"clips": n_clips, "seconds": seconds, "processor_seconds": spent}


def timed(run: Callable[[list[Any], Path], None], sources: list[Any], folder: Path) -> float:
    out = fresh(folder / "out")
    started = time.perf_counter()
    run(sources, out)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main(
    modality: Annotated[Modality | None, typer.Option(help="Default: all three.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="How many; default: a few minutes' work in all.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Decoders.")] = 2,
    two: Annotated[
        bool, typer.Option("--two", help="Two encoders of audio, and of video: one pass over the files against two.")
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Every layer of an encoder against its last one, from one pass each.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this JSON file, too.")] = None,
) -> None:
    """Compare this program with its encoder alone and with plain loops over transformers, on the same clips.

    Ratios of one run can be compared; clips per second depend on the machine and on who else uses it.
    """
    hf.logging.set_verbosity_error()
    if two and layers:
        raise UserError("--two, --layers: two measurements: name one")
    found = {}
    for name in [modality] if modality else N_CLIPS:
        if two and name == "text":
            continue  # nothing is decoded
        with tempfile.TemporaryDirectory() as folder:
            look = together if two else layered if layers else measure
            found[name] = look(name, clips or N_CLIPS[name], device, rounds, workers, Path(folder))
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    command(main)
