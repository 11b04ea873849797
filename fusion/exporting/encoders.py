"""A bundle's encoders as ONNX graphs: from what a network is given to its features, before time is pooled."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import Header, differing_fields
from configs import UserError, one_line
from extract.encoders.encoder import LoadedEncoder, Window, stack
from extract.encoders.loading import load_encoder
from extract.media.reading import SAMPLE_RATE
from extract.media.tasks import AudioTask, Decoded, VideoTask
from fusion.serving.bundle import Bundle

OPSET = 17  # torch's exporter of traces writes none above 20, and features need none above this one
CLOSE = 1e-4  # the most that features may differ, relative, in the Euclidean norm
ELSEWHERE = {"precision", "runtime", "openvino"}  # fields of a fingerprint that a graph does not share
OUTSIDE = {
    "text": ["cutting text into tokens, and a text too long into windows", "pooling over time"],
    "audio": ["decoding, the windows of a long clip, scaling or the spectrum", "pooling over time"],
    "video": ["decoding, choosing and cropping frames, segments of a long clip", "pooling over time"],
}


@dataclass(frozen=True)
class ExportedEncoder:
    """A graph that says what ``encoder.hidden`` says; ``batches`` are what this was tried on."""

    name: str
    encoder: LoadedEncoder
    model: bytes
    batches: list[dict[str, torch.Tensor]]
    about: dict[str, Any]  # for the manifest


def export_encoder(bundle: Bundle, name: str) -> ExportedEncoder:
    """One of the bundle's encoders, in float32.

    Raises:
        UserError: it is no network, cannot be loaded, is not the one that the heads were trained on, cannot be traced,
            or its graph differs from it. The line names it.
    """
    settings = bundle.profile.encoders[name]
    if settings.source:
        raise UserError(f"encoders.{name}: its features were computed elsewhere: there is no network")
    if settings.kind or settings.modality not in OUTSIDE:
        raise UserError(f"encoders.{name}: is computed from the signal alone: there is no network")
    own = settings.model_copy(update={"precision": "float32", "runtime": "torch"})
    profile = bundle.profile.model_copy(update={"encoders": bundle.profile.encoders | {name: own}})
    encoder = load_encoder(profile, name, "cpu")
    _refuse_another(name, encoder, bundle.stored[name])
    batches = _batches(encoder)
    try:
        model = _traced(encoder, batches)
        difference = _difference(encoder, model, batches)
    except _refusals() as error:
        raise UserError(f"encoders.{name}: torch.onnx cannot export it: {one_line(error, 200)}") from error
    if not difference <= CLOSE:
        raise UserError(f"encoders.{name}: its graph differs from torch by {difference:.1e}, more than {CLOSE:g}")
    first = batches[0]
    about = {
        "is": "encoder",
        "inputs": {
            each: {"dtype": str(x.dtype).removeprefix("torch."), "axes": _axes(each, batches)}
            for each, x in first.items()
        },
        "output": "hidden",
        "layer": settings.layer if settings.layers is None else settings.layers,
        "left_to_the_caller": OUTSIDE[settings.modality],
        "pooling": settings.pooling,
        "opset": OPSET,
        "checked": {"batches": len(batches), "largest_difference": difference, "allowed": CLOSE},
    }
    if settings.precision != "float32":
        about["note"] = f"in float32; features of the profile are computed in {settings.precision}"
    return ExportedEncoder(name, encoder, model, batches, about)


def session(model: bytes | Path) -> Any:
    """onnxruntime's, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    given = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def _refusals() -> tuple[type[Exception], ...]:
    """What torch raises of a network that it cannot trace or write, and onnxruntime of a graph that it refuses."""
    from onnxruntime.capi import onnxruntime_pybind11_state as own

    of_torch = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)
    return (*of_torch, own.Fail, own.InvalidArgument, own.InvalidGraph, own.NotImplemented, own.RuntimeException)


def run(opened: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """(batch, time, dim)."""
    return torch.from_numpy(opened.run(["hidden"], {name: x.numpy() for name, x in inputs.items()})[0])


def relative(found: torch.Tensor | np.ndarray, wanted: torch.Tensor | np.ndarray) -> float:
    """The distance of features from those that were wanted, as a share of these."""
    a, b = np.asarray(found, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    return float("inf") if a.shape != b.shape else float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _refuse_another(name: str, encoder: LoadedEncoder, stored: Header) -> None:
    fields = {**json.loads(json.dumps(encoder.fields)), "dtype": stored.dtype}  # as a store writes them
    differing = [field for field in differing_fields(fields, stored.fields) if field not in ELSEWHERE]
    if differing:
        raise UserError(
            f"encoders.{name}: not the encoder that the heads were trained on: it differs in {', '.join(differing)}"
        )


def _batches(encoder: LoadedEncoder) -> list[dict[str, torch.Tensor]]:
    """Two batches drawn with a seed, of another size and, where windows differ in length, another length."""
    rng = np.random.default_rng(0)

    def window(size: int) -> Window:
        task = encoder.task
        given: Any = " ".join(["so", "happy", "i", "am"] * size)
        if isinstance(task, AudioTask):
            samples = rng.normal(scale=0.1, size=8000 * size).astype(np.float32)
            given = Decoded(len(samples) / SAMPLE_RATE, len(samples), samples)
        elif isinstance(task, VideoTask):
            shape = (1, task.n_frames, task.size, task.size, 3)
            given = Decoded(1.0, 1, rng.integers(0, 256, shape, dtype=np.uint8))
        return next(iter(encoder.prepare(given).windows))

    small, large = [window(1) for _ in range(2)], [window(3) for _ in range(3)]
    if encoder.task is None and encoder.pad_values is not None:
        large[0] = window(2)  # a shorter text in the batch: padded, and told by the mask
    batches = []
    for windows in (small, large):
        inputs, lengths = stack(windows, encoder.pad_values or {})
        if lengths:
            longest = next(iter(inputs.values())).shape[1]
            inputs["attention_mask"] = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
        batches.append(inputs)
    return batches


def _axes(name: str, batches: Sequence[dict[str, torch.Tensor]]) -> list[int | str]:
    """A name for each axis that batches differ in, a number for the others."""
    sizes = list(zip(*(batch[name].shape for batch in batches), strict=True))
    names = ["batch", *("time" for _ in sizes[1:])]
    return [called if len(set(size)) > 1 else size[0] for called, size in zip(names, sizes, strict=True)]


class _Traced(torch.nn.Module):
    def __init__(self, encoder: LoadedEncoder, names: Sequence[str]) -> None:
        super().__init__()
        self.hidden, self.names = encoder.hidden, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.hidden(dict(zip(self.names, inputs, strict=True)), None).float()


def _traced(encoder: LoadedEncoder, batches: Sequence[dict[str, torch.Tensor]]) -> bytes:
    """The trace of the larger batch as a graph, its weights where quantising looks for them."""
    import onnx

    names, file = list(batches[1]), BytesIO()
    axes = {name: {i: axis for i, axis in enumerate(_axes(name, batches)) if isinstance(axis, str)} for name in names}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a trace would get wrong, the batches show; and it is said to be old
        torch.onnx.export(
            _Traced(encoder, names).eval(),
            tuple(batches[1].values()),
            file,  # type: ignore[arg-type]  # traces can be written to memory
            input_names=names,
            output_names=["hidden"],
            dynamic_axes=axes | {"hidden": {0: "batch", 1: "steps"}},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(file.getvalue())
    constants = [node for node in model.graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        model.graph.initializer.append(tensor)
        model.graph.node.remove(node)
    return model.SerializeToString()


def _difference(encoder: LoadedEncoder, model: bytes, batches: Sequence[dict[str, torch.Tensor]]) -> float:
    opened = session(model)
    with torch.inference_mode():
        return max(relative(run(opened, batch), encoder.hidden(batch, None).float()) for batch in batches)
