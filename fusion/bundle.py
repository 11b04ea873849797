"""Collect a trained stack in one verified folder."""

from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from fusion.report.card import write_card
from fusion.serving.bundle import make_bundle, open_bundle


def main(config: ConfigOption = None, overrides: OverrideArgument = None) -> None:
    """Collect the trained stack of a profile in one folder: runs/PROFILE/bundle, for fusion/predict.py.

    What the fusion needs is in it: the resolved profile, every fused head with its vocabularies, temperatures, the
    fitted fusion, a model card (README.md), and the checksums of all these files. Encoders' weights are not: they are
    found as the profile says, and refused if they are not those that the heads were trained on. The folder can be
    copied to another machine.
    """
    profile = load(config, overrides)
    folder = profile.run_dir / "bundle"
    make_bundle(profile, folder, lambda fresh: write_card(profile, fresh))
    bundle = open_bundle(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    names = ", ".join(head.name for head in bundle.heads)
    names += "".join(f" and the plain baseline of {head.name}" for head in bundle.baselines)
    foreign = [name for name in bundle.stored if profile.encoders[name].source]
    if foreign:
        print(f"{', '.join(foreign)}: features that were computed elsewhere: of new clips they are missing")
    print(f"{folder}: heads {names}; {size / 2**20:.1f} MiB; sha256 {bundle.digest[:16]}")


if __name__ == "__main__":
    command(main)
