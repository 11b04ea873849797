"""A bundle's graphs in one folder, compared with the bundle before it is published.

``heads/HEAD.onnx``       a head, all its folds; ``heads/HEAD.terms.json`` the terms that a bag of words counts
``baselines/HEAD.onnx``   a plain baseline, where the fusion is one
``fusion.onnx``           the fused answer from what heads say; ``fusion_speakers.onnx`` that of centred heads
``encoders/NAME.onnx``    an encoder, where these were asked for
``int8/...``              the same, quantised; ``quantised.json`` and ``quantised.md`` what that costs and brings
``manifest.json``         what each graph takes and gives, and what it was made of
``predict.onnx.py``       answers with onnxruntime and NumPy alone
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from cache import claimed, publish_folder
from configs import UserError
from fusion.exporting import checking, standalone
from fusion.exporting.encoders import ExportedEncoder, export_encoder
from fusion.exporting.quantising import Table, quantise, table
from fusion.exporting.rounded import ROUNDED, encoders_table
from fusion.exporting.strategies import export_fusion
from fusion.serving.bundle import Bundle
from fusion.strategies.speakers import FLOOR, HALF, People
from heads.data.batches import LISTENER, SPEAKER
from heads.exporting.graph import OPSET, TREE_OPSET
from heads.exporting.head import ROLES, export_head

FORMAT = 1
PEOPLE = {SPEAKER: "speaker", LISTENER: "listener_id"}  # what units call them
ABOUT, SCRIPT = "manifest.json", "predict.onnx.py"


def write_onnx(
    bundle: Bundle, folder: Path, int8: bool = True, encoders: bool = False
) -> tuple[dict[str, Any], list[Table]]:
    """Write and check the graphs of a bundle; the manifest that was written, and what quantising costs.

    Encoders that cannot be exported have none: the manifest says why.

    Raises:
        UserError: a part cannot be exported, or a graph does not say what the bundle says.
        StoreError: the folder is somebody else's, or cannot be written.
    """
    about: dict[str, Any] = {}
    found: list[Table] = []

    def write(fresh: Path) -> None:
        about.update(_manifest(bundle, _write_graphs(bundle, fresh)))
        _write_json(fresh / ABOUT, about)
        shutil.copyfile(standalone.__file__, fresh / SCRIPT)
        given = checking.material(bundle)
        about["checked"] = _check(bundle, fresh, given)
        if int8:
            quantise(fresh, [path for path, graph in about["graphs"].items() if graph["is"] != "fusion"])
            found.append(table(bundle, fresh, given))
        exported = _write_encoders(bundle, fresh, about["encoders"]) if encoders else {}
        if int8 and exported:
            quantise(fresh, list(exported), ROUNDED)
            found.append(encoders_table(bundle, fresh, exported, given))
        if found:
            more = {"encoders": found[1].plain} if found[1:] else {}
            _write_json(fresh / "quantised.json", found[0].plain | more)
            lines = "\n\n".join("\n".join(each.markdown) for each in found)
            (fresh / "quantised.md").write_text(lines + "\n", encoding="utf-8")
        _write_json(fresh / ABOUT, about)

    with claimed(folder):
        publish_folder(folder, write, own=ABOUT)
    return about, found


def _write_graphs(bundle: Bundle, fresh: Path) -> dict[str, dict[str, Any]]:
    dims = {name: header.dim for name, header in bundle.stored.items()}
    graphs: dict[str, dict[str, Any]] = {}
    for number, head in enumerate(bundle.heads + bundle.baselines):
        path = checking.graph_of(bundle, number)
        made = export_head(head.load(), head.name, head.temperature, dims)
        terms = path.replace(".onnx", ".terms.json") if made.terms else None
        _write(fresh / path, made.model)
        if terms:
            _write_json(fresh / terms, made.terms)
        graphs[path] = {
            "is": head.settings.kind,
            "as": head.name if number < len(bundle.heads) else f"baseline_{head.name}",
            "inputs": made.inputs,
            "dims": made.dims,
            "fields": {
                field: {"is": PEOPLE.get(field, field), "categories": words} for field, words in made.words.items()
            },
            "context_clips": head.settings.context_clips,
            "first": _first(head.settings.context_clips),
            "temperature": head.temperature,
            **({"terms": terms, "counts": f"{head.name}_counts"} if terms else {}),
            "left_to_the_caller": made.left_out,
            "made_of": {"folder": path.removesuffix(".onnx"), "sha256": _digest(head.folder / "head.json")},
        }
    graphs["fusion.onnx"] = _write_fusion(bundle, fresh / "fusion.onnx", None)
    if bundle.people:
        graphs["fusion_speakers.onnx"] = _write_fusion(bundle, fresh / "fusion_speakers.onnx", bundle.people) | {
            "floor": FLOOR,
            "half": HALF,
        }
    for path, graph in graphs.items():
        graph["outputs"] = ["logits", *(f"p_{name}" for name in bundle.classes)]
        graph["sha256"] = _digest(fresh / path)
    return graphs


def _write_encoders(bundle: Bundle, fresh: Path, about: dict[str, dict[str, Any]]) -> dict[str, ExportedEncoder]:
    """Encoders by the path of their graph; of each, ``about`` says more, or why it has none."""
    exported: dict[str, ExportedEncoder] = {}
    for name in bundle.stored:
        path = f"encoders/{name}.onnx"
        try:
            made = export_encoder(bundle, name)
        except UserError as error:
            about[name]["not_exported"] = str(error)
            continue
        _write(fresh / path, made.model)
        about[name]["graph"] = {"path": path, **made.about, "sha256": _digest(fresh / path)}
        exported[path] = made
    return exported


def _first(context_clips: int | None) -> int:
    """Of a unit's clips the first that is seen, as an index."""
    return 0 if context_clips is None else -1 - context_clips


def _write_fusion(bundle: Bundle, path: Path, people: People | None) -> dict[str, Any]:
    names, alone = [head.name for head in bundle.heads], [head.name for head in bundle.baselines]
    fitted = people.fitted if people else bundle.fusion
    model, inputs, words = export_fusion(fitted, names, alone, bundle.classes, people)
    _write(path, model)
    saved = bundle.folder / "fusion" / ("speakers" if people else "") / "fusion.json"
    return {
        "is": "fusion",
        "strategy": type(fitted).__name__.removeprefix("Fitted"),
        "heads": names,
        "inputs": inputs,
        "dims": {},
        "fields": {f"meta_{field}": {"is": field, "categories": known} for field, known in words.items()},
        "made_of": {"folder": "fusion", "sha256": _digest(saved)},
    }


def _manifest(bundle: Bundle, graphs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": bundle.profile.name,
        "classes": list(bundle.classes),
        "opset": {"": OPSET, "ai.onnx.ml": TREE_OPSET},
        "bundle_sha256": bundle.digest,
        "roles": list(ROLES),
        "encoders": {
            name: {"dim": header.dim, "fingerprint": header.fingerprint, "model": bundle.profile.encoders[name].origin}
            for name, header in bundle.stored.items()
        },
        "graphs": graphs,
    }


def _check(bundle: Bundle, fresh: Path, given: checking.Material) -> dict[str, Any]:
    """Compare all graphs with the bundle, by the very script that is handed out."""
    expected = checking.expected(bundle, given)
    units, sources = checking.described(given), checking.features(bundle, given)
    said, fused = checking.answers(standalone.Stack(fresh), units, sources)
    found: dict[str, float] = {}
    for number in range(expected.heads.shape[1]):
        path = checking.graph_of(bundle, number)
        found[path] = checking.largest_difference(said[path], expected.heads[:, number], path)
    found["fusion.onnx"] = checking.largest_difference(fused, expected.fused, "fusion.onnx")
    for path, difference in found.items():
        checking.refuse_unequal(path, difference)
    return {"on": given.said, "units": len(units), "largest_difference": max(found.values()), "allowed": checking.CLOSE}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
