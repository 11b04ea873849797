"""Tiny checkpoints with random weights, for tests only: what is checked is that nothing between a file and a store
changes what the network says."""

import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

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
# One group: with 4 to 12 channels a group oneDNN's bfloat16 convolution is wrong on processors with AMX (real networks
# have 48 or 64).
CONVOLUTIONS = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 1}
WAVES: dict[str, Any] = {**SMALL, **CONVOLUTIONS}
IMAGES: dict[str, Any] = {**SMALL, "image_size": SIZE, "patch_size": 16, "num_channels": 3}
# What SentencePiece models of published checkpoints begin with; the file's name, too, is the architecture's own.
PIECES: dict[str, tuple[str, dict[str, Any]]] = {
    "deberta": (
        "spm.model",
        {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
        | {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
    ),
    "xlm-roberta": ("sentencepiece.bpe.model", {}),
    "albert": (
        "spiece.model",
        {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]},
    ),
    "xlnet": ("spiece.model", {"control_symbols": ["<cls>", "<sep>", "<pad>", "<mask>"]}),
    "t5": ("spiece.model", {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}),
}
MODALITIES = {  # checkpoint: (modality, family)
    "wav2vec2": ("audio", "wav2vec2"),
    "wav2vec2-layer": ("audio", "wav2vec2"),
    "hubert": ("audio", "hubert"),
    "hubert-batch-norm": ("audio", "hubert"),
    "wavlm": ("audio", "wavlm"),
    "wavlm-layer": ("audio", "wavlm"),
    "whisper": ("audio", "whisper"),
    "timesformer": ("video", "timesformer"),
    "videomae": ("video", "videomae"),
    "vit": ("video", "image"),
    "resnet": ("video", "image"),
    "clip": ("video", "image"),
    "bert": ("text", "transformer"),
    "distilbert": ("text", "transformer"),
    "roberta": ("text", "transformer"),
    **dict.fromkeys(PIECES, ("text", "transformer")),
}

# Further ones: of each, the same is tested once (test_table.py).
FURTHER = {
    "unispeech": ("audio", "unispeech"),
    "unispeech-sat": ("audio", "unispeech-sat"),
    "data2vec-audio": ("audio", "data2vec-audio"),
    "wav2vec2-bert": ("audio", "wav2vec2-bert"),
    "siglip": ("video", "image"),
    "dinov2": ("video", "image"),
    "dinov3": ("video", "image"),
    "convnext": ("video", "image"),
    "modernbert": ("text", "transformer"),
    "e5": ("text", "transformer"),
    "mpnet": ("text", "transformer"),
}
BOTH = {"height": SIZE, "width": SIZE}
PICTURES: dict[str, dict[str, Any]] = {  # what published checkpoints of these state, but for the size and the values
    name: {**stated, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    for name, stated in {
        "vit": {"image_processor_type": "ViTImageProcessor", "size": BOTH},
        "resnet": {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": SIZE},
            "crop_pct": 0.875,
        },
        "convnext": {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": SIZE},
            "crop_pct": 0.875,
        },
        "clip": {
            "image_processor_type": "CLIPImageProcessor",
            "do_center_crop": True,
            "crop_size": BOTH,
            "size": {"shortest_edge": SIZE},
        },
        "siglip": {"image_processor_type": "SiglipImageProcessor", "size": BOTH},
        "dinov2": {
            "image_processor_type": "BitImageProcessor",
            "do_center_crop": True,
            "crop_size": BOTH,
            "size": {"shortest_edge": SIZE * 256 // 224},
        },
        "dinov3": {
            "image_processor_type": "DINOv3ViTImageProcessorFast",
            "size": BOTH,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "rescale_factor": 0.00392156862745098,
            "resample": 2,
        },
    }.items()
}


def save_checkpoints(root: Path, names: list[str] | None = None) -> Path:
    """A folder below ``root`` for a tiny model of every family, or of some, as ``save_pretrained`` writes it."""
    torch.manual_seed(0)
    return _save(root, _networks(), names)


def save_further(root: Path) -> Path:
    """The same for the further ones."""
    torch.manual_seed(0)
    return _save(root, _further(), None)


def _save(root: Path, networks: dict[str, Any], names: list[str] | None) -> Path:
    for name, network in networks.items():
        if names is None or name in names:
            network.save_pretrained(root / name)
            _save_processor(name, root / name)
    return root


def network_of(name: str, folder: Path) -> Any:
    """What of a checkpoint is its encoder, as transformers itself gives it."""
    if name == "t5":
        return hf.T5EncoderModel.from_pretrained(folder, dtype=torch.float32)
    network = hf.AutoModel.from_pretrained(folder, dtype=torch.float32)
    if name == "whisper":
        return network.encoder
    return network.vision_model if name in ("clip", "siglip") else network


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
    pieces: dict[str, Any] = {**SMALL, "vocab_size": 160}
    few = {
        name: SMALL[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    }
    both = hf.CLIPConfig(
        text_config={**few, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        vision_config={**few, "image_size": SIZE, "patch_size": 16},
    )
    return {
        "wav2vec2": hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVES, feat_extract_norm="group")),
        "wav2vec2-layer": hf.Wav2Vec2Model(
            hf.Wav2Vec2Config(**WAVES, feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True)
        ),
        "hubert": hf.HubertModel(hf.HubertConfig(**WAVES)),
        "hubert-batch-norm": _with_statistics(hf.HubertModel(hf.HubertConfig(**WAVES, conv_pos_batch_norm=True))),
        "wavlm": hf.WavLMModel(hf.WavLMConfig(**WAVES, feat_extract_norm="group")),
        "wavlm-layer": hf.WavLMModel(
            hf.WavLMConfig(**WAVES, feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True)
        ),
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
        "clip": hf.CLIPModel(both),
        "deberta": hf.DebertaV2Model(
            hf.DebertaV2Config(
                **pieces,
                relative_attention=True,
                position_buckets=8,
                norm_rel_ebd="layer_norm",
                share_att_key=True,
                pos_att_type=["p2c", "c2p"],
                position_biased_input=False,
                max_position_embeddings=64,
                type_vocab_size=0,
            )
        ),
        "xlm-roberta": hf.XLMRobertaModel(hf.XLMRobertaConfig(**pieces, max_position_embeddings=66)),
        "albert": hf.AlbertModel(hf.AlbertConfig(**pieces, embedding_size=8, max_position_embeddings=64)),
        "xlnet": hf.XLNetModel(hf.XLNetConfig(vocab_size=160, d_model=16, n_layer=2, n_head=2, d_inner=32)),
        "t5": hf.T5Model(hf.T5Config(vocab_size=160, d_model=16, num_layers=2, num_heads=2, d_ff=32, d_kv=8)),
    }


def _further() -> dict[str, Any]:
    few = {
        name: SMALL[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    }
    words = {"vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    towers = {"text_config": few | words, "vision_config": {**few, "image_size": SIZE, "patch_size": 16}}
    pixels = {"image_size": SIZE, "patch_size": 16}
    data2vec = {**SMALL, "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 3, "num_conv_pos_embedding_groups": 1}
    return {
        "unispeech": hf.UniSpeechModel(hf.UniSpeechConfig(**WAVES)),
        "unispeech-sat": hf.UniSpeechSatModel(hf.UniSpeechSatConfig(**WAVES)),
        "data2vec-audio": hf.Data2VecAudioModel(hf.Data2VecAudioConfig(**data2vec, conv_pos_kernel_size=5)),
        "wav2vec2-bert": hf.Wav2Vec2BertModel(
            hf.Wav2Vec2BertConfig(
                **SMALL, feature_projection_input_dim=32, left_max_position_embeddings=8, conv_depthwise_kernel_size=5
            )
        ),
        "siglip": hf.SiglipModel(hf.SiglipConfig(**towers)),
        "dinov2": hf.Dinov2Model(hf.Dinov2Config(**few, **pixels, mlp_ratio=2)),
        "dinov3": hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**few, **pixels, num_register_tokens=2)),
        "convnext": hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2)),
        "modernbert": hf.ModernBertModel(
            hf.ModernBertConfig(
                **few,
                vocab_size=len(WORDS),
                max_position_embeddings=24,
                global_attn_every_n_layers=2,
                local_attention=4,
                pad_token_id=0,
                cls_token_id=2,
                sep_token_id=3,
                bos_token_id=2,
                eos_token_id=3,
            )
        ),
        "e5": hf.BertModel(hf.BertConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=24)),
        "mpnet": hf.MPNetModel(hf.MPNetConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=26)),
    }


def _with_statistics(network: Any) -> Any:
    """Batch normalisation as after training: it maps zero to something else."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network


def _save_processor(name: str, folder: Path) -> None:
    modality, family = (MODALITIES | FURTHER)[name]
    if family == "whisper":
        hf.WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder)
    elif family == "wav2vec2-bert":
        hf.SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16).save_pretrained(folder)
    elif name in FURTHER and modality == "video":
        (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES[name]))
    elif modality == "audio":
        with_mask = name == "wav2vec2-layer"
        hf.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=with_mask).save_pretrained(folder)
    elif modality == "video":
        stated = {
            "image_processor_type": "VideoMAEImageProcessor",
            "do_center_crop": True,
            "size": {"shortest_edge": SIZE},
            "crop_size": {"height": SIZE, "width": SIZE},
            "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.2, 0.25, 0.3],
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    elif name in PIECES and find_spec("sentencepiece") is None:
        return  # on a GPU machine, where the networks alone are tested
    elif name in PIECES:
        file, symbols = PIECES[name]
        (folder / file).write_bytes(sentence_pieces(**symbols))
    else:
        _word_pieces().save_pretrained(folder)
        if name == "e5":  # as sentence-transformers lays it out: its network lies in the folder itself
            (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": ""}]))


def sentence_pieces(**symbols: Any) -> bytes:
    """A SentencePiece model of a few dozen pieces; ``symbols``: the trainer's options for special ones."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["I am so very happy today, and you are not!", "sad. angry. A very sad day it is"] * 9),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        **symbols,
    )
    return model.getvalue()


def _word_pieces() -> hf.PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
