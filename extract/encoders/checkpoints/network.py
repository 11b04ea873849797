"""The network of a checkpoint's folder, or the part of it that an encoder is made of."""

import os
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from configs import UserError, one_line
from configs.outside import read_json
from configs.schema import Encoder

DOES_NOT_IMPORT = (ImportError, OSError, RuntimeError)


def _import_torchaudio() -> None:
    """transformers does so wherever there are sounds or pictures. Where it fails, it is mended, once, and that is said.

    Raises:
        UserError: it does not import even so.
    """
    with suppress(*DOES_NOT_IMPORT):
        import_module("torchaudio")
        return
    # A process of its own: it looks for what fails, and scripts are imported by nobody.
    home = str(Path(__file__).parents[3])
    paths = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    mending = [sys.executable, "-P", "-m", "extract.mend_torchaudio"]
    done = subprocess.run(mending, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    print(f"note: {one_line(done.stdout or done.stderr, 400)}", file=sys.stderr)
    try:
        import_module("torchaudio")
    except DOES_NOT_IMPORT as error:
        reason = one_line(error, 200)
        raise UserError(f"torchaudio does not import here: run python extract/mend_torchaudio.py ({reason})") from error


if find_spec("torchaudio") is not None:
    _import_torchaudio()

UNUSED_WEIGHTS = ("pooler.", "masked_spec_embed", "mask_token")  # no hidden state depends on them at inference
# What libraries raise of files that make no sense: they check little of what they read.
FAULTS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    ImportError,
    AssertionError,
    MemoryError,
    SafetensorError,
    StrictDataclassError,
)


def load_network(
    spec: Encoder,
    folder: Path,
    model_types: tuple[str, ...],
    part: Literal["vision", "text"] | None = None,
    **changes: Any,
) -> tuple[Any, PretrainedConfig]:
    """``AutoModel.from_pretrained`` on a folder, in fp32; the folder's architecture must be the family's.

    Args:
        model_types: those that the family takes; none: any.
        part: of a network with two towers (CLIP, SigLIP) the one to take; of one with an encoder and a decoder (T5),
            ``text`` takes the encoder.
        changes: entries of the configuration that replace the folder's; those that it does not have change nothing.

    Raises:
        UserError: it cannot be read, is of another family, or lacks weights, which would silently be random.
    """
    disable_progress_bar()
    set_verbosity_error()  # what is missing is said below; what there is besides, is of no use here
    stated = read_json(folder / "config.json")
    if not isinstance(stated, dict):
        raise UserError(f"{folder / 'config.json'}: must be a JSON object, the settings of a network")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **changes)
        if model_types and config.model_type not in model_types:
            raise UserError(f"model {spec.model!r}: holds a {config.model_type} model, but family is {spec.family}")
        has_decoder = part == "text" and getattr(config, "is_encoder_decoder", False)
        lone_encoder = has_decoder and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
        network, report = (AutoModelForTextEncoding if lone_encoder else AutoModel).from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
        if has_decoder:
            network = network.get_encoder()
        elif hasattr(config, f"{part}_config"):
            network = getattr(network, f"{part}_model", network)
    except UnpicklingError as error:
        raise UserError(f"model {spec.model!r}: its .bin file holds more than tensors, and is not unpickled") from error
    except FAULTS as error:
        raise cannot_be_loaded(spec, error) from error
    absent = sorted(name for name in report["missing_keys"] if not any(part in name for part in UNUSED_WEIGHTS))
    if absent:
        raise UserError(
            f"model {spec.model!r}: not a whole {config.model_type} checkpoint: {len(absent)} of its weights are "
            f"missing, {absent[0]} for one"
        )
    return network, network.config


def cannot_be_loaded(spec: Encoder, error: Exception) -> UserError:
    return UserError(f"model {spec.model!r}: cannot be loaded: {one_line(error, 300)}")
