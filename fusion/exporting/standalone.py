"""Predict from features with the graphs beside this file. Needs onnxruntime and numpy, and nothing else.

    python predict.onnx.py FEATURES [--metadata FIELD=VALUE ...] [--int8]

FEATURES is a folder with, for each encoder, ENCODER.npz (clip id: array (time, dim)) or ENCODER/CLIP.npy. Each clip is a
unit by itself, unless the folder has a units.json: a list of

    {"unit": "u1", "clips": [{"id": "c1", "role": "speaker", "speaker": "anna", "text": "Hello"}, ...], "topic": "work"}

where the last clip is the labelled one, and everything but "clips" and an "id" may be left out. Printed is a line of
JSON for each unit; probabilities are null where no head finds anything to read.
"""

import argparse
import json
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np
import onnxruntime

VARIANTS = re.compile(r"[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")  # of an emoji
SPOKEN = ("speaker", "context")


class Stack:
    def __init__(self, folder, int8=False):
        self.folder = Path(folder)
        self.about = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        self.int8 = int8
        self.sessions = {path: self.session(path, int8) for path in self.about["graphs"]}
        self.met = {}  # speaker: sums and counts of what heads said of him so far

    def session(self, path, int8):
        small = self.folder / "int8" / path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        place = small if int8 and small.is_file() else self.folder / path
        return onnxruntime.InferenceSession(place, options, providers=["CPUExecutionProvider"])

    def predict(self, units, features):
        """An answer for each unit. features: input's name: clip id: array (time, dim)."""
        said, fused = self.log_p(units, features)
        names, answers = self.about["classes"], []
        for i, unit in enumerate(units):
            heads = {path.removesuffix(".onnx"): shown(logits[i], names) for path, logits in said.items()}
            p = shown(fused[i], names)
            best = max(p, key=p.get) if p else None
            answers.append({"unit": unit["unit"], "prediction": best, "probabilities": p, "heads": heads})
        return answers

    def log_p(self, units, features):
        """Log-probabilities (units, classes): of each head by its graph, and fused; NaN where there is nothing."""
        said = {}
        for path, graph in self.about["graphs"].items():
            if graph["is"] != "fusion":
                said[path] = self.sessions[path].run(["logits"], self.feed(path, graph, units, features))[0]
        inputs = {graph["as"]: said[path] for path, graph in self.about["graphs"].items() if path in said}
        ids = self.fields(self.about["graphs"]["fusion.onnx"], units)
        fused = self.sessions["fusion.onnx"].run(["logits"], inputs | ids)[0]
        if "fusion_speakers.onnx" in self.about["graphs"]:
            for i, unit in enumerate(units):
                self.centre(i, unit["clips"][-1].get("speaker"), inputs, ids, fused)
        return said, fused

    def centre(self, i, speaker, inputs, ids, fused):
        """Where a unit's speaker is known by now, the answer of the fusion of centred heads takes its place."""
        about = self.about["graphs"]["fusion_speakers.onnx"]
        rows = np.stack([inputs[name][i] for name in about["heads"]]).astype(float)
        there = ~np.isnan(rows).any(axis=1)
        if speaker is None:
            return
        sums, counts = self.met.setdefault(speaker, (np.zeros(rows.shape), np.zeros(len(rows))))
        sums[there] += np.maximum(rows[there], about["floor"])
        counts[there] += 1
        others = np.maximum(counts - 1, 0)
        if there.any() and (others / (others + about["half"]))[there].min() >= 0.5:
            given = {name: values[i : i + 1] for name, values in (inputs | ids).items()}
            given |= {"sums": sums[None], "counts": counts[None]}
            fused[i] = self.sessions["fusion_speakers.onnx"].run(["logits"], given)[0][0]

    def fields(self, graph, units):
        """Ids: 0 not given, 1 given but not met in training, then the categories in order."""
        found = {}
        for name, field in graph["fields"].items():
            ids = {word: number for number, word in enumerate(field["categories"], start=2)}
            values = [value_of(unit, field["is"]) for unit in units]
            found[name] = np.array([0 if value is None else ids.get(value, 1) for value in values])
        return found

    def feed(self, path, graph, units, features):
        """The inputs of a head's graph, padded on the right."""
        clips = [unit["clips"] for unit in units]
        shape = len(units), max(map(len, clips))
        given = self.fields(graph, units)
        if "attention_mask" in graph["inputs"]:
            given["attention_mask"] = padded(shape, [[1] * len(each) for each in clips])
            roles = {role: number for number, role in enumerate(self.about["roles"], start=1)}
            given["roles"] = padded(shape, [[roles.get(clip.get("role"), 0) for clip in each] for each in clips])
        if "speakers" in graph["inputs"]:
            numbers = {name: n for n, name in enumerate(dict.fromkeys([None, *(c.get("speaker") for e in clips for c in e)]))}
            given["speakers"] = padded(shape, [[numbers[clip.get("speaker")] for clip in each] for each in clips])
        for name, dim in graph["dims"].items():
            source = features.get(name, {})
            arrays = [[np.asarray(source[c["id"]]) if c["id"] in source else np.empty((0, dim)) for c in e] for e in clips]
            if wrong := [a.shape for each in arrays for a in each if a.ndim != 2 or a.shape[1] != dim]:
                raise SystemExit(f"{name}: an array of the shape {wrong[0]}: features of a clip are (time, {dim})")
            lengths = given[f"{name}_lengths"] = padded(shape, [[len(a) for a in each] for each in arrays])
            values = given[name] = np.zeros((*shape, max(1, lengths.max()), dim), np.float32)
            for row, each in zip(values, arrays):
                for place, array in zip(row, each):
                    place[: len(array)] = array
        if graph["is"] == "bag_of_words":
            seen = [each if graph["context_clips"] is None else each[-1 - graph["context_clips"] :] for each in clips]
            given["text_given"] = np.array([any(clip.get("text") for clip in each) for each in seen])
            parts = json.loads((self.folder / graph["terms"]).read_text(encoding="utf-8"))
            given[next(n for n in graph["inputs"] if n.endswith("_counts"))] = np.array([counted(e, parts) for e in seen])
        return given


def value_of(unit, field):
    if field == "speaker identity":
        return unit["clips"][-1].get("speaker")
    return unit.get("listener_id" if field == "listener identity" else field)


def padded(shape, rows):
    result = np.zeros(shape, np.int64)
    for row, values in zip(result, rows):
        row[: len(values)] = values
    return result


def counted(clips, parts):
    """How often each term stands in the texts of a unit, (terms,) float32."""
    said = [(clip.get("role"), text if text.isascii() else VARIANTS.sub("", unicodedata.normalize("NFKC", text)))
            for clip in clips for text in [clip.get("text") or ""]]
    texts = ["\n".join(t for _, t in said if t), "\n".join(t for r, t in said if t and r in SPOKEN), said[-1][1]]
    counts = []
    for part in parts:
        terms = cut(texts[part["text"]].lower(), **part["cut"])
        numbers = dict.fromkeys(part["terms"], 0)
        for term in terms:
            if term in numbers:
                numbers[term] += 1
        counts += numbers.values()
    return np.array(counts, np.float32)


def cut(text, analyzer, ngrams, pattern):
    low, high = ngrams
    if analyzer == "word":
        tokens = re.findall(pattern, text)
        return [" ".join(tokens[i : i + n]) for n in range(low, high + 1) for i in range(len(tokens) - n + 1)]
    words = [f" {word} " for word in text.split()]
    whole = [(w, n) for w in words for n in range(low, high + 1) if n <= len(w)]
    return [w[i : i + n] for w, n in whole for i in range(len(w) - n + 1)]


def shown(log_p, names):
    return None if np.isnan(log_p).any() else dict(zip(names, np.exp(log_p).astype(float).round(6).tolist()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path)
    parser.add_argument("--metadata", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--int8", action="store_true", help="the quantised heads, where they were exported")
    given = parser.parse_args()
    if not given.features.is_dir():
        raise SystemExit(f"{given.features}: no folder")
    features = {path.stem: dict(np.load(path)) for path in sorted(given.features.glob("*.npz"))}
    for path in sorted(given.features.glob("*/*.npy")):
        features.setdefault(path.parent.name, {})[path.stem] = np.load(path)
    stack, described = Stack(Path(__file__).parent, given.int8), given.features / "units.json"
    clips = sorted({clip for source in features.values() for clip in source})
    units = [{"unit": clip, "clips": [{"id": clip, "role": "speaker"}]} for clip in clips]
    units = json.loads(described.read_text(encoding="utf-8")) if described.is_file() else units
    metadata = dict(pair.partition("=")[::2] for pair in given.metadata)
    answers = [stack.predict([metadata | unit], features)[0] for unit in units]
    for answer in answers:
        print(json.dumps(answer, ensure_ascii=False))
    if not answers or any(answer["probabilities"] is None for answer in answers):
        sys.exit(f"{sum(a['probabilities'] is None for a in answers)} of {len(answers)} units without an answer")


if __name__ == "__main__":
    main()
