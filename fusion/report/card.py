"""The model card of a bundle: ``README.md`` in the hub's format, all its numbers read from what was measured.

There are no times in it, and no paths of this machine: the same stack gives the same bytes.
"""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from cache import read_published
from configs import UserError
from configs.outside import read_json
from configs.schema import Encoder, Profile
from fusion.report.context import counts
from fusion.report.outputs import display_name
from fusion.report.provenance import VERDICTS
from fusion.tables.predictions import SPLITS
from heads.metrics.printed import without_nan

CARD, TEMPLATE = "README.md", "card.md.j2"
UNKNOWN = "unknown"
TASKS = ("audio", "video", "text")  # of these the hub has a task "MODALITY-classification"


def write_card(profile: Profile, folder: Path) -> None:
    """Write the card into a folder that holds a bundle's ``bundle.json``; the rest is read from the profile's runs.

    Raises:
        UserError: the fusion was measured anew since the bundle was made.
        StoreError: what was measured is not there, or not what was written.
    """
    (folder / CARD).write_text(card(profile, read_json(folder / "bundle.json")), encoding="utf-8")


def card(profile: Profile, about: Mapping[str, Any]) -> str:
    """The card of a profile's bundle, whose ``bundle.json`` says ``about``. Raises as :func:`write_card`."""
    fused, again = profile.fusion_path, "fuse again with python fusion/stack.py"
    if json.loads(read_published(fused / "headline.json", again)) != about["measured"]:
        raise UserError(f"{fused}: measured anew since the bundle was made: make it again with python fusion/bundle.py")
    metrics = json.loads(read_published(fused / "metrics.json", again))
    rows = pl.read_parquet(read_published(fused / "predictions.parquet", again), columns=["split", "label", "group"])
    audited = profile.run_dir / "audit" / "audit.json"
    audit = json.loads(read_published(audited, "run python fusion/audit.py")) if audited.is_file() else None
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_as_text,
        autoescape=False,  # it is Markdown: see _as_text
    )
    pages.filters |= {"number": _number, "span": _span, "display": display_name}
    encoders = {name: _encoder(profile.encoders[name], about["stores"][name]) for name in about["stores"]}
    modalities = [each for each in TASKS if any(encoder["modality"] == each for encoder in encoders.values())]
    text = pages.get_template(TEMPLATE).render(
        about=about,
        metrics=metrics,
        split=metrics["headline"]["split"],
        strategy=display_name(metrics["headline"]["strategy"]),
        data=_data(rows, about["classes"]),
        splits=[split for split in SPLITS if split in metrics["majority"]],
        adapter=profile.dataset.adapter,
        counted=counts(profile.manifest_path),
        checks=sorted(audit["checks"], key=lambda check: VERDICTS.index(check["verdict"])) if audit else None,
        verdict=audit["verdict"] if audit else None,
        encoders=encoders,
        modalities=modalities,
        reads={name: [*head.inputs, *head.metadata] for name, head in profile.heads.items()},
        privileged=[name for name in about["temperatures"] if profile.heads[name].privileged],
        doubt=metrics.get("confidence"),
    )
    return f"---\n{_head(about, metrics, encoders, modalities)}\n---\n\n{text}"


def _head(about: Mapping[str, Any], metrics: Mapping[str, Any], encoders: dict[str, Any], modalities: list[str]) -> str:
    """The YAML head, checked by the hub's own library, which needs no network for that."""
    from huggingface_hub import EvalResult, ModelCardData

    headline = metrics["headline"]
    task = f"{modalities[0]}-classification" if len(modalities) == 1 else "other"
    results = [
        EvalResult(
            task_type=task,
            task_name="emotion recognition",
            dataset_type=about["name"],
            dataset_name=about["name"],
            dataset_split={"test": "test", "val": "validation"}.get(headline["split"], "train, out of fold"),
            metric_type=kind,
            metric_name=name + " (transductive)" * headline["transductive"],
            metric_value=round(headline[key], 4),
        )
        for key, kind, name in (("accuracy", "accuracy", "accuracy"), ("macro_f1", "f1", "macro-F1"))
    ]
    bases = sorted({each["model"] for each in encoders.values() if each["is_hub"]})
    data = ModelCardData(
        model_name=about["name"],
        library_name="emocache",
        license=UNKNOWN,  # of data and encoders, which this program cannot know
        pipeline_tag=task if len(modalities) == 1 else None,
        tags=["emotion-recognition", *(["multimodal"] * (len(modalities) > 1)), *modalities],
        metrics=["accuracy", "f1"],
        base_model=bases or None,
        eval_results=results,
    )
    return data.to_yaml()


def _data(rows: pl.DataFrame, classes: list[str]) -> dict[str, Any]:
    """By split: ``units``, ``groups``, and ``classes``, the units of each."""
    found = {}
    for split in SPLITS:
        part = rows.filter(pl.col("split") == split)
        if len(part):
            known = dict(part["label"].value_counts().iter_rows())
            own = {name: known.get(name, 0) for name in classes}
            found[split] = {"units": len(part), "groups": part["group"].n_unique(), "classes": own}
    return found


def _encoder(settings: Encoder, header: Mapping[str, Any]) -> dict[str, Any]:
    model = settings.model
    named = model is not None and "/" in model
    is_hub = named and not Path(str(model)).expanduser().is_dir() and not str(model).startswith((".", "/", "~"))
    shown = model if model is None or is_hub or model.startswith("package:") else Path(model).name
    fields = header["fields"]
    return {
        "modality": settings.modality,
        "family": settings.family,
        "model": shown or (settings.kind if settings.source is None else "computed elsewhere"),
        "is_hub": is_hub,
        "revision": fields.get("revision") or settings.revision,
        "weights": fields.get("weights"),
        "fingerprint": header["fingerprint"],
        "licence": _licence(settings, is_hub),
    }


def _licence(settings: Encoder, is_hub: bool) -> str:
    """As the package, the folder or the hub's card beside the weights says; nothing is fetched."""
    if settings.source is not None:
        return UNKNOWN
    if settings.model is None:
        return _of_package("opensmile" if settings.family == "functionals" else "torchaudio")
    if settings.model.startswith("package:"):
        return _of_package(settings.model.removeprefix("package:"))
    from huggingface_hub import try_to_load_from_cache

    folder = Path(settings.model).expanduser()
    readme: Any = folder / "README.md"
    if is_hub:
        readme = try_to_load_from_cache(settings.model, "README.md", revision=settings.revision)
    elif (folder / "package.json").is_file():
        content = read_json(folder / "package.json")
        return str(content.get("license", UNKNOWN)) if isinstance(content, dict) else UNKNOWN
    return _of_card(Path(readme)) if isinstance(readme, str | Path) and Path(readme).is_file() else UNKNOWN


def _of_card(path: Path) -> str:
    from huggingface_hub import ModelCard

    found = ModelCard.load(path, ignore_metadata_errors=True).data.license
    return str(found) if found else UNKNOWN


def _of_package(name: str) -> str:
    try:
        about = metadata(name).json
    except PackageNotFoundError:
        return UNKNOWN
    classified = [str(each).split(" :: ")[-1] for each in about.get("classifier", []) if "License ::" in each]
    named = str(about.get("license", "")).strip().partition("\n")[0]
    said = [about.get("license_expression"), *classified, named]
    found = next((each for each in said if each and str(each).upper() != "UNKNOWN"), None)
    return f"{found} (package {name} {about['version']})" if found else UNKNOWN


def _as_text(value: Any) -> Any:
    """What comes from data cannot become a table's border, a tag or a new line."""
    if not isinstance(value, str):
        return value
    return " ".join(value.split("\n")).replace("|", "\\|").replace("<", "&lt;")


def _number(value: float | None, spec: str = ".3f") -> str:
    return "–" if value is None else f"{value:{spec}}"


def _span(score: Mapping[str, Any], name: str = "", spec: str = ".3f") -> str:
    """``0.612 [0.570, 0.655]`` of a score as metrics.json has it: flat with ``name``, else ``value, low, high``."""
    value, low, high = (
        score[key] for key in ((name, f"{name}_low", f"{name}_high") if name else ("value", "low", "high"))
    )
    known = without_nan([low, high])
    return f"{_number(value, spec)} " + ("(no interval)" if None in known else f"[{low:{spec}}, {high:{spec}}]")
