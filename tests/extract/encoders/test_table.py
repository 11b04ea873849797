"""Which networks are known to work, one line each in docs/encoders.md: what is written there is what ran here.

``ENCODER_TABLE=write pytest tests/extract/encoders/test_table.py`` writes it anew.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from checkpoints import FURTHER, MODALITIES, PICTURES, SIZE, save_further
from media_tools import Load, relative_error
from passes import batched
from plain_calls import plain_call
from shells import REPOSITORY

from configs import UserError
from extract.encoders.encoder import LoadedEncoder
from extract.encoders.layers import places_of_tail
from extract.media.framing import MIDDLE_SQUARE

PAGE = REPOSITORY / "docs" / "encoders.md"
BEGIN = "| network | `family` | several lengths in one batch | `boundary` | what its processor does |"
NAMES = {
    "wav2vec2": "Wav2Vec2, group norm (base)",
    "wav2vec2-layer": "Wav2Vec2, layer norm (large, XLS-R)",
    "hubert": "HuBERT",
    "hubert-batch-norm": "HuBERT, batch norm before its positions",
    "wavlm": "WavLM, group norm (base, base-plus)",
    "wavlm-layer": "WavLM, layer norm (large)",
    "unispeech": "UniSpeech",
    "unispeech-sat": "UniSpeech-SAT",
    "data2vec-audio": "data2vec-audio",
    "wav2vec2-bert": "w2v-BERT 2.0",
    "whisper": "Whisper, its encoder",
    "timesformer": "TimeSformer",
    "videomae": "VideoMAE",
    "vit": "ViT",
    "resnet": "ResNet",
    "convnext": "ConvNeXt",
    "clip": "CLIP, both towers or that of pictures",
    "siglip": "SigLIP, both towers or that of pictures",
    "dinov2": "DINOv2",
    "dinov3": "DINOv3, ViT",
    "bert": "BERT",
    "e5": "E5 and other sentence encoders, as sentence-transformers lays them out",
    "distilbert": "DistilBERT",
    "roberta": "RoBERTa",
    "mpnet": "MPNet",
    "modernbert": "ModernBERT",
    "deberta": "DeBERTa-v2, v3",
    "xlm-roberta": "XLM-R, multilingual E5",
    "albert": "ALBERT",
    "xlnet": "XLNet",
    "t5": "T5, its encoder",
}


@pytest.fixture(scope="module")
def further(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_further(tmp_path_factory.mktemp("further"))


def write(name: str, line: str) -> None:
    """One line of the table; what stands above it stays."""
    intro = PAGE.read_text().partition(BEGIN)[0] if PAGE.is_file() else ""
    known = {key: lines().get(NAMES[key]) for key in NAMES} | {name: line}
    rule = "|".join(["", *["---"] * (BEGIN.count("|") - 1), ""])
    PAGE.write_text("\n".join([intro + BEGIN, rule, *filter(None, known.values()), ""]))


def lines() -> dict[str, str]:
    """The table's lines as they stand, by the network's name."""
    text = PAGE.read_text() if PAGE.is_file() else ""
    return {found[1]: found[0] for found in re.finditer(r"^\| ([^|]+?) \|.*$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("name", NAMES)
def test_a_line_says_what_ran(
    name: str, load: Load, checkpoints: Path, further: Path, media: dict[str, list[Any]], tmp_path: Path
) -> None:
    folder = (further if name in FURTHER else checkpoints) / name
    if name in PICTURES:  # with the processor that is published with it
        folder = Path(shutil.copytree(folder, tmp_path / name))
        (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES[name]))
    encoder = load(name, folder)
    if name in FURTHER or name in PICTURES:  # the others go through all of test_encoders.py
        check_values(name, encoder, folder, media)
    line = row(name, encoder, folder)
    if os.environ.get("ENCODER_TABLE") == "write":
        write(name, line)
    assert lines().get(NAMES[name]) == line, "docs/encoders.md is out of date: see the head of this file"


def test_every_checkpoint_has_a_line() -> None:
    assert NAMES.keys() == MODALITIES.keys() | FURTHER.keys()
    assert set(NAMES.values()) <= lines().keys()


def check_values(name: str, encoder: LoadedEncoder, folder: Path, media: dict[str, list[Any]]) -> None:
    """Alone, batched, in a GPU's padded batches, and by hand: the same."""
    sources = [media[encoder.spec.modality][i] for i in (0, 1, 2)]
    framing = getattr(encoder.task, "framing", MIDDLE_SQUARE)
    by_one = [encoder.alone(source) for source in sources]
    for device in ("cpu", "cuda") if encoder.pad_values is not None else ("cpu",):
        for features, alone in zip(batched(encoder, sources, device), by_one, strict=True):
            assert relative_error(features, alone) <= 1e-5
    assert relative_error(by_one[1], plain_call(name, folder, sources[1], -1, framing)) <= 1e-5


def row(name: str, encoder: LoadedEncoder, folder: Path) -> str:
    modality, family = (MODALITIES | FURTHER)[name]
    boundary = "yes" if can_be_cut(encoder, folder) else "no"
    padded = "" if modality == "video" else "yes" if encoder.pad_values is not None else "no"
    needs = {"audio": audio_needs, "video": video_needs, "text": text_needs}[modality](encoder, folder)
    return f"| {NAMES[name]} | `{family}` | {padded} | {boundary} | {needs} |"


def can_be_cut(encoder: LoadedEncoder, folder: Path) -> bool:
    with torch.device("meta"):
        network = hf.AutoModel.from_config(hf.AutoConfig.from_pretrained(folder))
    try:
        places_of_tail(network, encoder.spec.model_copy(update={"boundary": 1}))
    except UserError as error:
        if "cannot be cut" not in str(error):
            raise
        return False
    return True


def audio_needs(encoder: LoadedEncoder, folder: Path) -> str:
    processor = encoder.fields["processor"]
    kind = processor["feature_extractor_type"]
    scaled = {
        "WhisperFeatureExtractor": "logarithmic mel spectrum of 30 s, or with `context: clip` of the clip",
        "SeamlessM4TFeatureExtractor": "Kaldi's mel energies, each filter scaled over the clip",
        "Wav2Vec2FeatureExtractor": "samples, scaled over the clip where it says `do_normalize`",
    }[kind]
    return f"`{kind}`, {processor['sampling_rate']} Hz: {scaled}"


def video_needs(encoder: LoadedEncoder, folder: Path) -> str:
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    framing = getattr(encoder.task, "framing", MIDDLE_SQUARE)
    if framing.squeeze:
        shown = "all of a frame, squeezed"
    else:
        shown = (
            "the middle of a frame" if framing.scaled in (None, SIZE) else "a little less than the middle of a frame"
        )
    return f"`{stated['image_processor_type']}`: {shown}"


def text_needs(encoder: LoadedEncoder, folder: Path) -> str:
    files = sorted(path.name for path in folder.iterdir() if path.suffix == ".model" or path.name == "tokenizer.json")
    return f"`{files[0]}`"
