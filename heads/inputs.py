"""Note what each head reads, so that a pipeline re-trains a head when that changes, and only then."""

import hashlib
import json

from cache import write_text_atomically
from configs import ConfigOption, OverrideArgument, UserError, command, load


def main(config: ConfigOption = None, overrides: OverrideArgument = None) -> None:
    """Write runs/PROFILE/inputs/HEAD.json for every head: the manifest's hash and the receipts of its stores.

    DVC runs this between extraction and training: when the video encoder changes, only the notes of heads that read
    video change, and only those heads are trained again. Nothing else reads these files.
    """
    profile = load(config, overrides)
    if not profile.manifest_path.is_file():
        raise UserError(f"{profile.manifest_path}: not there; make it with: python extract/manifest.py")
    manifest = hashlib.sha256(profile.manifest_path.read_bytes()).hexdigest()
    folder = profile.run_dir / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    for name, head in profile.heads.items():
        stores = {}
        for encoder in head.stores:
            receipt = profile.receipt_path(encoder)
            if not receipt.is_file():
                raise UserError(f"{receipt}: not there; make it with: python extract/run.py --encoder {encoder}")
            stores[encoder] = json.loads(receipt.read_text(encoding="utf-8"))
        note = json.dumps({"manifest_sha256": manifest, "stores": stores}, indent=2) + "\n"
        write_text_atomically(folder / f"{name}.json", note)
    print(f"{folder}: what {len(profile.heads)} heads read")


if __name__ == "__main__":
    command(main)
