"""Look for leaks: what could make scores look better than they are."""

import hashlib
from typing import Annotated

import typer
from tqdm import tqdm

from cache import claimed
from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from configs.schema import Profile
from extract.corpora.manifest import read_manifest
from fusion.report.provenance import all_failed

LEAKS = 4  # the exit code where a check fails


def main(
    config: ConfigOption = None,
    permutations: Annotated[
        int, typer.Option(min=1, help="How often labels are permuted and all heads trained on them. More see more.")
    ] = 1,
    heads: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEAD", help="A head to train on permuted labels; repeat for more. Default: all without fine_tune."
        ),
    ] = None,
    permutation: Annotated[
        bool,
        typer.Option(
            help="Train heads on permuted labels, the part that takes time. Without it, what an earlier audit found is "
            "taken where data and settings are the same."
        ),
    ] = True,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 also where a check fails.")] = False,
    overrides: OverrideArgument = None,
) -> None:
    """Look for leaks in a profile's data, heads and fusion; give each check a verdict and the number behind it.

    Do splits or folds share conversations, speakers, texts or media files? Is the label told by metadata alone, by
    knowing who speaks, by privileged fields that a head reads? Are trained heads better out of fold than on val and
    test, because features have met the labels? And does the whole stack, trained on permuted labels, fall to chance,
    as it must? Heads are trained for that in their folds, which takes about as long as training them; their own folders
    are not touched.

    Writes audit.json and audit.txt into runs/PROFILE/audit, and keeps what permuted labels gave in
    runs/PROFILE/permutation.json. Exits with 4 where a check fails.
    """
    profile = load(config, overrides)
    with claimed(profile.run_dir / "audit"):
        _audit(profile, heads or [], permutation, permutations, exit_zero)


def _audit(profile: Profile, heads: list[str], permutation: bool, permutations: int, exit_zero: bool) -> None:
    chosen, left_out = _heads(profile, heads)
    manifest = read_manifest(profile.manifest_path)

    # scikit-learn and torch take seconds to import: help and mistakes should not wait for them
    from fusion.leaks.outputs import skipped, table, worst, write_audit
    from fusion.leaks.overlap import overlap_checks
    from fusion.leaks.probes import identity_check, metadata_check, privileged_checks
    from fusion.leaks.scores import scores_check
    from fusion.leaks.units import Audited

    audited = Audited.of(profile, manifest)
    checks = []
    parts = (
        overlap_checks,
        lambda it: [metadata_check(it), identity_check(it)],
        privileged_checks,
        lambda it: [scores_check(it)],
    )
    with tqdm(total=len(parts), desc="audit", disable=None) as bar:
        for part in parts:
            checks += part(audited)
            bar.update()

    from fusion.leaks.kept import keep, kept
    from fusion.leaks.permutation import CHECKS, permutation_checks

    found = left_out if permutation else kept(profile)
    if permutation and chosen:
        found = permutation_checks(audited, chosen, left_out, permutations), permutations, chosen
        keep(profile, chosen, permutations, found[0])
    if isinstance(found, str):
        found = [skipped(name, found) for name in CHECKS], 0, []
    permuted, permutations, permuted_heads = found
    checks += permuted
    about = {
        "profile": profile.name,
        "manifest": {
            "path": profile.manifest_path.as_posix(),
            "sha256": hashlib.sha256(profile.manifest_path.read_bytes()).hexdigest(),
        },
        "seed": profile.seed,
        "folds": audited.n_folds,
        "units": {split: int((audited.splits == split).sum()) for split in ("train", "val", "test")},
        "permutations": permutations,
        "permuted_heads": permuted_heads,
    }
    folder = profile.run_dir / "audit"
    write_audit(folder, checks, about)
    print(table(checks))
    print(f"{worst(checks)}: what each check found is in {folder / 'audit.txt'}")
    failed = [check.name for check in checks if check.verdict == "fail"]
    if failed and not exit_zero:
        raise UserError(f"{folder / 'audit.txt'}: leaks found: {', '.join(failed)}", LEAKS)


def _heads(profile: Profile, asked: list[str]) -> tuple[list[str], str]:
    """The heads to train on permuted labels, and a sentence on those that are left out."""
    known = profile.fusion.heads or list(profile.heads)
    for name in asked:
        if name not in profile.heads:
            raise UserError(f"--heads {name}: no such head in the profile; it has: {', '.join(profile.heads)}")
    lost = {} if asked else {name: reason for name in known if (reason := all_failed(profile, name))}
    known = [name for name in known if name not in lost]
    chosen = list(dict.fromkeys(asked)) or [name for name in known if not profile.heads[name].fine_tune]
    left_out = [name for name in known if name not in chosen]
    why = "" if asked else ", which fine-tune encoders (name them with --heads)"
    said = [f"Not trained on permuted labels: {', '.join(left_out)}{why}."] if left_out else []
    return chosen, " ".join([*said, *lost.values()])


if __name__ == "__main__":
    command(main)
