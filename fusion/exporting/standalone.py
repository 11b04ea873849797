"""Predict from features with the graphs beside this file. Needs onnxruntime and numpy, and nothing else.

    python predict.onnx.py FEATURES [--metadata FIELD=VALUE ...] [--int8]
FEATURES is a folder with ENCODER.npz (clip id: array (time, dim)) or ENCODER/CLIP.npy for each encoder. Each clip is a
unit by itself unless there is a units.json, a list of
    {"unit": "u1", "clips": [{"id": "c1", "role": "speaker", "speaker": "anna", "text": "Hello"}, ...], "topic": "work"}
whose last clip is the labelled one; all but unit, clips and id may be left out. Prints a line of JSON a unit.
"""

# mypy: allow-untyped-defs
import argparse
import json
import re
import sys
import unicodedata
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime


class Stack:
    def __init__(self, folder, int8=False):
        self.folder = Path(folder)
        self.about = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        self.graphs, self.sessions, self.met = self.about["graphs"], {}, {}
        for path in self.graphs:
            small = self.folder / "int8" / path
            place = small if int8 and small.is_file() else self.folder / path
            self.sessions[path] = onnxruntime.InferenceSession(str(place), providers=["CPUExecutionProvider"])

    def log_p(self, units, features):
        """Log-probabilities (units, classes) of each head, and fused; NaN where it finds nothing to read."""
        feeds = {p: self.feed(g, units, features) for p, g in self.graphs.items() if g["is"] != "fusion"}
        said = {path: self.sessions[path].run(["logits"], feed)[0] for path, feed in feeds.items()}
        inputs = {self.graphs[path]["as"]: logits for path, logits in said.items()}
        inputs |= ids_of(self.graphs["fusion.onnx"], units)
        fused = self.sessions["fusion.onnx"].run(["logits"], inputs)[0]
        for i, unit in enumerate(units if "fusion_speakers.onnx" in self.graphs else []):
            if unit["clips"][-1].get("speaker") is not None:
                self.centre(unit["clips"][-1]["speaker"], {k: v[i : i + 1] for k, v in inputs.items()}, fused[i])
        return said, fused

    def centre(self, speaker, inputs, fused):  # whoever is known by now is answered by the fusion of centred heads
        about = self.graphs["fusion_speakers.onnx"]
        rows = np.concatenate([inputs[name] for name in about["heads"]]).astype(float)
        there = ~np.isnan(rows).any(axis=1)
        sums, counts = self.met.setdefault(speaker, (np.zeros(rows.shape), np.zeros(len(rows))))
        sums[there] += np.maximum(rows[there], about["floor"])
        counts[there] += 1
        others = np.maximum(counts - 1, 0)
        if there.any() and (others / (others + about["half"]))[there].min() >= 0.5:
            given = {**inputs, "sums": sums[None], "counts": counts[None]}
            fused[:] = self.sessions["fusion_speakers.onnx"].run(["logits"], given)[0][0]

    def shown(self, log_p):
        return None if np.isnan(log_p).any() else dict(zip(self.about["classes"], np.exp(log_p).tolist(), strict=True))

    def feed(self, graph, units, features):
        clips, given = [unit["clips"] for unit in units], ids_of(graph, units)
        shape = len(units), max(map(len, clips))

        def padded(rows):
            return np.array([[*row, *[0] * (shape[1] - len(row))] for row in rows], np.int64)

        if "attention_mask" in graph["inputs"]:
            roles = {role: number for number, role in enumerate(self.about["roles"], start=1)}
            given["attention_mask"] = padded([[1] * len(each) for each in clips])
            given["roles"] = padded([[roles.get(clip.get("role"), 0) for clip in each] for each in clips])
        if "speakers" in graph["inputs"]:
            people = [[clip.get("speaker") for clip in each] for each in clips]
            numbers = {name: n for n, name in enumerate(dict.fromkeys([None, *chain(*people)]))}
            given["speakers"] = padded([[numbers[name] for name in each] for each in people])
        for name, dim in graph["dims"].items():
            found = features.get(name, {})
            arrays = [[found[c["id"]] if c["id"] in found else np.empty((0, dim)) for c in each] for each in clips]
            if wrong := [a.shape for a in chain(*arrays) if a.ndim != 2 or a.shape[1] != dim]:
                sys.exit(f"{name}: an array of the shape {wrong[0]}: a clip's are (time, {dim})")
            lengths = given[f"{name}_lengths"] = padded([[len(a) for a in each] for each in arrays])
            values = given[name] = np.zeros((*shape, max(1, lengths.max()), dim), np.float32)
            for i, each in enumerate(arrays):
                for k, array in enumerate(each):
                    values[i, k, : len(array)] = array
        if graph["is"] == "bag_of_words":
            parts = json.loads((self.folder / graph["terms"]).read_text(encoding="utf-8"))
            given["text_given"] = np.array([any(clip.get("text") for clip in each[graph["first"] :]) for each in clips])
            given[graph["counts"]] = np.array([counted(each[graph["first"] :], parts) for each in clips], np.float32)
        return given


def ids_of(graph, units):
    """Ids (units,) of each field: 0 not given, 1 given but not met in training, then the categories in order."""
    found = {}
    for name, field in graph["fields"].items():
        ids = {word: number for number, word in enumerate(field["categories"], start=2)}
        values = [(unit["clips"][-1] | unit).get(field["is"]) for unit in units]
        found[name] = np.array([0 if value is None else ids.get(value, 1) for value in values])
    return found


def counted(clips, parts):
    """How often each term stands in a unit's texts: all, the speaker's with the situation, the labelled clip's."""
    said = [unicodedata.normalize("NFKC", clip.get("text") or "") for clip in clips]
    said = [re.sub("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]", "", text) for text in said]
    own = [text for text, clip in zip(said, clips, strict=False) if clip.get("role") in ("speaker", "context")]
    texts = ["\n".join(filter(None, said)), "\n".join(filter(None, own)), said[-1]]
    counts = []
    for part in parts:
        text, how, numbers = texts[part["text"]].lower(), part["cut"], Counter[str]()
        sizes = range(how["ngrams"][0], how["ngrams"][1] + 1)
        tokens = re.findall(how["pattern"], text) if how["analyzer"] == "word" else []
        numbers.update(" ".join(tokens[i : i + n]) for n in sizes for i in range(len(tokens) - n + 1))
        words = [f" {word} " for word in text.split()] if how["analyzer"] != "word" else []  # letters, ends among them
        numbers.update(word[i : i + n] for word in words for n in sizes for i in range(len(word) - n + 1))
        counts += [numbers[term] for term in part["terms"]]
    return counts


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("features", type=Path)
    parser.add_argument("--metadata", action="append", default=[], metavar="FIELD=VALUE", help="of all units")
    parser.add_argument("--int8", action="store_true", help="the quantised heads, where they were exported")
    given = parser.parse_args()
    if not given.features.is_dir():
        parser.error(f"{given.features}: no folder")
    features = {path.stem: dict(np.load(path)) for path in sorted(given.features.glob("*.npz"))}
    for path in sorted(given.features.glob("*/*.npy")):
        features.setdefault(path.parent.name, {})[path.stem] = np.load(path)
    stack, units, described = Stack(Path(__file__).parent, given.int8), [], given.features / "units.json"
    for clip in sorted(set().union(*features.values())):
        units.append({"unit": clip, "clips": [{"id": clip, "role": "speaker"}]})
    units = json.loads(described.read_text(encoding="utf-8")) if described.is_file() else units
    metadata, silent = dict(pair.partition("=")[::2] for pair in given.metadata), 0
    for unit in units:
        said, fused = stack.log_p([metadata | unit], features)
        heads = {path.removesuffix(".onnx"): stack.shown(logits[0]) for path, logits in said.items()}
        own = stack.shown(fused[0])
        answer = {"unit": unit["unit"], "prediction": own and max(own, key=own.get), "probabilities": own}
        print(json.dumps(answer | {"heads": heads}, ensure_ascii=False))
        silent += own is None
    if silent or not units:
        sys.exit(f"{silent} of {len(units)} units could not be answered: no head found anything to read")


if __name__ == "__main__":
    main()
