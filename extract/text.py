"""Text encoders: BERT and any other encoder that ``AutoModel`` loads. A time step is a token."""

from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from configs import UserError
from configs.schema import Encoder
from extract.encoder import (
    ClipError,
    LoadedEncoder,
    Prepared,
    cannot_be_loaded,
    choose_hidden,
    drop_unused_layers,
    fingerprint_fields,
    load_network,
    try_out,
)
from extract.weights import find_folder, model_files

TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")  # a folder holds one of these


def load_text_encoder(spec: Encoder, device: torch.device) -> LoadedEncoder:
    """Args: spec, a ``text`` encoder of a profile. Raises UserError where it cannot be loaded."""
    if isinstance(spec.pooling, float):
        raise UserError(f"text.pooling = {spec.pooling:g}: a text has no duration; use none or mean")
    folder = find_folder(spec)
    network, config = load_network(spec, folder, (), device)
    drop_unused_layers(network, spec.layer)
    if not any(list(folder.glob(pattern)) for pattern in TOKENIZERS):  # transformers would make up an empty vocabulary
        raise UserError(f"model {spec.model!r}: holds no tokenizer ({', '.join(TOKENIZERS)})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise cannot_be_loaded(spec, error) from error
    positions = getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    # RoBERTa and its kin number positions from one past the padding index.
    padding = getattr(getattr(network, "embeddings", None), "padding_idx", None)
    max_tokens = min(tokenizer.model_max_length, positions - (0 if padding is None else padding + 1))

    def prepare(text: str) -> Prepared:
        encoded: dict[str, Any] = tokenizer(text, verbose=False)
        n_tokens = len(encoded["input_ids"])
        if n_tokens == 0:
            raise ClipError("the text has no tokens")
        if n_tokens > max_tokens:
            raise ClipError(f"{n_tokens} tokens, and {spec.model} takes {max_tokens}")
        return Prepared({name: np.array(values, dtype=np.int64) for name, values in encoded.items()})

    def hidden(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return choose_hidden(network(**inputs, output_hidden_states=True).hidden_states, spec)  # (batch, tokens, dim)

    fields = fingerprint_fields(spec, model_files(folder))  # the tokenizer's files are among them
    dim = try_out(hidden, prepare("a"), spec, device)
    return LoadedEncoder(dim, fields, prepare, hidden, spec.pooling, device)
