"""What is done to a loaded network so that padding, speed and precision do not change what it says.

Call ``ReadyNetwork(network, precision, device)`` once, after ``keep_needed_layers``; then, for each batch,
``ready.hidden_states(inputs, lengths)`` under ``torch.inference_mode()``, where ``lengths`` is None unless rows were
padded at their ends. Of a padded row, only its first steps are its own: as many as its tokens, or ``steps_after`` its
samples.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from configs import UserError

Precision = Literal["float32", "bfloat16", "float16"]
PACKED_ROWS = 256  # the number of rows that weights are laid out for; any other number works as well
WRONG = 0.05  # of the largest value; rounding to bfloat16 costs 0.003
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)


class ReadyNetwork:
    """A frozen network in its precision, on its device; of a padded batch it gives each row what it gives alone.

    The network is changed in place:

    - Convolutions' weight normalisation is computed once instead of in each pass.
    - Wav2Vec2 and kin: layers that would mix a clip with its padding work on the clip's own time steps
      (``OwnStepsGroupNorm``, ``OwnStepsBatchNorm``).
    - TimeSformer and WavLM: attention through torch's fused kernels, equal up to rounding.
    - On CPU: linear layers through oneDNN, with weights laid out for it once (``_pack_linear_layers``).
    - bfloat16: on CPU the weights themselves, except those of normalisations, whose statistics and scale stay in
      float32; on CUDA autocast, which keeps the same ones in float32. float16: autocast, CUDA only.
    - float32 on CUDA: without TF32, whose products have 10 bits.

    Args:
        network: a transformers model, or any module that is only used through ``call``.
        precision: what products of matrices and convolutions are computed in; ``int8``, which no store is made with:
            linear layers alone, the rest in float32.
        runtime: with ``openvino`` the network stays one that ``openvino_hidden`` can convert: in float32, its linear
            layers as they are; the precision is given to ``openvino_hidden``.

    Raises:
        UserError: float16 on a CPU, OpenVINO on a GPU, or a CPU whose bfloat16 convolutions are wrong.
    """

    def __init__(
        self,
        network: nn.Module,
        precision: Precision | Literal["int8"],
        device: torch.device,
        runtime: Literal["torch", "openvino"] = "torch",
    ) -> None:
        if runtime == "openvino" and device.type != "cpu":
            raise UserError("runtime: openvino is for CPUs; on a GPU write runtime: torch")
        if precision == "float16" and device.type == "cpu":
            raise UserError("precision: float16 is for GPUs; on a CPU write bfloat16 (fast) or float32 (exact)")
        if precision == "int8" and (runtime == "openvino" or device.type != "cpu"):
            raise UserError("int8 is for CPUs and runtime: torch; leave it out, or take --precision bf16")
        self.network: Any = network.eval().requires_grad_(False).to(device)
        exact = runtime == "openvino" or precision == "int8"
        self._dtype = torch.float32 if exact else getattr(torch, precision)
        self._device = device
        _fold_weight_norms(network)
        _fuse_attention(network)
        self._own_steps = _keep_to_own_steps(network)
        if device.type == "cuda" and self._dtype == torch.float32:
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        if device.type == "cpu" and self._dtype != torch.float32:
            network.to(self._dtype)
            for module in network.modules():
                if isinstance(module, NORMS):
                    module.float()
            _try_grouped_convolutions(network, self._dtype)
        if precision == "int8":
            _quantise_linear_layers(network)
        elif device.type == "cpu" and runtime == "torch":
            _pack_linear_layers(network, self._dtype)

    def hidden_states(self, inputs: dict[str, Tensor], lengths: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """Hidden states of a batch, first to last: (batch, time, dim) each, in the dtype they were computed in.

        Args:
            inputs: what the network takes, stacked, on the device; rows padded at the end, where they are padded.
            lengths: samples or tokens of each row without its padding; None where no row is padded.
        """
        if lengths is not None and min(lengths) != max(lengths):
            longest = next(iter(inputs.values())).shape[1]
            own = torch.arange(longest) < torch.tensor(lengths)[:, None]  # (batch, time)
            inputs = inputs | {"attention_mask": sent(own, self._device).long()}
            for module in self._own_steps:
                module.n_samples = list(lengths)
        try:
            return self.call(lambda **cast: self.network(**cast, output_hidden_states=True).hidden_states, **inputs)
        finally:
            for module in self._own_steps:
                module.n_samples = None

    def call(self, function: Callable[..., Any], **inputs: Tensor) -> Any:
        """``function(**inputs)`` in this precision; ``function`` is the network or something that runs it."""
        autocast: AbstractContextManager = nullcontext()
        if self._device.type != "cpu" and self._dtype != torch.float32:
            autocast = torch.autocast(self._device.type, dtype=self._dtype)
        elif self._dtype != torch.float32:
            inputs = {name: x.to(self._dtype) if x.is_floating_point() else x for name, x in inputs.items()}
        with autocast:
            return function(**inputs)


def _quantise_linear_layers(network: nn.Module) -> None:
    """Weights of eight bits, multiplied with inputs that are rounded to eight bits as they come."""
    from torch.ao.quantization import quantize_dynamic

    if not any(type(module) is nn.Linear for module in network.modules()):
        raise UserError("has no linear layers, which are what int8 is for: take --precision bf16")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # it names a library that is not installed
        warnings.filterwarnings("ignore", category=UserWarning)
        quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8, inplace=True)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of this process on a device. A GPU is not waited for: its queue goes on while it comes."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def steps_after(n_samples: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Time steps after convolutions without padding: ``floor((n - kernel) / stride) + 1`` for each."""
    for kernel, stride in zip(kernels, strides, strict=True):
        n_samples = (n_samples - kernel) // stride + 1
    return n_samples


class OwnStepsGroupNorm(nn.Module):
    """The GroupNorm after the first convolution of Wav2Vec2 and kin, over each clip's own time steps.

    With as many groups as channels, it takes each clip i and channel c over all time steps t:
    ``y[i,c,t] = (x[i,c,t] - m[i,c]) / sqrt(v[i,c] + eps) * w[c] + b[c]``, where m and v are mean and variance over t.
    Padding to T steps therefore changes every step of a clip. A convolution with kernel k and stride s, without
    padding of its own, gives ``T_i = (n_i - k) // s + 1`` steps that depend on the clip's n_i samples only; with m and
    v over t < T_i they are what the clip gives alone. Later convolutions again have steps that depend on own steps
    only, and there are ``steps_after`` n_i samples of them. Steps past T_i become zero; no own step depends on them.
    """

    def __init__(self, norm: nn.GroupNorm, kernel: int, stride: int) -> None:
        super().__init__()
        self.norm = norm
        self.kernel, self.stride = kernel, stride
        self.n_samples: list[int] | None = None  # of each row of the batch, where rows are padded

    def forward(self, hidden: Tensor) -> Tensor:  # (batch, channels, time)
        if self.n_samples is None:
            return self.norm(hidden)
        rows = []
        for row, n_samples in zip(hidden.split(1), self.n_samples, strict=True):
            n_own = steps_after(n_samples, [self.kernel], [self.stride])
            rows.append(F.pad(self.norm(row[..., :n_own]), (0, hidden.shape[2] - n_own)))
        return torch.cat(rows)


class OwnStepsBatchNorm(nn.Module):
    """The BatchNorm that some HuBERT models have before their positional convolution.

    The encoder zeroes the padding before it, and it maps zero to something else; alone, a clip has the convolution's
    zeros around it. So the padding is zeroed after it as well.
    """

    def __init__(self, norm: nn.BatchNorm1d, kernels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.norm = norm
        self.kernels, self.strides = kernels, strides
        self.n_samples: list[int] | None = None

    def forward(self, hidden: Tensor) -> Tensor:  # (batch, channels, time)
        hidden = self.norm(hidden)
        for row, n_samples in enumerate(self.n_samples or []):
            hidden[row, :, steps_after(n_samples, self.kernels, self.strides) :] = 0
        return hidden


def _keep_to_own_steps(network: nn.Module) -> list[OwnStepsGroupNorm | OwnStepsBatchNorm]:
    """Put the two modules above where Wav2Vec2 and kin need them."""
    put: list[OwnStepsGroupNorm | OwnStepsBatchNorm] = []
    if not hasattr(getattr(network, "config", None), "conv_kernel"):
        return put
    config: Any = network.config
    kernels, strides = config.conv_kernel, config.conv_stride
    for owner in list(network.modules()):
        norm = getattr(owner, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            owner.layer_norm = OwnStepsGroupNorm(norm, kernels[0], strides[0])
            put.append(owner.layer_norm)
        batch_norm = getattr(owner, "batch_norm", None)
        if isinstance(batch_norm, nn.BatchNorm1d):
            owner.batch_norm = OwnStepsBatchNorm(batch_norm, kernels, strides)
            put.append(owner.batch_norm)
    return put


class FusedTimesformerAttention(nn.Module):
    """``TimesformerSelfAttention`` (transformers) through ``scaled_dot_product_attention``: no matrix of weights."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.qkv, self.num_heads = attention.qkv, attention.num_heads

    def forward(self, hidden: Tensor, output_attentions: bool = False) -> tuple[Tensor]:  # (batch, tokens, dim)
        split = self.qkv(hidden).unflatten(-1, (3, self.num_heads, -1))  # (batch, tokens, 3, heads, dim / heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        return (F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2),)


class FusedWavLMAttention(nn.Module):
    """``WavLMAttention`` (transformers; Chen et al. 2022, arXiv:2110.13900) through ``scaled_dot_product_attention``.

    Its gated relative position bias is what is added to the products of queries and keys. The ungated bias
    (heads, time, time) goes from the first layer to the others, as there, but once instead of once a clip.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None, Tensor]:
        own = self.attention
        if position_bias is None:
            position_bias = own.compute_bias(hidden_states.shape[1], hidden_states.shape[1])
        heads = hidden_states.unflatten(-1, (own.num_heads, -1)).transpose(1, 2)  # (batch, heads, time, dim / heads)
        gates = own.gru_rel_pos_linear(heads).unflatten(-1, (2, 4)).sum(-1).sigmoid()  # (batch, heads, time, 2)
        first, second = gates.split(1, dim=-1)
        bias = (first * (second * own.gru_rel_pos_const - 1) + 2) * position_bias  # (batch, heads, time, time)
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask.bool()[:, None, None], float("-inf"))
        query, key, value = (
            project(hidden_states).unflatten(-1, (own.num_heads, -1)).transpose(1, 2)
            for project in (own.q_proj, own.k_proj, own.v_proj)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return own.out_proj(attended.transpose(1, 2).flatten(2)), None, position_bias


def _fuse_attention(network: nn.Module) -> None:
    model_type = getattr(getattr(network, "config", None), "model_type", None)
    if model_type == "timesformer":
        for owner in list(network.modules()):
            if type(owner).__name__ == "TimeSformerAttention":
                owner.attention = FusedTimesformerAttention(owner.attention)
    elif model_type == "wavlm":
        for layer in network.encoder.layers:  # type: ignore[union-attr]
            layer.attention = FusedWavLMAttention(layer.attention)


def _try_grouped_convolutions(network: nn.Module, dtype: torch.dtype) -> None:
    """Refuse what would be wrong without a word: on processors with AMX, oneDNN's bfloat16 convolution of torch 2.13
    gives other values (by a half and more) where a group has 4 to 12 channels. Networks of base size have 48."""
    generator = torch.Generator().manual_seed(0)
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv1d) or module.groups == 1:
            continue
        inputs = torch.randn(1, module.in_channels, module.kernel_size[0] + 64, generator=generator).to(dtype)
        with torch.inference_mode():
            found = module(inputs).float()
            bias = None if module.bias is None else module.bias.float()
            exact = module._conv_forward(inputs.float(), module.weight.float(), bias)  # with all of its settings
        if (found - exact).abs().max() > WRONG * exact.abs().max():
            raise UserError(
                f"precision: {str(dtype).removeprefix('torch.')}: the convolution {name}, of "
                f"{module.in_channels // module.groups} channels a group, is wrong on this processor: write float32"
            )


def _fold_weight_norms(network: nn.Module) -> None:
    """Replace ``w = g * v / |v|`` by w itself where a convolution's weight is written so.

    By one thread: the last bits of a norm are those of the number of threads that sum it, and w enters every clip.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for module in network.modules():
            if isinstance(module, nn.Conv1d) and parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
    finally:
        torch.set_num_threads(n_threads)


def _pack_linear_layers(network: nn.Module, dtype: torch.dtype) -> None:
    """Linear layers through oneDNN's kernels on weights in oneDNN's own layout, as torch.compile would call them.

    In float32, torch itself calls MKL, which is slower on AMD processors; in bfloat16 it calls oneDNN but lays the
    weights out anew in each pass, which costs the more the fewer rows there are. Where torch has no oneDNN, or the
    processor no bfloat16, nothing changes.
    """
    if not torch.backends.mkldnn.is_available():
        return
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    for module in network.modules():
        if type(module) is nn.Linear:
            packed = torch.ops.mkldnn._reorder_linear_weight(module.weight, PACKED_ROWS)
            product = _packed_product(packed, module.weight, module.bias)
            module.forward = product  # type: ignore[assignment, method-assign]


def _packed_product(packed: Tensor, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    def product(rows: Tensor) -> Tensor:
        if torch.jit.is_tracing():  # what is exported is for other machines, which know no layout of oneDNN
            return F.linear(rows, weight, bias)
        return torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")

    return product
