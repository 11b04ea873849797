"""Note what each head reads, so that a pipeline re-trains a head when that changes, and only then."""

import hashlib
import json
from pathlib import Path

from cache import claimed, publish_folder, read_sealed_json
from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load


def main(config: ConfigOption = None, overrides: OverrideArgument = None) -> None:
    """Write runs/PROFILE/inputs/HEAD.json for every head: the manifest's hash, the receipts of its stores and of
    their augmented views, and the metric that choices go by.

    DVC runs this between extraction and training: when the video encoder changes, only the notes of heads that read
    video change, and only those heads are trained again. Nothing else reads these files.
    """
    profile = load(config, overrides)
    if not profile.manifest_path.is_file():
        raise UserError(f"{profile.manifest_path}: not there; make it with: python extract/manifest.py")
    manifest = hashlib.sha256(profile.manifest_path.read_bytes()).hexdigest()
    folder = profile.run_dir / "inputs"
    notes = {}
    for name, head in profile.heads.items():
        stores = {}
        for encoder in head.stores:
            make_it = f"make it with: python extract/run.py --encoder {encoder}"
            for each in [encoder, *(profile.views_of(encoder) if head.views == "all" else [])]:
                receipt = profile.receipt_path(each)
                if not receipt.is_file():
                    raise UserError(f"{receipt}: not there; {make_it}")
                stores[each] = read_sealed_json(receipt, make_it)
        note = {"manifest_sha256": manifest, "stores": stores, "metric": profile.fusion.metric}
        notes[f"{name}.json"] = json.dumps(note, indent=2) + "\n"

    def write(fresh: Path) -> None:
        for name, note in notes.items():
            (fresh / name).write_text(note, encoding="utf-8")

    with claimed(folder):
        publish_folder(folder, write)
    print(f"{folder}: what {len(profile.heads)} heads read")


if __name__ == "__main__":
    command(main)
