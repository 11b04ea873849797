"""Train the network of one head without labels; heads then start from it."""

import time
from typing import Annotated

import typer

from cache import claimed
from configs import UserError
from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load
from configs.schema import Pretraining, unpretrainable
from extract.corpora.manifest import read_manifest


def main(
    head: Annotated[str, typer.Option("--head", help="The head: a name under 'heads' in the profile.")],
    config: ConfigOption = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Learn from what stores hold though an extraction has not finished.")
    ] = False,
    overrides: OverrideArgument = None,
) -> None:
    """Train the network of one head without labels, once for each fold, on all clips that its stores hold.

    It learns which inputs belong to the same clip and, in conversations, what a hidden clip was. The clips of a fold's
    own groups, of val and of test stay out, unless the profile says 'pretrain: {HEAD: {transductive: true}}'. Writes
    runs/PROFILE/pretrained/HEAD; heads that say 'start_from: HEAD' begin there when heads/train.py trains them.
    """
    profile = load(config, overrides)
    if head not in profile.heads:
        raise UserError(f"--head {head}: no such head in the profile; it has: {', '.join(profile.heads)}")
    if problem := unpretrainable(profile.heads[head]):
        raise UserError(f"--head {head}: {problem}")
    manifest = read_manifest(profile.manifest_path)

    # torch takes seconds to import: help and mistakes should not wait for it
    from tqdm import tqdm

    from heads.data.folds import unit_folds
    from heads.fitting.coverage import usable
    from heads.fitting.cross_validation import check_contents, compute_deterministically, open_stores
    from heads.pretraining.clips import read_unlabelled
    from heads.pretraining.fitting import pretrained_weights
    from heads.pretraining.folder import described, write_pretrained

    started = time.monotonic()
    compute_deterministically()
    with claimed(profile.pretrained_path(head)):
        network, notes = usable(profile, manifest, head, open_stores(profile, profile.heads[head]), unfinished)
        for note in notes:
            typer.echo(f"warning: {note}", err=True)
        if problem := unpretrainable(network):
            raise UserError(f"head {head}: {problem}")
        stores = open_stores(profile, network)
        units = manifest.units()
        folds = unit_folds(units, profile.folds, profile.seed, profile.manifest_path)
        unlabelled = read_unlabelled(head, network, manifest, stores)
        check_contents(unlabelled.data, profile)
        settings = profile.pretrain.get(head, Pretraining())
        n_trained = 1 if settings.transductive else profile.folds
        with tqdm(total=n_trained * settings.epochs, desc=f"pre-train {head}", unit="epoch", disable=None) as bar:
            weights, history = pretrained_weights(
                network, settings, unlabelled, units, folds, profile.seed, lambda record: bar.update()
            )
        about = described(network, manifest, units, folds, stores)
        folder = write_pretrained(profile, head, about, weights, history)
    first, last = history[0], history[-1]
    learned = [f"{name} {first[name]:.3f} -> {last[name]:.3f}" for name in ("contrastive", "masked") if name in last]
    said = " (TRANSDUCTIVE: clips of held-out folds, val and test, too)" if settings.transductive else ""
    print(f"head {head}, without labels{said}: {len(history)} epochs; loss {', '.join(learned)}")
    print(f"written to {folder} in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    command(main)
