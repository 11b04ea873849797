"""``maps/ENCODER.html``: every point of a map, to be coloured and asked; one file, without network."""

import hashlib
import json
from base64 import b64encode
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from markupsafe import Markup

from cache import Store, write_text_atomically
from cache.remote.copies import fetch
from configs import UserError
from configs.schema import Profile
from extract.corpora.manifest import read_manifest
from extract.pages.rendering import environment
from heads.mapping.points import Points, neighbourly, principal, read_points
from heads.mapping.separation import FOLDS, C, Separation, in_words, separate

TEMPLATES = Path(__file__).with_name("templates")
MOST_VALUES = 20  # of a field that have a colour of their own
MOST_FIELDS = 16
TEXT_BYTES = 6_000_000  # of what was said, in a page: with many points each text is cut shorter
LONGEST_TEXT = 160  # characters
FIRST = ("class", "speaker", "split", "fold", "corpus")
METHODS = {"pca": "PCA", "umap": "UMAP"}


def draw_map(
    profile: Profile, encoder: str, method: Literal["pca", "umap"], every: bool, most: int
) -> tuple[Path, list[str]]:
    """Write the page and its numbers; returns where, and what they say in words.

    Args:
        every: draw clips without a label, too.
        most: points; of more clips a sample is drawn.
    Raises:
        UserError: no such encoder, no features of it, or UMAP is wanted and not installed.
    """
    store = _open(profile, encoder)
    manifest = read_manifest(profile.manifest_path)
    points = read_points(manifest, store, every, most, profile.seed)
    shares: tuple[float, ...] = ()
    if method == "pca":
        placed, shares = principal(points.values, profile.seed)
    else:
        placed = neighbourly(points.values, profile.seed)
    clips = points.clips
    found = separate(
        points.values, clips["label"].to_list(), clips["speaker"].to_list(), clips["group"].to_list(), profile.seed
    )
    sentences = in_words(found)
    about = {
        "encoder": encoder,
        "fingerprint": store.fingerprint,
        "method": method,
        "explained_variance": list(shares),
        "clips": clips.height,
        "clips_known": points.n_known,
        "features": f"{_features(store)}; each dimension with mean 0 and deviation 1 over these clips",
        "probe": f"logistic regression, C = {C}, balanced classes, {FOLDS} folds at most; scores are balanced accuracy",
        "separation": found.numbers(),
        "in_words": sentences,
    }
    path = profile.run_dir / "maps" / f"{encoder}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    page = _page(profile, encoder, method, points, _features(store), placed, shares, found, sentences)
    write_text_atomically(path, page)
    numbers = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text_atomically(path.with_suffix(".json"), numbers)
    return path, sentences


def _open(profile: Profile, encoder: str) -> Store:
    if encoder not in profile.encoders:
        known = ", ".join(profile.encoders) or "none"
        raise UserError(f"--encoder {encoder}: the profile has no such encoder (it has: {known})")
    path, url = profile.store_path(encoder), profile.store_url(encoder)
    if url and not (path / "store.json").is_file():
        fetch(url, path)
    if not path.exists():
        raise UserError(f"{path}: no such store: make it with 'python extract/run.py --encoder {encoder}'")
    return Store(path, profile.store.verify_reads)


def _features(store: Store) -> str:
    """What of a clip becomes its point."""
    several = store.fields.get("layers")
    if not several:
        return "mean over time"
    numbers = ", ".join(str(number) for number, _ in several["taken"])
    return f"layers {numbers} side by side, each with its {' and '.join(several['statistics'])} over time"


def _page(
    profile: Profile,
    encoder: str,
    method: str,
    points: Points,
    features: str,
    placed: np.ndarray,
    shares: tuple[float, ...],
    found: Separation,
    sentences: list[str],
) -> str:
    script = (TEMPLATES / "map.js.j2").read_text(encoding="utf-8")  # no template: its hash is in the page's policy
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    fields = _fields(points.clips)
    data = json.dumps(_data(points.clips, placed, fields), ensure_ascii=False, separators=(",", ":"))
    return (
        environment(TEMPLATES)
        .get_template("map.html.j2")
        .render(
            name=profile.name,
            encoder=encoder,
            settings=profile.encoders[encoder],
            method=METHODS[method],
            shares=shares,
            n=points.clips.height,
            n_known=points.n_known,
            dim=points.values.shape[1],
            features=features,
            found=found,
            sentences=sentences,
            fields=[field["name"] for field in fields],
            c=C,
            digest=digest,
            script=Markup(script),
            # in a script that is data, only a "<" could end it
            data=Markup(data.replace("<", "\\u003c")),
        )
    )


def _data(clips: pl.DataFrame, placed: np.ndarray, fields: list[dict[str, Any]]) -> dict[str, Any]:
    """Places as shares of 65535 of a square, both axes on one scale."""
    low, high = placed.min(axis=0), placed.max(axis=0)
    reach = float((high - low).max()) or 1.0
    middle = (low + high) / 2
    scaled = ((placed - middle) / reach + 0.5) * 65535
    longest = min(LONGEST_TEXT, TEXT_BYTES // clips.height)
    texts = clips["text"].fill_null("")
    return {
        "x": _packed(scaled[:, 0]),
        "y": _packed(65535 - scaled[:, 1]),
        "ids": clips["clip_id"].to_list(),
        "texts": texts.str.slice(0, longest).to_list() if (texts != "").any() else [],
        "fields": fields,
    }


def _packed(values: np.ndarray) -> str:
    """As 16-bit integers, little-endian, in base64."""
    return b64encode(values.round().clip(0, 65535).astype("<u2").tobytes()).decode()


def _fields(clips: pl.DataFrame) -> list[dict[str, Any]]:
    """What points can be coloured by: names, how many each has, and which each clip has. The most frequent first; the
    rest together, and the unknown. Fields derived from the label are left out, and those that never differ."""
    columns = {"class": "label", "speaker": "speaker", "split": "split", "fold": "fold", "role": "role"}
    columns |= {name.removeprefix("meta_"): name for name in clips.columns if name.startswith("meta_")}
    ordered = sorted(columns, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    fields = []
    for name in ordered[:MOST_FIELDS]:
        if columns[name] not in clips.columns:  # folds, where the dataset gives none
            continue
        values = clips[columns[name]].cast(pl.String)
        counts = values.drop_nulls().value_counts().sort(pl.col("count"), columns[name], descending=[True, False])
        own = dict(counts.head(MOST_VALUES).iter_rows())
        names, sizes = list(own), list(own.values())
        rest, unknown = counts["count"].sum() - sum(sizes), values.null_count()
        if name != "class" and (len(counts) < 2 or counts["count"].max() == 1):
            continue
        numbers = {value: number for number, value in enumerate(names)}
        codes = values.replace_strict(numbers, default=len(names), return_dtype=pl.UInt16)
        if rest:
            names.append(f"{len(counts) - MOST_VALUES} others")
            sizes.append(rest)
        codes = codes.zip_with(
            values.is_not_null(), pl.Series([len(names)], dtype=pl.UInt16).new_from_index(0, len(codes))
        )
        if unknown:
            names.append("unknown")
            sizes.append(unknown)
        grey = len(own)  # from here on
        fields.append({"name": name, "names": names, "sizes": sizes, "grey": grey, "codes": _packed(codes.to_numpy())})
    return fields
