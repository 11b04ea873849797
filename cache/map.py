"""Draw what an encoder says of clips in two dimensions, and measure whether it separates the emotion or the speaker."""

from typing import Annotated, Literal

import typer

from configs.command_line import ConfigOption, OverrideArgument, command
from configs.profiles import load


def main(
    encoder: Annotated[str, typer.Option(help="An encoder of the profile, whose features are extracted.")],
    config: ConfigOption = None,
    overrides: OverrideArgument = None,
    method: Annotated[
        Literal["pca", "umap"],
        typer.Option(
            help="pca: the two directions in which clips differ most; umap (pip install -e '.[map]'): who is near whom."
        ),
    ] = "pca",
    every: Annotated[bool, typer.Option("--every", help="Draw clips without a label, too.")] = False,
    points: Annotated[int, typer.Option(min=4, help="The most clips that are drawn; of more, a sample.")] = 200_000,
) -> None:
    """Draw the features of an encoder: runs/NAME/maps/ENCODER.html, with its numbers in ENCODER.json.

    A point is a labelled clip: the mean of its features over time, each dimension scaled to mean 0 and deviation 1. The
    page is coloured by class, speaker, split or any metadata. Beside it: how well a linear probe names the emotion of
    groups that it has not met, and who speaks in clips that it has not met.
    """
    profile = load(config, overrides)
    from heads.mapping.drawing import draw_map  # scikit-learn, after arguments are checked

    path, sentences = draw_map(profile, encoder, method, every, points)
    print(" ".join(sentences))
    print(f"map: {path}")


if __name__ == "__main__":
    command(main)
