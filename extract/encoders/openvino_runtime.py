"""OpenVINO, an optional CPU runtime: what torch computes, converted in memory and checked against torch."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from configs import UserError, one_line
from extract.encoders.networks import Precision

Hidden = Callable[[dict[str, Tensor]], Tensor]
HINTS = {"float32": "f32", "bfloat16": "bf16"}
BOUNDS = {"float32": 1e-4, "bfloat16": 0.05}  # relative, in the Euclidean norm: far above what rounding costs


def openvino_hidden(
    network: nn.Module, hidden: Hidden, try_outs: list[dict[str, Tensor]], precision: Precision
) -> Hidden:
    """``hidden`` as OpenVINO computes it: the same doors, numbers equal up to the precision's rounding.

    The network is compiled once; any batch size and any length go through that one compilation. Rows must not be
    padded: batches are of equal lengths.

    Args:
        network: whose weights ``hidden`` uses; made ready by ``ReadyNetwork(..., runtime="openvino")``. It is not
            needed afterwards.
        hidden: stacked inputs -> (batch, time, dim).
        try_outs: at least two batches, which differ in each dimension that clips differ in, the number of rows among
            them. The dimensions that differ are left open; all of them are checked.
        precision: what products are computed in.

    Raises:
        UserError: OpenVINO is not installed, cannot run this network, or says something else than torch.
    """
    runtime = _runtime()
    if precision not in HINTS:
        raise UserError(
            f"precision: {precision} is not for runtime: openvino; write bfloat16 (fast) or float32 (exact)"
        )
    names = list(try_outs[0])
    wanted = [hidden(inputs).float() for inputs in try_outs]
    try:
        model = _converted(
            runtime, _Traced(network, hidden, names), [[batch[name] for name in names] for batch in try_outs]
        )
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = runtime.Core().compile_model(model, "CPU", settings).create_infer_request()

        def run(inputs: dict[str, Tensor]) -> Tensor:
            arrays = {place: inputs[name].contiguous().numpy() for place, name in enumerate(names)}
            return torch.from_numpy(request.infer(arrays)[0].copy())

        got = [run(inputs) for inputs in try_outs]
    except (RuntimeError, ValueError, TypeError) as error:
        reason = one_line(error, 300)
        raise UserError(f"runtime: openvino cannot run this network; use runtime: torch ({reason})") from error
    for said, meant in zip(got, wanted, strict=True):
        error_share = float("inf") if said.shape != meant.shape else ((said - meant).norm() / meant.norm()).item()
        if not error_share <= BOUNDS[precision]:
            raise UserError(
                f"runtime: openvino in {precision} differs from torch by {error_share:.1e} of the values, more than "
                f"{BOUNDS[precision]:g}; use runtime: torch"
            )
    return run


def openvino_version() -> str:
    """For fingerprints: another version may round otherwise. Raises UserError where OpenVINO is not installed."""
    return str(_runtime().__version__)


def _runtime() -> Any:
    try:
        import openvino
    except ImportError:
        raise UserError("runtime: openvino needs: pip install -e .[openvino]") from None
    return openvino


class _Traced(nn.Module):
    def __init__(self, network: nn.Module, hidden: Hidden, names: list[str]) -> None:
        super().__init__()
        self.network, self.hidden, self.names = network, hidden, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.hidden(dict(zip(self.names, inputs, strict=True)))


def _converted(runtime: Any, module: nn.Module, batches: list[list[Tensor]]) -> Any:
    """OpenVINO's model of a torch module, through its frontend: ``openvino.convert_model`` also reports usage."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    shapes = []
    for tensors in zip(*batches, strict=True):
        sizes = zip(*(tensor.shape for tensor in tensors), strict=True)
        shapes.append(runtime.PartialShape([size[0] if len(set(size)) == 1 else -1 for size in sizes]))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # what a trace would get wrong, the try-outs show
        traced = torch.jit.trace(module.eval(), tuple(batches[0]), check_trace=False, strict=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, shared_memory=False)  # a name, as the frontend does not keep it alive
    model = frontend.convert(frontend.load(decoder))
    model.reshape(dict(enumerate(shapes)))
    return model
