"""Tiny checkpoints with random weights, small media files, and the ways in that users take. Random weights are for
tests only: what is checked is that nothing between a file and a store changes what the network says."""

import json
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from cache import StoreError
from configs import command
from configs.schema import Encoder
from extract.encoder import LoadedEncoder
from extract.run import LOADERS, main

SIZE = 32  # pixels of the tiny video models
N_FRAMES = 4
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "i", "am", "so", "very", "happy", "sad", "angry", "today"]
WORDS += ["and", "you", "are", "not", "##ly", "##er", "!", ".", ","]
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.2,
}
CONVOLUTIONS = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
WAVES: dict[str, Any] = {**SMALL, **CONVOLUTIONS}
IMAGES: dict[str, Any] = {**SMALL, "image_size": SIZE, "patch_size": 16, "num_channels": 3}
MODALITIES = {  # checkpoint: (modality, family)
    "wav2vec2": ("audio", "wav2vec2"),
    "wav2vec2-layer": ("audio", "wav2vec2"),
    "hubert": ("audio", "hubert"),
    "wavlm": ("audio", "wavlm"),
    "whisper": ("audio", "whisper"),
    "timesformer": ("video", "timesformer"),
    "videomae": ("video", "videomae"),
    "vit": ("video", "image"),
    "resnet": ("video", "image"),
    "bert": ("text", "transformer"),
    "distilbert": ("text", "transformer"),
    "roberta": ("text", "transformer"),
}
Load = Callable[..., LoadedEncoder]
Run = Callable[..., tuple[int, str, str]]


def _networks() -> dict[str, Any]:
    whisper = hf.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=16,
        max_source_positions=50,  # 1 s
        vocab_size=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        init_std=0.2,
    )
    distilled = hf.DistilBertConfig(vocab_size=len(WORDS), dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    video = {**IMAGES, "num_frames": N_FRAMES}
    return {
        "wav2vec2": hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVES, feat_extract_norm="group")),
        "wav2vec2-layer": hf.Wav2Vec2Model(
            hf.Wav2Vec2Config(**WAVES, feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True)
        ),
        "hubert": hf.HubertModel(hf.HubertConfig(**WAVES)),
        "wavlm": hf.WavLMModel(hf.WavLMConfig(**WAVES)),
        "whisper": hf.WhisperModel(whisper),
        "timesformer": hf.TimesformerModel(hf.TimesformerConfig(**video)),
        "videomae": hf.VideoMAEModel(hf.VideoMAEConfig(**video, tubelet_size=2)),
        "vit": hf.ViTModel(hf.ViTConfig(**IMAGES)),
        "resnet": hf.ResNetModel(
            hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
        ),
        "bert": hf.BertModel(hf.BertConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=24)),
        "distilbert": hf.DistilBertModel(distilled),
        "roberta": hf.RobertaModel(
            hf.RobertaConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=22, pad_token_id=1)
        ),
    }


def _save_processor(name: str, folder: Path) -> None:
    modality, family = MODALITIES[name]
    if family == "whisper":
        hf.WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder)
    elif modality == "audio":
        with_mask = name == "wav2vec2-layer"
        hf.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=with_mask).save_pretrained(folder)
    elif modality == "video":
        stated = {
            "do_center_crop": True,
            "size": {"shortest_edge": SIZE},
            "crop_size": {"height": SIZE, "width": SIZE},
            "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.2, 0.25, 0.3],
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    else:
        _word_pieces().save_pretrained(folder)


def _word_pieces() -> hf.PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a tiny model of every family, each as ``save_pretrained`` writes it."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for name, network in _networks().items():
        network.save_pretrained(root / name)
        _save_processor(name, root / name)
    return root


@pytest.fixture
def load(checkpoints: Path) -> Load:
    """``load(checkpoint, **settings)``: the encoder, as a profile would have it loaded."""

    def build(name: str, model: Path | str | None = None, **settings: Any) -> LoadedEncoder:
        modality, family = MODALITIES[name]
        if family == "whisper":
            settings = {"max_seconds": 1, **settings}
        settings = {"family": family, "model": str(model or checkpoints / name), **settings}
        return LOADERS[modality](Encoder(**settings), torch.device("cpu"))  # type: ignore[index]

    return build


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Eight clips of each modality; some share their length and some do not."""
    root = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    clips: dict[str, list[Any]] = {"audio": [], "video": [], "text": []}
    for i, n_samples in enumerate([3200, 5000, 3200, 400, 9111, 5000, 3200, 16000]):
        clips["audio"].append(root / f"{i}.wav")
        soundfile.write(clips["audio"][-1], rng.normal(scale=0.1, size=n_samples), 16000, subtype="PCM_16")
    for i, n in enumerate([6, 9, 4, 2, 12, 5, 1, 8]):
        clips["video"].append(root / f"{i}.mkv")
        noise = rng.integers(0, 256, (n, 4, 5, 3), dtype=np.uint8).repeat(10, axis=1).repeat(10, axis=2)
        write_video(clips["video"][-1], noise, codec="ffv1", pixels="bgr0")
    for length in [3, 1, 3, 5, 8, 5, 3, 12]:
        clips["text"].append(" ".join(rng.choice(WORDS[5:18], length)))
    return clips


def write_video(
    path: Path,
    images: np.ndarray,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    **options: str,
) -> None:
    """Images (n, height, width, 3) as a video, each from its time on (in seconds; default: 10 a second)."""
    times = [i / 10 for i in range(len(images))] if times is None else times
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(*arguments)``: extract/run.py's command line in this process; exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command(main, StoreError)
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call
