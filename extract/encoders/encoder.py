"""What every encoder has in common: settings in, `(time, dim)` arrays out."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from configs import UserError, one_line
from configs.schema import MAX_DAMAGE, Encoder
from extract.arrays.names import Arrays
from extract.augmenting.views import Augmenter
from extract.encoders.checkpoints.network import FAULTS
from extract.encoders.checkpoints.weights import weights_hash
from extract.encoders.layers import moments, pool_moments
from extract.encoders.networks import sent
from extract.media.damage import Damage
from extract.media.tasks import Task

Stream = Iterator[Any]  # of a long clip: Streamed, then arrays
Hidden = Callable[[dict[str, torch.Tensor], list[int] | None], torch.Tensor]

CPU = torch.device("cpu")
ENCODER_VERSION = 2  # raise it when code in this folder changes the values an encoder gives


@dataclass(frozen=True)
class Window:
    """A piece of a clip that the network takes at once; most clips are one window.

    ``inputs``: arrays without a batch dimension. ``keep``: which time steps of the network's output are the clip's:
    windows overlap, and each step is taken from the window in which it is farther from the edge.
    ``n_tokens``: what it costs, in time steps, tokens or patches.
    """

    inputs: dict[str, np.ndarray]
    keep: slice
    n_tokens: int

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple((name, array.shape) for name, array in sorted(self.inputs.items()))


@dataclass(frozen=True)
class Prepared:
    """A clip ready for the network: its ``windows`` in order, ``n_steps`` time steps in all.

    ``seconds`` is how long the clip is, None for text. Windows of a long clip come from a stream, once.
    """

    windows: Iterable[Window]
    n_steps: int
    seconds: float | None = None


@dataclass(frozen=True)
class Begun:
    """A batch that may still be on its way: ``hidden`` (batch, time, dim), or the moments of its kept time steps
    (batch, 3, dim), is on the host once ``done`` has happened."""

    windows: list[Window]
    hidden: torch.Tensor
    done: torch.cuda.Event | None = None  # None: it is there
    summed: bool = False  # whether these are moments

    def kept(self) -> list[np.ndarray]:
        """The kept time steps of each window, (time, dim) float32, or their moments, when they have come."""
        if self.done is not None:
            self.done.synchronize()
        if self.summed:
            return list(self.hidden.numpy())
        return [values[window.keep] for values, window in zip(self.hidden.numpy(), self.windows, strict=True)]


@dataclass(frozen=True)
class LoadedEncoder:
    """A frozen network with everything around it that decides its values.

    ``task`` says how a media file is decoded, None for text. ``prepare`` takes what was decoded, or the text (of
    features, the clip's id and content hash), and may raise ClipError; ``prepare_long`` takes the stream of a clip too
    long to be held at once. ``hidden`` takes stacked inputs, and the rows' lengths where they are padded, and gives
    (batch, time, dim). ``pad_values``, where the network can take a batch of clips of several lengths: what stands
    behind the shorter ones, by input (default 0).
    ``fields`` is what the fingerprint is made of.
    """

    dim: int
    fields: dict[str, Any]
    task: Task | None
    prepare: Callable[[Any], Prepared]
    prepare_long: Callable[[Stream], Prepared] | None
    hidden: Hidden
    spec: Encoder
    device: torch.device
    pad_values: dict[str, int] | None = None
    arrays: Arrays | None = None  # of the family features: what there is to read in the place of media
    augment: Augmenter | None = None  # of a view: what it makes of a clip before that is prepared

    def encode(self, batches: Iterable[list[Window]]) -> Iterator[list[np.ndarray]]:
        """For each batch the kept time steps of its windows: (time, dim) float32 arrays; of several layers, whose time
        steps would fill the memory, their moments (:func:`moments`).

        While a GPU works on a batch, the next one is stacked and sent, and the last one's output fetched.
        """
        in_flight: Begun | None = None
        for windows in batches:
            begun = self.begin(windows)
            if in_flight is not None:
                yield in_flight.kept()
            in_flight = begun
        if in_flight is not None:
            yield in_flight.kept()

    @torch.inference_mode()
    def begin(self, windows: list[Window]) -> "Begun":
        """A batch on its way: what is left to do on a GPU is in its queue, and nothing has been waited for."""
        inputs, lengths = stack(windows, self.pad_values or {}, self.device)
        try:
            there = {name: sent(x, self.device) for name, x in inputs.items()}
            hidden = self.hidden(there, lengths).float()  # (batch, time, dim)
            if not hidden.is_cuda:  # Apple's GPUs know no float64
                hidden = hidden.cpu()
            summed = self.spec.layers is not None
            if summed:
                hidden = moments(hidden, [window.keep for window in windows])
        except torch.OutOfMemoryError as error:
            tokens = self.spec.batch_tokens
            where = f"the memory of {self.device}"
            raise UserError(f"batch_tokens = {tokens}: too large for {where}; try {tokens // 2}") from error
        if not hidden.is_cuda:
            return Begun(windows, hidden, summed=summed)
        on_host = torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True).copy_(hidden, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return Begun(windows, on_host, done, summed)

    def alone(self, source: Path | str) -> np.ndarray:
        """Features (time, dim) of one clip, a media file or a text, computed here and now: what its store holds.

        Raises:
            MediaError, ClipError: it cannot be decoded, or this encoder cannot take it.
        """
        clip = self.prepare(source) if isinstance(source, str) else self._decoded_here(source)
        pieces = (kept for (kept,) in self.encode([window] for window in clip.windows))
        return np.concatenate(list(self.pooled(clip, pieces)))

    def _decoded_here(self, path: Path) -> Prepared:
        assert self.task is not None
        assert self.prepare_long is not None
        decoded = self.task.decode(path, lambda: None)
        if decoded.data is None:
            stream = self.task.stream(path, lambda: None)
            return self.prepare_long(item for item in stream if not isinstance(item, Damage))
        return self.prepare(decoded)

    def pooled(self, clip: Prepared, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """A clip's features, part after part, from the kept steps of its windows."""
        if self.spec.pooling == "statistics" or self.spec.layers is not None:
            about = self.fields["layers"]
            widths = [width for _, width in about["taken"]]
            return iter([pool_moments(pieces, widths, "deviation" in about["statistics"])])
        return pool_time(pieces, clip.n_steps, self.spec.pooling, clip.seconds)


def stack(
    windows: list[Window], pad_values: dict[str, int], device: torch.device = CPU
) -> tuple[dict[str, torch.Tensor], list[int] | None]:
    """Inputs of a batch, (batch, ...); where lengths differ, the shorter rows are padded at their end, and the
    lengths of their own are given too. They lie in main memory; for a GPU where it fetches them by itself."""

    def empty(shape: tuple[int, ...], like: np.ndarray) -> torch.Tensor:
        dtype = torch.from_numpy(np.empty(0, like.dtype)).dtype
        return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")

    batch = {}
    if all(window.shapes == windows[0].shapes for window in windows):
        for name, first in windows[0].inputs.items():
            batch[name] = empty((len(windows), *first.shape), first)
            np.stack([window.inputs[name] for window in windows], out=batch[name].numpy())
        return batch, None
    lengths = [len(next(iter(window.inputs.values()))) for window in windows]
    for name, first in windows[0].inputs.items():
        batch[name] = empty((len(windows), max(lengths)), first)
        for row, window in zip(batch[name].numpy(), windows, strict=True):
            own = window.inputs[name]
            row[: len(own)] = own
            row[len(own) :] = pad_values.get(name, 0)
    return batch, lengths


def pool_time(
    pieces: Iterable[np.ndarray], n_steps: int, pooling: Literal["none", "mean"] | float, seconds: float | None
) -> Iterator[np.ndarray]:
    """Average over time: nothing, everything, or down to a rate.

    Args:
        pieces: (time, dim) arrays that follow each other, ``n_steps`` time steps in all.
        pooling: ``none``, ``mean``, or a target rate in Hz. For a rate, time is cut into ``round(seconds * rate)``
            parts whose lengths differ by one step at most, and each is averaged; never more parts than steps.
        seconds: the clip's duration, needed for a rate.

    Yields:
        (time, dim) float32 arrays; a part that spans two pieces comes when it is complete.
    """
    if pooling == "none":
        yield from (np.ascontiguousarray(piece) for piece in pieces)
        return
    n_parts = 1
    if pooling != "mean":
        if seconds is None:
            raise ValueError("a rate in Hz needs a clip that has a duration")
        n_parts = min(n_steps, max(1, round(seconds * pooling)))
    edges = np.linspace(0, n_steps, n_parts + 1).astype(int)  # part k is steps edges[k] to edges[k + 1]
    seen, part, begun = 0, 0, np.float64(0)
    for piece in pieces:
        inside = edges[(edges > seen) & (edges < seen + len(piece))] - seen
        sums = np.add.reduceat(piece, np.append(0, inside), axis=0).astype(np.float64)  # (parts touched, dim)
        sums[0] += begun
        seen += len(piece)
        complete = len(sums) if seen == edges[part + len(sums)] else len(sums) - 1
        begun = np.float64(0) if complete == len(sums) else sums[-1]
        lengths = np.diff(edges[part : part + complete + 1])
        part += complete
        if complete:
            yield (sums[:complete] / lengths[:, None]).astype(np.float32)


def fingerprint_fields(spec: Encoder, files: list[Path], **more: Any) -> dict[str, Any]:
    """What every encoder's fingerprint is made of, and what a modality adds; where the files lie does not enter."""
    common = {
        "encoder_version": ENCODER_VERSION,
        "family": spec.family,
        "weights": weights_hash(files),
        "revision": spec.revision,
        "layer": spec.layer,
        "pooling": spec.pooling,
        "precision": spec.precision,
        "runtime": spec.runtime,
    }
    if spec.boundary is not None:  # only where it is set: stores from before there was such a setting stay valid
        common["boundary"] = spec.boundary
    if spec.max_damage != MAX_DAMAGE:  # as before; and what one share lets in, a stricter one must not find
        common["max_damage"] = spec.max_damage
    return common | more


@torch.inference_mode()
def try_out(
    hidden: Hidden,
    windows: list[Window],
    spec: Encoder,
    device: torch.device,
    pad_values: dict[str, int] | None = None,
) -> tuple[int, int]:
    """Time steps and width of a batch's features, by running it: a layer or a processor that does not fit, or a
    network that takes one window only, ends here, before any work.

    Raises:
        UserError: the network refuses the windows, gives something else for them, or has no such layer.
    """
    try:
        inputs, lengths = stack(windows, pad_values or {})
        given = hidden({name: x.to(device) for name, x in inputs.items()}, lengths)
        n_rows, n_steps, dim = given.shape
    except FAULTS as error:
        raise does_not_take(spec, error) from error
    if not torch.isfinite(given).all():
        raise does_not_take(spec, "gives values that are no numbers")
    if n_rows != len(windows):
        raise does_not_take(spec, f"{n_rows} rows come of a batch of {len(windows)}")
    return n_steps, dim


@torch.inference_mode()
def try_positions(network: Any, window: Window, spec: Encoder, device: torch.device) -> None:
    """Whether a network takes a window as long as they come: up to its first layer, where positions have been looked
    up. The layers, which take seconds, know no lengths.

    Raises:
        UserError: it refuses the window.
    """
    stacks = (module for module in network.modules() if isinstance(module, torch.nn.ModuleList) and len(module))
    layers = max(stacks, key=len, default=None)
    hook = None if layers is None else layers[0].register_forward_pre_hook(_stop)
    inputs, _ = stack([window], {})
    try:
        network(**{name: x.to(device) for name, x in inputs.items()})
    except _EnoughError:
        pass
    except FAULTS as error:
        raise does_not_take(spec, f"{window.n_tokens} tokens: {error}") from error
    finally:
        if hook is not None:
            hook.remove()


class _EnoughError(Exception):
    """What is wanted of a network has been computed."""


def _stop(*_: Any) -> None:
    raise _EnoughError


def does_not_take(spec: Encoder, reason: object) -> UserError:
    return UserError(f"model {spec.model!r}: does not take what its processor gives: {one_line(reason, 300)}")


def run_by(
    hidden: Hidden, network: Any, spec: Encoder, examples: list[tuple[Window, int]]
) -> tuple[Hidden, dict[str, Any]]:
    """``hidden`` on the runtime that the profile asks for, and what this adds to the fingerprint.

    Args:
        examples: windows that differ in all in which windows do, and how many of each to try at once.
    """
    if spec.runtime == "torch":
        return hidden, {}
    from extract.encoders.openvino_runtime import openvino_hidden, openvino_version

    batches = [stack([window] * n, {})[0] for window, n in examples]
    compiled = openvino_hidden(network, lambda inputs: hidden(inputs, None), batches, spec.precision)
    return lambda inputs, lengths: compiled(inputs), {"openvino": openvino_version()}
