"""The table of all clips: what was measured of each, how it compares with its corpus, and what was found."""

from collections.abc import Sequence

import polars as pl

from extract.checking import texts
from extract.checking.kinds import FEW, KINDS, LEAST_DB, LEAST_RATIO, OUTLIER, SILENT, USUAL
from extract.checking.looking import VALUES, schema
from extract.corpora.manifest import Manifest


def assembled(manifest: Manifest, files: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """The table: a row per clip of the manifest, in its order.

    Columns: ``clip_id``, ``split``, ``label``, ``speaker``, ``corpus``, ``audio``, ``video`` (paths); what was measured
    of each modality with its name as a prefix, null where there is nothing of it; ``*_z`` robust z in its corpus;
    ``*_copies`` other clips with the same content, ``*_splits`` and ``*_labels`` how many of these they have;
    ``*_odd`` whether the format (script, language) is not that of nearly all of its corpus;
    ``findings``: a list of the names of ``KINDS``.

    Args:
        files: by modality, as :class:`~extract.checking.looking.Looked` has them.
    """
    clips = manifest.clips
    corpus = pl.col("meta_corpus") if "meta_corpus" in clips.columns else pl.lit(None, pl.String)
    table = clips.select("clip_id", "split", "label", "speaker", corpus.alias("corpus"), "audio", "video")
    for kind in VALUES:
        found = files.get(kind, pl.DataFrame(schema={"clip_id": pl.String, **schema(kind)}))
        found = found.rename({name: f"{kind}_{name}" for name in schema(kind)})
        table = table.join(found, on="clip_id", how="left", maintain_order="left")
    table = table.join(texts.measured(clips), on="clip_id", how="left", maintain_order="left")
    table = table.with_columns(
        _log_z("audio_seconds"), _log_z("video_seconds"), _log_z("text_characters"), _level_z("audio_level")
    )
    table = table.with_columns(
        *_shared("audio_hash", "audio"),
        *_shared("video_hash", "video"),
        *_shared("text_key", "text"),
        _odd_of("audio_odd", "audio_rate", "audio_channels"),
        _odd_of("video_odd", "video_width", "video_height", pl.col("video_fps").round(0)),
        _odd_of("text_script_odd", "text_script"),
        _odd_of("text_language_odd", "text_language"),
    )
    named = [pl.when(kind.found.fill_null(False)).then(pl.lit(name)) for name, kind in KINDS.items()]
    findings = pl.concat_list(named).list.drop_nulls().alias("findings")
    return table.with_columns(findings).drop("text_key")


def found_of(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """The clips of a kind, the worst first, with the column ``says``."""
    kind = KINDS[name]
    rows = table.filter(pl.col("findings").list.contains(name)).with_columns(says=kind.says, worst=kind.worst)
    return rows.sort("worst", descending=True, nulls_last=True, maintain_order=True).drop("worst")


def _z(deviation: pl.Expr, least: float) -> pl.Expr:
    """Robust z in its corpus; the MAD is not taken for less than makes ``least`` an outlier. Null in small corpora."""
    mad = pl.max_horizontal(deviation.abs().median().over("corpus"), pl.lit(0.6745 * least / OUTLIER))
    return pl.when(deviation.count().over("corpus") >= FEW).then(0.6745 * deviation / mad)


def _log_z(column: str) -> pl.Expr:
    logarithm = pl.when(pl.col(column) > 0).then(pl.col(column).cast(pl.Float64).log())
    deviation = logarithm - logarithm.median().over("corpus")
    return _z(deviation, pl.Series([LEAST_RATIO]).log()[0]).alias(f"{column}_z")


def _level_z(column: str) -> pl.Expr:
    level = pl.when(pl.col("audio_loudest") >= SILENT).then(column)
    return _z(level - level.median().over("corpus"), LEAST_DB).alias(f"{column}_z")


def _shared(key: str, prefix: str) -> Sequence[pl.Expr]:
    known = pl.col(key).is_not_null() & (pl.col(key) != "")
    return [
        pl.when(known).then(pl.len().over(key) - 1).alias(f"{prefix}_copies"),
        pl.when(known).then(pl.col("split").n_unique().over(key)).alias(f"{prefix}_splits"),
        pl.when(known).then(pl.col("label").drop_nulls().n_unique().over(key)).alias(f"{prefix}_labels"),
    ]


def _odd_of(name: str, *columns: str | pl.Expr) -> pl.Expr:
    """Whether a value is not the one that ``USUAL`` of its corpus has; null where it is not known."""
    exprs = [pl.col(each) if isinstance(each, str) else each for each in columns]
    value = pl.when(pl.all_horizontal(each.is_not_null() for each in exprs)).then(
        pl.concat_str([each.cast(pl.String) for each in exprs], separator=" ")
    )
    usual = value.drop_nulls().mode().sort().first().over("corpus")
    n_usual = (value == usual).sum().over("corpus")
    n_known = value.count().over("corpus")
    is_usual = (n_usual >= USUAL * n_known) & (n_known >= FEW)
    return pl.when(value.is_not_null()).then(is_usual & (value != usual)).alias(name)


def refused(table: pl.DataFrame, limits: dict[str, float] | None, max_error_share: float) -> list[str]:
    """What of the findings is more than allowed, a line each.

    Args:
        limits: by kind the share of clips that may have it; None: files of one modality that cannot be read, up to
            ``max_error_share``, as the extraction allows.
    """
    if limits is None:
        named = {kind: table.filter(pl.col(kind).is_not_null()) for kind in VALUES}
        failed = {kind: len(files) - files[f"{kind}_problem"].null_count() for kind, files in named.items()}
        return [
            f"{failed[kind]} of {len(files)} {kind} files cannot be read, more than store.max_error_share = "
            f"{max_error_share:g} allows"
            for kind, files in named.items()
            if failed[kind] > max_error_share * len(files)
        ]
    found = {name: table["findings"].list.contains(name).sum() for name in limits}
    return [
        f"{name}: {found[name]} of {len(table)} clips, more than --fail-on allows ({limit:.1%})"
        for name, limit in limits.items()
        if found[name] > limit * len(table)
    ]
