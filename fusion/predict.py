"""Predict the emotion of new clips with a trained stack."""

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from configs import UserError, some
from configs.command_line import command
from fusion.serving.bundle import Bundle
from fusion.serving.options import (
    BundleOption,
    ConfidenceOption,
    DeviceOption,
    EncoderOption,
    PrecisionOption,
    opened,
    pairs,
)

BAR = 30  # characters of a probability of 1


def main(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE | FOLDER | CONVERSATIONS.json | TABLE.csv]...",
            help="Video (its sound track counts, too) or audio files; folders of them, at any depth; conversations in "
            "AvaMERG's JSON, mapped or original; or tables with a row per clip (CSV, Parquet), with columns called as "
            "in training. Labels may be there or not.",
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(help="What is said in the clip; needs no file beside it.")] = None,
    audio: Annotated[Path | None, typer.Option(help="The clip's sound, where it is a file of its own.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=VALUE", help="What is known of the clip. Repeat for more.")
    ] = None,
    media: Annotated[
        Path | None,
        typer.Option(
            help="Where media of conversations and tables lie. Default: beside the file, or one up from json/."
        ),
    ] = None,
    bundle: BundleOption = None,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    confidence: ConfidenceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each unit instead of a table.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write a row per unit there, instead of printing them.")
    ] = None,
) -> None:
    """Predict the emotion of clips, with any of sound, pictures, text and metadata there.

    Every media file is a unit of its own. Of a conversation, the last labelled turn is predicted (or every one, as in
    training), or where nothing is labelled, what the speaker says last; it is seen with all that was said before.

    Printed are calibrated probabilities; what each head says by itself, and its contribution: by how much it raises the
    logarithm of the winner's fused probability, compared with the fusion of the other heads; and what was missing, and
    why. A head that finds nothing to read is left out. Where the fusion was fitted on heads centred per speaker, and a
    speaker is named (--metadata speaker=NAME) for several clips, each is centred on those so far. Exit code 3: some
    units, or all, could not be answered.

    python fusion/predict.py clip.mp4 --text "I passed!" --metadata topic=exams
    """
    if out and (out.suffix != ".csv" or out.is_dir() or not out.absolute().parent.is_dir()):
        raise UserError(f"--out {out}: name a .csv file in a folder that is there")
    stack, profile = opened(bundle, encoder, confidence)
    given = pairs("--metadata", metadata)

    gc.disable()  # libraries allocate much and free nothing while they are imported: a second of start-up
    # these take seconds to import: help and mistakes should not wait for them
    import polars as pl

    from cache import write_text_atomically
    from fusion.serving.clips import left_out, manifests
    from fusion.serving.live import Predictor

    gc.freeze()
    gc.enable()
    errors, rows, n = [], list[dict[str, Any]](), 0
    with Predictor(stack, profile, device, confidence, precision) as predictor:
        if precision:
            print(f"encoders in {precision}: numbers differ from those of the profile's precision", file=sys.stderr)
        found = manifests(inputs or [], text, audio, given, media, profile, predictor.fields)
        for place in (each for each in inputs or [] if each.is_dir()):
            if rest := left_out(place):
                print(f"{place}: {len(rest)} left out, no media by their names: {some(rest)}", file=sys.stderr)
        for manifest in found:
            for kind, count in manifest.counts.get("missing_files", {}).items():
                print(f"warning: {count} {kind} file(s) named but not found below {manifest.root}", file=sys.stderr)
        total = sum(len(manifest.units()) for manifest in found)
        with tqdm(total=total, desc="predicting", unit="unit", disable=None, delay=2) as progress:
            for answer in (answer for manifest in found for answer in predictor.answers(manifest)):
                if out:
                    rows.append(_row(answer, stack, confidence))
                else:
                    said = json.dumps(answer, ensure_ascii=False) if as_json else "\n".join(_table(answer, stack))
                    tqdm.write(said)
                n += 1
                errors += [f"{answer['unit']}: {answer['error']}"] if answer["error"] else []
                progress.update()
    if out:
        write_text_atomically(out, pl.DataFrame(rows, infer_schema_length=None).write_csv())
        print(f"{out}: {n} units, {n - len(errors)} answered")
    if errors:
        many = f"{len(errors)} of {n} units could not be answered; the first: " if n > 1 else ""
        raise UserError(many + errors[0], exit_code=3)


def _row(answer: dict[str, Any], bundle: Bundle, confidence: float | None) -> dict[str, Any]:
    """An answer as a row: probabilities are null where there is no answer."""
    chosen = answer["set"] or {"classes": [], "says": None}
    asked = {"confidence": confidence, "set": "; ".join(chosen["classes"]) or None, "says": chosen["says"]}
    probabilities = answer["probabilities"] or {}
    missing = "; ".join(f"{each['what']}: {each['why']}" for each in answer["missing"])
    return {
        "unit_id": answer["unit"],
        "prediction": answer["prediction"],
        **{f"p_{name}": probabilities.get(name) for name in bundle.classes},
        "missing": missing or None,
        "error": answer["error"],
        **({} if confidence is None else asked),
    }


def _table(answer: dict[str, Any], bundle: Bundle) -> Iterator[str]:
    yield f"{answer['unit']}: {answer['prediction'] or 'no answer'}"
    for name, p in sorted((answer["probabilities"] or {}).items(), key=lambda pair: -pair[1]):
        yield f"  {name:<{max(map(len, bundle.classes))}}  {p:>6.1%}  {'█' * round(BAR * p)}".rstrip()
    if chosen := answer["set"]:
        note = f" ({chosen['note']})" if chosen["note"] else ""
        yield f"  at {chosen['confidence']:.4g} confidence: {chosen['says']}{note}"
    width = max(map(len, answer["heads"]))
    yield f"  {'head':<{width}}  {'contribution':>12}  says"
    for name, head in answer["heads"].items():
        if head["prediction"] is None:
            yield f"  {name:<{width}}  {'absent':>12}  nothing for it to read"
            continue
        part = "alone" if head["contribution"] is None else f"{head['contribution']:+.2f}"
        without = f", without {', '.join(head['lacks'])}" if head["lacks"] else ""
        yield f"  {name:<{width}}  {part:>12}  {head['prediction']} {head['probability']:.1%}{without}"
    if answer["centred_on"]:
        yield f"  centred on {answer['centred_on']} clips of this speaker (transductive)"
    for each in answer["missing"]:
        where = f" of {each['clip']}" if each["clip"] not in (None, answer["unit"]) else ""
        yield f"  missing: {each['what']}{where}: {each['why']}"
    yield ""


if __name__ == "__main__":
    command(main)
