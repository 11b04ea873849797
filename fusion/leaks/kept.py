"""What heads trained on permuted labels were found to reach, kept for audits that do not train them again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cache import Store, read_sealed_json, write_sealed_json
from configs.schema import Profile
from fusion.leaks.outputs import Check


def state(profile: Profile, heads: Sequence[str]) -> str:
    """The hash of what decides the result: manifest, stores, the heads and how they are fused."""
    encoders = sorted({name for head in heads for name in profile.heads[head].stores})
    parts = {
        "manifest": hashlib.sha256(profile.manifest_path.read_bytes()).hexdigest(),
        "stores": {name: Store(profile.store_path(name)).fingerprint for name in encoders},
        "heads": {head: profile.heads[head].model_dump(mode="json") for head in heads},
        "fusion": profile.fusion.model_dump(mode="json"),
        "folds": profile.folds,
        "seed": profile.seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def keep(profile: Profile, heads: Sequence[str], runs: int, checks: Sequence[Check]) -> None:
    about = {"state": state(profile, heads), "runs": runs, "heads": list(heads)}
    write_sealed_json(_path(profile), about | {"checks": [asdict(check) for check in checks]})


def kept(profile: Profile) -> tuple[list[Check], int, list[str]] | str:
    """The checks, how often labels were permuted and for which heads; or why there is nothing to take.

    Raises:
        StoreError: the file is not as it was written.
    """
    path = _path(profile)
    if not path.is_file():
        return (
            "Heads were not trained on permuted labels: python fusion/audit.py does it, in about the time of training."
        )
    found = read_sealed_json(path, "delete it, and run python fusion/audit.py")
    heads = found["heads"]
    if not set(heads) <= set(profile.heads) or state(profile, heads) != found["state"]:
        return (
            "Heads were trained on permuted labels with other data or settings: python fusion/audit.py does it again."
        )
    return [Check(**check) for check in found["checks"]], found["runs"], heads


def _path(profile: Profile) -> Path:
    return profile.run_dir / "permutation.json"
