"""The tokenizer of a checkpoint's folder, and how long a text its network takes."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from configs import UserError
from configs.outside import read_json, read_outside
from configs.schema import Encoder
from extract.encoders.checkpoints.network import FAULTS, cannot_be_loaded

TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model", "bpe.codes")
SAMPLE = "A b, \u00e9 \u4f60 \U0001f642 12"  # letters of several scripts: an unknown one must have a token
LONGEST = 10**6  # tokens that any network takes
UNLIMITED = 512  # tokens of a window where a network names no limit; those of this kind were trained on as many


def load_tokenizer(spec: Encoder, folder: Path) -> Any:
    """``AutoTokenizer.from_pretrained`` on a folder: a ``tokenizer.json``, or what its architecture had before
    (``vocab.txt``, ``vocab.json`` with ``merges.txt``, a SentencePiece model).

    Raises:
        UserError: its files make no tokenizer, or hold none: transformers would make up an empty vocabulary.
    """
    if (folder / "tokenizer_config.json").is_file() and not isinstance(
        read_json(folder / "tokenizer_config.json"), dict
    ):
        raise UserError(f"{folder / 'tokenizer_config.json'}: must be a JSON object, the settings of a tokenizer")
    if not (folder / "tokenizer.json").is_file():
        for path in sorted(folder.glob("*.model")):
            import sentencepiece  # only where a tokenizer has no other file

            content = read_outside(path)
            try:
                pieces = sentencepiece.SentencePieceProcessor(model_proto=content).get_piece_size() if content else 0
            except RuntimeError:
                pieces = 0
            if not pieces:
                raise UserError(f"{path}: is no SentencePiece model, and there is no tokenizer.json")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer(SAMPLE)
    except FAULTS as error:
        if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
            raise UserError(f"model {spec.model!r}: holds no tokenizer ({', '.join(TOKENIZERS)})") from error
        raise cannot_be_loaded(spec, error) from error
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library raises nothing more particular
            raise
        raise cannot_be_loaded(spec, error) from error
    names = set(tokenizer.vocab_files_names.values())
    if names and not any((folder / name).is_file() for name in names):
        read = ", ".join(sorted(names))
        raise UserError(f"model {spec.model!r}: holds no tokenizer: a {type(tokenizer).__name__} reads one of {read}")
    return tokenizer


def most_tokens(spec: Encoder, tokenizer: Any, network: Any) -> int:
    """Tokens of the longest window that the network takes, special ones counted.

    Raises:
        UserError: the tokenizer knows tokens that the network does not, or a window has no room for any text.
    """
    table = network.get_input_embeddings()
    rows = getattr(table, "num_embeddings", None)
    largest = max(tokenizer.get_vocab().values(), default=0)
    if rows is not None and largest >= rows:
        raise UserError(
            f"model {spec.model!r}: its tokenizer and its network do not fit: token {largest}, but {rows} embeddings"
        )
    limit = getattr(network.config, "max_position_embeddings", None)
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float) or not longest >= 1:
        raise UserError(f"model {spec.model!r}: model_max_length: {longest!r} of its tokenizer is no number of tokens")
    limits = [longest]
    if isinstance(limit, int) and limit > 0:  # XLNet's is -1: none
        # RoBERTa and its kin number positions from one past the padding index.
        padding = getattr(getattr(network, "embeddings", None), "padding_idx", None)
        limits.append(limit - (0 if padding is None else padding + 1))
    most = int(min(*limits, LONGEST))
    if most == LONGEST:  # transformers writes 10**30 for "not stated"
        most = UNLIMITED
    room = most - tokenizer.num_special_tokens_to_add()
    if room < 1:
        raise UserError(f"model {spec.model!r}: takes {most} tokens at once: no room for a text between special ones")
    if round(spec.overlap * most) >= room:
        raise UserError(
            f"overlap = {spec.overlap:g}: of windows of {most} tokens, of which {room} are text; make it smaller"
        )
    return most
