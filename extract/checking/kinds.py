"""What of the measures is worth a word: all thresholds, each with its reason, and the kinds of findings.

Thresholds are set so that a clean corpus has next to no finding; docs/check.md says what they gave on real ones.
"""

from dataclasses import dataclass

import polars as pl

OUTLIER = 3.5  # robust z: 0.6745 (x - median) / MAD, as Iglewicz and Hoaglin (1993) recommend
FEW = 20  # clips of a corpus below which nobody can say what is usual
# By how much an outlier differs from the median at least: where all clips are alike, a small step is no outlier.
LEAST_RATIO = 2.0  # of durations and lengths of texts
LEAST_DB = 10.0  # of levels: encoders normalise, and hear no smaller difference
SILENT = -60.0  # dBFS that the loudest window stays below: nothing that anybody hears
SILENCE = 0.8  # share of silence; acted clips, with a second of it at both ends, have up to 0.6
RANGE = 10.0  # dB between loud and soft windows; speech in a room has 25 or more, noise as loud as the voice under 10
CLIPPED = 2e-4  # share of samples; clean speech at full scale has up to 3e-5, lossy codecs hide most of it
RATE = 16_000  # Hz that encoders are trained at: below it half of the spectrum is missing
APART = 0.25, 0.05  # seconds, and a share: by which sound and pictures of one clip may differ in length
BLANK = 0.1  # share of black frames; more than a cut's or a fade's
FROZEN = 0.5  # share of time without movement; speakers of two corpora stand still for up to 0.2 of theirs
USUAL = 0.9  # share of a corpus that has one format, so that another one is odd
FEW_WORDS = 4  # texts with fewer are said again and again


@dataclass(frozen=True)
class Kind:
    """A kind of finding. ``found``: of the table's columns, a boolean; ``worst``: what ranks it, the worst highest;
    ``says``: the measure in words."""

    title: str
    remedy: str
    found: pl.Expr
    worst: pl.Expr
    says: pl.Expr


def _share(column: str) -> pl.Expr:
    return (100 * pl.col(column)).round(2).cast(pl.String) + " %"


def _number(column: str, digits: int = 1) -> pl.Expr:
    return pl.col(column).round(digits).cast(pl.String)


def _any(*columns: str) -> pl.Expr:
    return pl.any_horizontal(pl.col(column).is_not_null() for column in columns)


def _several(what: str) -> pl.Expr:
    return pl.max_horizontal(f"audio_{what}", f"video_{what}")


_odd = pl.col("audio_odd").fill_null(False) | pl.col("video_odd").fill_null(False)
_length_z = pl.max_horizontal(pl.col("audio_seconds_z").abs(), pl.col("video_seconds_z").abs())
_apart = (pl.col("audio_seconds") - pl.col("video_seconds")).abs()
_longer = pl.max_horizontal("audio_seconds", "video_seconds")
_text_alone = pl.col("audio").is_null() & pl.col("video").is_null()
_named = pl.col("text_words") >= FEW_WORDS
_labels = pl.max_horizontal("audio_labels", "video_labels", pl.when(_text_alone & _named).then("text_labels"))
_format = pl.concat_str(
    pl.when(pl.col("audio_odd")).then(pl.format("{} Hz, {} channel(s)", "audio_rate", "audio_channels")),
    pl.when(pl.col("video_odd")).then(
        pl.format("{} x {} at {} frames/s", "video_width", "video_height", _number("video_fps"))
    ),
    separator="; ",
    ignore_nulls=True,
)
_lost = pl.max_horizontal("audio_damage", "video_damage")

KINDS = {
    "unreadable": Kind(
        "Files that cannot be read",
        "fetch or convert them again; extract/run.py counts them as missing",
        _any("audio_problem", "video_problem"),
        pl.lit(0),
        pl.concat_str("audio_problem", "video_problem", separator="; ", ignore_nulls=True),
    ),
    "damaged": Kind(
        "Files that are damaged in part",
        "fetch them again; up to max_damage extract/run.py takes them without that part",
        _lost > 0,
        _lost,
        pl.concat_str("audio_note", "video_note", separator="; ", ignore_nulls=True),
    ),
    "silent": Kind(
        "Sound tracks without sound",
        "look whether the right channel or file was taken; digital silence counts as missing in extract/run.py",
        pl.col("audio_loudest") < SILENT,
        -pl.col("audio_loudest"),
        pl.format("loudest {} dBFS", _number("audio_loudest")),
    ),
    "pauses": Kind(
        "Mostly silence",
        "cut the clip to what is said",
        (pl.col("audio_silence") > SILENCE) & (pl.col("audio_loudest") >= SILENT),
        pl.col("audio_silence"),
        pl.format("{} silence", _share("audio_silence")),
    ),
    "noise": Kind(
        "Noise, a tone or music: the level hardly changes, as it does in speech",
        "listen; leave it out if nobody is heard",
        (pl.col("audio_range") < RANGE) & (pl.col("audio_loudest") >= SILENT),
        -pl.col("audio_range"),
        pl.format("{} dB between loud and soft", _number("audio_range")),
    ),
    "clipped": Kind(
        "Clipped sound",
        "take the recording from before it was made louder, if there is one",
        pl.col("audio_clipped") > CLIPPED,
        pl.col("audio_clipped"),
        pl.format("{} of samples", _share("audio_clipped")),
    ),
    "level": Kind(
        "Far louder or softer than the rest of its corpus",
        "listen: somebody far from the microphone, or another gain",
        (pl.col("audio_level_z").abs() > OUTLIER) & (pl.col("audio_loudest") >= SILENT),
        pl.col("audio_level_z").abs(),
        pl.format("{} dBFS (z {})", _number("audio_level"), _number("audio_level_z")),
    ),
    "channels": Kind(
        "A channel without sound, or channels that cancel each other out",
        "write channel: 1 (or 2) under the encoder",
        pl.col("audio_dead_channels") > 0,
        pl.col("audio_dead_channels"),
        pl.format("{} of {} channels", "audio_dead_channels", "audio_channels"),
    ),
    "narrow": Kind(
        f"Sampled below {RATE // 1000} kHz",
        "encoders take it, and hear a telephone: keep such clips out of one class or speaker alone",
        pl.col("audio_rate") < RATE,
        -pl.col("audio_rate"),
        pl.format("{} Hz", "audio_rate"),
    ),
    "format": Kind(
        "Another format than nearly all of its corpus",
        "look whether such clips come from elsewhere, and so tell of the label",
        _odd,
        pl.lit(0),
        _format,
    ),
    "length": Kind(
        "Far longer or shorter than the rest of its corpus",
        "look whether the clip was cut wrongly",
        _length_z > OUTLIER,
        _length_z,
        pl.format(
            "{} s (z {})",
            pl.coalesce("audio_seconds", "video_seconds").round(2).cast(pl.String),
            _length_z.round(1).cast(pl.String),
        ),
    ),
    "apart": Kind(
        "Sound and pictures differ in length",
        "one of them may be cut, or belong to another clip",
        _apart > pl.max_horizontal(pl.lit(APART[0]), APART[1] * _longer),
        _apart,
        pl.format("sound {} s, pictures {} s", _number("audio_seconds", 2), _number("video_seconds", 2)),
    ),
    "blank": Kind(
        "Black frames, or of one colour",
        "cut them off, or look whether the film was exported rightly",
        pl.col("video_blank") > BLANK,
        pl.col("video_blank"),
        pl.format("{} of frames looked at", _share("video_blank")),
    ),
    "frozen": Kind(
        "Pictures that stand still",
        "fetch the film again, or count it as sound alone",
        (pl.col("video_frozen") > FROZEN) & (pl.col("video_blank") <= FROZEN),
        pl.col("video_frozen"),
        pl.format("{} of the time", _share("video_frozen")),
    ),
    "no_face": Kind(
        "No face found",
        "raise face_crop.upsample for small faces; without a face the clip is missing for encoders with face_crop",
        ~pl.col("video_face"),
        pl.lit(0),
        pl.lit("none in four frames"),
    ),
    "empty_text": Kind(
        "Texts without a letter or a digit",
        "leave the cell empty if nothing was said",
        pl.col("text_key") == "",
        pl.lit(0),
        pl.format("{} characters", "text_characters"),
    ),
    "text_length": Kind(
        "Texts far longer or shorter than the rest of their corpus",
        "look whether they are cut, or hold several turns",
        pl.col("text_characters_z").abs() > OUTLIER,
        pl.col("text_characters_z").abs(),
        pl.format("{} words, {} characters (z {})", "text_words", "text_characters", _number("text_characters_z")),
    ),
    "script": Kind(
        "Another script than nearly all texts of their corpus",
        "check the encoding of the table, or whether the encoder knows the script",
        pl.col("text_script_odd").fill_null(False),
        pl.lit(0),
        pl.col("text_script"),
    ),
    "language": Kind(
        "Another language than nearly all texts of their corpus",
        "check whether the encoder knows it",
        pl.col("text_language_odd").fill_null(False),
        pl.col("text_characters"),
        pl.format("it seems to be {}", "text_language"),
    ),
    "copies": Kind(
        "One content under several clips",
        "keep one of them",
        _several("copies") > 0,
        _several("copies"),
        pl.format("{} other clip(s) with the same file", _several("copies")),
    ),
    "copies_across_splits": Kind(
        "One content in several splits: a leak",
        "keep the one of a single split; fusion/audit.py judges scores that are there already",
        _several("splits") > 1,
        _several("copies"),
        pl.format("in {} splits", _several("splits")),
    ),
    "contradicting": Kind(
        "One content, several labels",
        "decide which label is right, or leave both out",
        _labels > 1,
        _labels,
        pl.format("labelled {}; {} labels in all", pl.col("label").fill_null("nothing"), _labels),
    ),
    "repeated_text": Kind(
        f"Texts of {FEW_WORDS} words or more that several clips share",
        "fine where actors say given sentences; a text head then learns nothing from them",
        (pl.col("text_copies") > 0) & _named,
        pl.col("text_copies"),
        pl.format("{} other clip(s) say the same", "text_copies"),
    ),
    "text_across_splits": Kind(
        f"Texts of {FEW_WORDS} words or more that several splits share",
        "a leak for heads that read text, unless sentences are given",
        (pl.col("text_splits") > 1) & _named,
        pl.col("text_copies"),
        pl.format("in {} splits", "text_splits"),
    ),
}
