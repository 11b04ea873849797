"""Folders of weights in the layouts that published ones have; what does not fit together ends when it is loaded."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
import transformers as hf
from checkpoints import IMAGES, MODALITIES, PIECES, SIZE, SMALL, sentence_pieces
from media_tools import Load, relative_error, write_video
from safetensors.torch import load_file, save_file

from configs import UserError
from configs.schema import Encoder
from extract.encoders.checkpoints.images import read_image_format
from extract.encoders.encoder import Window, try_positions
from extract.encoders.loading import load as load_by_settings
from extract.media.framing import resize_and_crop

TEXT = "I am so very happy today, and you are not!"


@pytest.fixture
def copy(checkpoints: Path, tmp_path: Path) -> Any:
    def build(name: str) -> Path:
        return Path(shutil.copytree(checkpoints / name, tmp_path / f"copy of {name}", dirs_exist_ok=True))

    return build


def refused(load: Load, name: str, folder: Path, says: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load(name, folder, **settings)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


# Texts


@pytest.mark.parametrize("name", PIECES)
def test_a_sentencepiece_model_is_all_the_tokenizer_there_is(
    name: str, load: Load, checkpoints: Path, tmp_path: Path
) -> None:
    file, _ = PIECES[name]
    assert {path.name for path in (checkpoints / name).iterdir()} == {"config.json", "model.safetensors", file}
    model = sentencepiece.SentencePieceProcessor(model_file=str(checkpoints / name / file))
    encoder = load(name)
    (window,) = encoder.prepare(TEXT.lower()).windows
    ids = window.inputs["input_ids"].tolist()
    own = model.encode(TEXT.lower())
    shift = 1 if name == "xlm-roberta" else 0  # it counts from one further on
    ends = {"deberta": ([1], [2]), "xlm-roberta": ([0], [2]), "albert": ([2], [3]), "t5": ([], [1])}
    first, last = ends.get(name, ([], [model.piece_to_id("<sep>"), model.piece_to_id("<cls>")]))
    assert ids == [*first, *(each + shift for each in own), *last]
    assert np.isfinite(encoder.alone(TEXT)).all()


@pytest.mark.parametrize("name", PIECES)
def test_long_texts_of_these_are_cut_into_windows(name: str, load: Load) -> None:
    encoder = load(name)
    long = " ".join([TEXT] * 20)
    clip = encoder.prepare(long)
    windows = list(clip.windows)
    most = 512 if name in ("xlnet", "t5") else 64  # the first two name no limit
    assert len(windows) > 1
    assert max(window.n_tokens for window in windows) == most
    assert sum(len(range(*window.keep.indices(window.n_tokens))) for window in windows) == clip.n_steps
    assert len(encoder.alone(long)) == clip.n_steps


@pytest.mark.parametrize(
    ("name", "files", "says"),
    [
        (
            "xlm-roberta",
            {"sentencepiece.bpe.model": b"garbage"},
            "is no SentencePiece model, and there is no",
        ),
        ("xlm-roberta", {"sentencepiece.bpe.model": b""}, "is no SentencePiece model"),
        (
            "xlm-roberta",
            {"sentencepiece.bpe.model": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"},
            "stands for a file in Git LFS that was not fetched",
        ),
        ("xlm-roberta", {"spiece.model": sentence_pieces()}, "holds no tokenizer: a XLMRobertaTokenizer reads one of"),
        ("bert", {"spiece.model": sentence_pieces()}, "holds no tokenizer|cannot be loaded"),
        ("bert", {"vocab.txt": b"\xe9t\xe9"}, "cannot be loaded: .*UTF-8"),
        ("bert", {"vocab.txt": b"happy\nsad"}, r"cannot be loaded: .*\[UNK\]"),
        ("bert", {"tokenizer.json": b"{}"}, "cannot be loaded"),
        ("bert", {"tokenizer.json": b"[1]"}, "cannot be loaded"),
        ("bert", {"tokenizer.json": b'{"added'}, "cannot be loaded"),
        ("bert", {"vocab.txt": b"[UNK]", "tokenizer_config.json": b"[1]"}, "must be a JSON object"),
        ("bert", {"vocab.txt": b"[UNK]", "tokenizer_config.json": b'{"a": 1, "a": 2}'}, "'a': stands twice"),
        ("roberta", {"vocab.json": b'{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}'}, "cannot be loaded: .*merges"),
        ("albert", {"spiece.model": sentence_pieces()}, "cannot be loaded"),  # without [CLS] and [SEP]
    ],
)
def test_tokenizer_files_without_sense(name: str, files: dict[str, bytes], says: str, load: Load, copy: Any) -> None:
    folder = copy(name)
    for path in (*folder.glob("tokenizer*"), *folder.glob("*.model")):
        path.unlink()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    refused(load, name, folder, says)


def test_a_vocabulary_as_it_was_before_tokenizer_json(load: Load, copy: Any, media: dict[str, Any]) -> None:
    folder = copy("bert")
    words = hf.AutoTokenizer.from_pretrained(folder).get_vocab()
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)))
    for text in media["text"]:
        np.testing.assert_array_equal(load("bert", folder).alone(text), load("bert").alone(text))


def set_in(path: Path, **changes: Any) -> None:
    stated = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(stated | changes))


def test_tokens_that_the_network_does_not_know(load: Load, copy: Any) -> None:
    folder = copy("bert")
    words = hf.AutoTokenizer.from_pretrained(folder)
    words.add_tokens(["joyful"])
    words.save_pretrained(folder)
    refused(load, "bert", folder, r"do not fit: token 22, but 22 embeddings")


def test_windows_that_have_no_room(load: Load, copy: Any) -> None:
    folder = copy("bert")
    set_in(folder / "tokenizer_config.json", model_max_length=2)
    refused(load, "bert", folder, "takes 2 tokens at once: no room for a text between special ones")
    set_in(folder / "tokenizer_config.json", model_max_length=3)
    refused(load, "bert", folder, "overlap = 0.5: of windows of 3 tokens, of which 1 are text", overlap=0.5)
    assert len(load("bert", folder, overlap=0.0).alone("i am so very happy")) == 7


def test_a_table_of_positions_that_is_shorter_than_stated(load: Load, copy: Any) -> None:
    folder = copy("distilbert")
    state = load_file(folder / "model.safetensors")
    name = next(key for key in state if "position_embeddings" in key)
    state[name] = state[name][:20].clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    refused(load, "distilbert", folder, "distilbert': cannot be loaded: .*size")


class Positions(torch.nn.Module):
    """A network that looks its positions up before its layers, which do not fit together."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(20, 4)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(5, 5)])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.table(torch.arange(input_ids.shape[1]))[None]
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def test_the_longest_window_is_tried_as_far_as_positions_go() -> None:
    spec, device = Encoder(family="transformer", model="./some"), torch.device("cpu")
    network = Positions()

    def window(length: int) -> Window:
        return Window({"input_ids": np.zeros(length, dtype=np.int64)}, slice(0, length), length)

    try_positions(network, window(20), spec, device)  # the layers, which take the time, are not run
    with pytest.raises(UserError, match=r"model './some': does not take what its processor gives: 21 tokens: index"):
        try_positions(network, window(21), spec, device)
    with pytest.raises(RuntimeError):  # and what was put into it for that is taken out
        network(torch.zeros((1, 20), dtype=torch.int64))


# Pictures and videos


def test_of_two_towers_the_one_for_pictures_is_taken(
    load: Load, media: dict[str, Any], checkpoints: Path, tmp_path: Path
) -> None:
    clip = media["video"][0]
    whole = load("clip").alone(clip)
    alone = hf.CLIPVisionModel.from_pretrained(checkpoints / "clip")
    alone.save_pretrained(tmp_path / "tower")
    shutil.copy(checkpoints / "clip" / "preprocessor_config.json", tmp_path / "tower")
    np.testing.assert_array_equal(load("clip", tmp_path / "tower").alone(clip), whole)


def few(**more: Any) -> dict[str, Any]:
    return {key: value for key, value in SMALL.items() if key != "initializer_range"} | more


VISION = {
    "siglip": lambda: hf.SiglipModel(
        hf.SiglipConfig(
            text_config=few(vocab_size=20, bos_token_id=1, eos_token_id=2, pad_token_id=0),
            vision_config=few(image_size=SIZE, patch_size=16),
        )
    ),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**few(image_size=SIZE * 2, patch_size=16, mlp_ratio=2))),
    "beit": lambda: hf.BeitModel(hf.BeitConfig(**IMAGES)),
    "swin": lambda: hf.SwinModel(
        hf.SwinConfig(image_size=SIZE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
    ),
    "convnext": lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
    "deit": lambda: hf.DeiTModel(hf.DeiTConfig(**IMAGES)),
}
PROCESSORS = {
    "siglip": hf.SiglipImageProcessor(size={"height": SIZE, "width": SIZE}),
    "dinov2": hf.BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": SIZE, "width": SIZE}),
    "beit": hf.BeitImageProcessor(size={"height": SIZE, "width": SIZE}),
    "swin": hf.ViTImageProcessor(size={"height": SIZE, "width": SIZE}),
    "convnext": hf.ConvNextImageProcessor(size={"shortest_edge": SIZE}),
    "deit": hf.DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size={"height": SIZE, "width": SIZE}),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", VISION)
def test_backbones_see_frames_as_their_processors_show_them(name: str, nested: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = VISION[name]().eval()
    network.save_pretrained(tmp_path)
    PROCESSORS[name].save_pretrained(tmp_path)
    if nested:  # as processors that hold several are saved
        (tmp_path / "preprocessor_config.json").rename(tmp_path / "p")
        stated = {"image_processor": json.loads((tmp_path / "p").read_text()), "processor_class": "SomeProcessor"}
        (tmp_path / "processor_config.json").write_text(json.dumps(stated))
    spec = Encoder(family="image", model=str(tmp_path), n_frames=2)
    encoder = load_by_settings(spec, torch.device("cpu"))
    frames = np.random.default_rng(0).integers(0, 256, (4, 36, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mkv", frames, codec="ffv1", pixels="bgr0")
    form = read_image_format(spec, tmp_path, network.config.model_type)
    square = resize_and_crop([frames[1], frames[3]], SIZE, form.framing)
    pixels = (square / 255 - form.mean) / form.std
    seen = getattr(network, "vision_model", network)
    with torch.inference_mode():
        batch = torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)
        states = seen(pixel_values=batch, output_hidden_states=True).hidden_states[-1].numpy()
    expected = states.mean(axis=(2, 3)) if states.ndim == 4 else states.mean(axis=1)
    assert relative_error(encoder.alone(tmp_path / "a.mkv"), expected) <= 1e-5


@pytest.mark.parametrize(("frame", "sees"), [("processor", True), ("whole", True), ("square", False)])
def test_a_face_at_the_side_of_a_wide_frame(frame: str, sees: bool, load: Load, copy: Any, tmp_path: Path) -> None:
    folder = copy("vit")
    stated = {"size": {"height": SIZE, "width": SIZE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated | {"image_processor_type": "ViTImageProcessor"}))
    empty = np.full((2, 90, 160, 3), 90, dtype=np.uint8)
    face = empty.copy()
    face[:, 30:60, :30] = 220
    features = []
    for name, frames in (("empty", empty), ("face", face)):
        write_video(tmp_path / f"{name}.mkv", frames, codec="ffv1", pixels="bgr0")
        features.append(load("vit", folder, frame=frame, n_frames=1).alone(tmp_path / f"{name}.mkv"))
    assert (relative_error(*features) > 1e-3) == sees


@pytest.mark.parametrize("kind", ["space_only", "joint_space_time"])
def test_a_timesformer_of_another_attention(kind: str, load: Load, checkpoints: Path, tmp_path: Path) -> None:
    """With space_only, frames go through it one by one, and there is no token for the time between them."""
    torch.manual_seed(0)
    network = hf.TimesformerModel(hf.TimesformerConfig(**IMAGES, num_frames=4, attention_type=kind)).eval()
    network.save_pretrained(tmp_path)
    shutil.copy(checkpoints / "timesformer" / "preprocessor_config.json", tmp_path)
    encoder = load("timesformer", tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 4, SIZE, SIZE, 3), dtype=np.uint8)
    with torch.inference_mode():
        features = encoder.hidden({"images": torch.from_numpy(images)}, None)
        assert features.shape == (2, 4, 16)
        pixels = (images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
        batch = torch.tensor(pixels, dtype=torch.float32).permute(0, 1, 4, 2, 3)
        states = network(batch, output_hidden_states=True).hidden_states[-1]
    if kind == "space_only":
        expected = states[:, 1:].mean(dim=1).view(2, 4, 16)
        refused(
            load, "timesformer", tmp_path, "looks at each frame by itself .space_only. and cannot be cut", boundary=1
        )
    else:
        expected = torch.stack([states[:, [1 + p * 4 + t for p in range(4)]].mean(1) for t in range(4)], dim=1)
    assert relative_error(features.numpy(), expected.numpy()) <= 1e-5


# Folders


@pytest.mark.parametrize("name", ["bert", "deberta", "vit"])
def test_a_folder_of_sentence_transformers(name: str, load: Load, copy: Any, tmp_path: Path, media: Any) -> None:
    folder = tmp_path / "sentences"
    inside = folder / "0_Transformer"
    folder.mkdir()
    copy(name).rename(inside)
    modules = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    source = media[MODALITIES[name][0]][0]
    np.testing.assert_array_equal(load(name, folder).alone(source), load(name).alone(source))
    assert load(name, folder).fields["weights"] == load(name).fields["weights"]
    for other in ([], {}, [3], [{}], [{"path": "../other"}], [{"path": str(inside)}], [{"path": ".."}]):
        (folder / "modules.json").write_text(json.dumps(other))
        refused(load, name, folder, "modules.json: must list sentence-transformers' modules")
    (folder / "modules.json").write_text(json.dumps([{"path": "1_Pooling"}]))
    refused(load, name, folder, "no such model folder .expected a config.json in .*1_Pooling")


def test_weights_in_shards(load: Load, checkpoints: Path, tmp_path: Path, media: dict[str, Any]) -> None:
    for safe in (True, False):
        folder = tmp_path / str(safe)
        shutil.copytree(checkpoints / "bert", folder)
        state = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        stem, end = ("model", "safetensors") if safe else ("pytorch_model", "bin")
        names = sorted(state)
        where = {}
        for k, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
            file = f"{stem}-0000{k + 1}-of-00002.{end}"
            tensors = {name: state[name] for name in part}
            save_file(tensors, folder / file, {"format": "pt"}) if safe else torch.save(tensors, folder / file)
            where |= dict.fromkeys(part, file)
        (folder / f"{stem}.{end}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
        for text in media["text"][:2]:
            np.testing.assert_array_equal(load("bert", folder).alone(text), load("bert").alone(text))
        (folder / file).unlink()
        refused(load, "bert", folder, "cannot be loaded|not a whole")


@pytest.mark.parametrize("name", ["bert", "wav2vec2", "vit"])
def test_files_that_are_not_there(name: str, load: Load, copy: Any) -> None:
    """Cloned without Git LFS; a pipe, which nobody fills, in place of weights; an adapter beside its network."""
    folder = copy(name)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 440000000\n")
    refused(
        load, name, folder, "model.safetensors: stands for a file in Git LFS that was not fetched: run git lfs pull"
    )
    weights.unlink()
    (folder / "model.fp16.safetensors").write_bytes(content)  # not what from_pretrained looks for
    refused(load, name, folder, "holds no model.safetensors and no pytorch_model.bin")
    weights.write_bytes(content)
    os.mkfifo(folder / "more.json")
    refused(load, name, folder, "more.json: no regular file")
    (folder / "more.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    refused(load, name, folder, "holds an adapter .adapter_config.json.: merge it")


def test_names_of_tensors_that_begin_otherwise(load: Load, copy: Any, media: dict[str, Any]) -> None:
    """With the prefix of the architecture, as a network for a task has them, and with one that no loader knows."""
    folder = copy("bert")
    state = load_file(folder / "model.safetensors")
    save_file({f"bert.{name}": each for name, each in state.items()}, folder / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(load("bert", folder).alone(media["text"][0]), load("bert").alone(media["text"][0]))
    save_file({f"module.{name}": each for name, each in state.items()}, folder / "model.safetensors", {"format": "pt"})
    refused(load, "bert", folder, "not a whole bert checkpoint: .* are missing")
