"""Text encoders: BERT and any other encoder that ``AutoModel`` loads. A time step is a token."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from configs import UserError
from configs.schema import Encoder
from extract.encoders.checkpoints.network import load_network
from extract.encoders.checkpoints.tokenizer import load_tokenizer, most_tokens
from extract.encoders.checkpoints.weights import find_folder, model_files
from extract.encoders.encoder import (
    LoadedEncoder,
    Prepared,
    Window,
    fingerprint_fields,
    run_by,
    try_out,
    try_positions,
)
from extract.encoders.layers import HiddenStates, keep_needed_layers
from extract.encoders.networks import ReadyNetwork
from extract.media.reading import ClipError
from extract.media.texts import BETWEEN_TEXTS


def load_text_encoder(spec: Encoder, device: torch.device) -> LoadedEncoder:
    """Args: spec, a ``text`` encoder of a profile. Raises UserError where it cannot be loaded."""
    if isinstance(spec.pooling, float):
        raise UserError(f"pooling = {spec.pooling:g}: a text has no duration; use none or mean")
    folder = find_folder(spec)
    files = model_files(folder)
    network, _ = load_network(spec, folder, (), part="text")
    tokenizer = load_tokenizer(spec, folder)
    if spec.conversation and tokenizer.sep_token is None:
        raise UserError(f"conversation: the tokenizer of {spec.model} has no sep_token to put between texts")
    max_tokens = most_tokens(spec, tokenizer, network)
    keep_needed_layers(network, spec)
    ready = ReadyNetwork(network, spec.precision, device, spec.runtime)

    one_at_a_time = threading.Lock()  # a call that truncates would cut another thread's text, too

    def prepare(text: str) -> Prepared:
        if spec.conversation:
            text = _separated(text, tokenizer.sep_token)
        with one_at_a_time:
            return cut(spec.prefix + text)

    def cut(text: str) -> Prepared:
        encoded: dict[str, Any] = tokenizer(text, verbose=False)
        n_tokens = len(encoded["input_ids"])
        if n_tokens == 0:
            raise ClipError("the text has no tokens")
        if n_tokens <= max_tokens:
            whole = {name: np.array(values, dtype=np.int64) for name, values in encoded.items()}
            return Prepared([Window(whole, slice(0, n_tokens), n_tokens)], n_tokens)
        if not tokenizer.is_fast:
            raise ClipError(f"{n_tokens} tokens, {spec.model} takes {max_tokens}, and its tokenizer cuts no windows")
        windows = list(_windows(tokenizer, text, max_tokens, round(spec.overlap * max_tokens)))
        return Prepared(windows, n_tokens)

    def hidden(inputs: dict[str, torch.Tensor], lengths: list[int] | None) -> torch.Tensor:
        return states.choose(ready.hidden_states(inputs, lengths))  # (batch, tokens, dim)

    states = HiddenStates(spec)

    pad_values = None if tokenizer.pad_token_id is None else {"input_ids": tokenizer.pad_token_id}
    short, longer = (next(iter(prepare(text).windows)) for text in ("a", "a b c d " * 10))
    mixed = [short, longer] if pad_values and device.type == "cuda" else [short, short]  # as batches are made there
    _, dim = try_out(hidden, mixed, spec, device, pad_values)
    try_positions(ready.network, next(iter(prepare("a b c d " * max_tokens).windows)), spec, device)
    run, runtime = run_by(hidden, ready.network, spec, [(short, 2), (longer, 3)])
    settings = {"conversation": spec.conversation, "prefix": spec.prefix}
    more = runtime | {name: value for name, value in settings.items() if value}  # only where set, as the boundary is
    fields = fingerprint_fields(spec, files, overlap=spec.overlap, **more, **states.fields)  # the tokenizer's, too
    return LoadedEncoder(states.stored_width(dim), fields, None, prepare, None, run, spec, device, pad_values)


def _separated(joined: str, separator: str) -> str:
    """The tokenizer's own separator between the texts. One that is spelled out within a text is broken up by a space,
    since the tokenizer would take it for its own: nobody can write an utterance that reads as two."""
    spelled = f"{separator[0]} {separator[1:]}"
    return separator.join(text.replace(separator, spelled) for text in joined.split(BETWEEN_TEXTS))


def _windows(tokenizer: Any, text: str, max_tokens: int, overlap: int) -> Iterator[Window]:
    """Overlapping windows, each with the special tokens around it; kept are those of the text's two ends only.

    Of ``overlap`` tokens that two windows share, the first half is taken from the earlier one.
    """
    encoded = tokenizer(
        text,
        truncation=True,
        max_length=max_tokens,
        stride=overlap,
        return_overflowing_tokens=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    special = encoded.pop("special_tokens_mask")
    del encoded["overflow_to_sample_mapping"]
    n_windows = len(special)
    for k in range(n_windows):
        inputs = {name: np.array(values[k], dtype=np.int64) for name, values in encoded.items()}
        own = np.flatnonzero(np.array(special[k]) == 0)  # places of the text's tokens between the special ones
        first = 0 if k == 0 else int(own[0]) + overlap // 2
        stop = len(special[k]) if k == n_windows - 1 else int(own[-1]) + 1 - (overlap - overlap // 2)
        yield Window(inputs, slice(first, stop), len(special[k]))
