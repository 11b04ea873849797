"""A network made ready says what transformers' own says: padded or alone, whatever its attention, close in bfloat16."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import IMAGES, MODALITIES, N_FRAMES, SIZE, WORDS, network_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import TimesformerConfig, TimesformerModel

from configs import UserError
from extract.encoders.layers import drop_unused_layers
from extract.encoders.networks import Precision, ReadyNetwork, steps_after

CPU = torch.device("cpu")
WAVES = [name for name, (_, family) in MODALITIES.items() if family in ("wav2vec2", "hubert", "wavlm")]
TEXTS = [name for name, (modality, _) in MODALITIES.items() if modality == "text"]
TOLERANCE = 1e-5  # rounding
HALF_TOLERANCE = 0.05

wave_lengths = st.lists(st.integers(400, 20_000), min_size=2, max_size=4)
text_lengths = st.lists(st.integers(3, 20), min_size=2, max_size=5)


def as_loaded(checkpoints: Path, name: str) -> Any:
    """As transformers loads it and runs it."""
    return network_of(name, checkpoints / name).eval()


def made_ready(checkpoints: Path, name: str, precision: Any = "float32", device: torch.device = CPU) -> ReadyNetwork:
    return ReadyNetwork(as_loaded(checkpoints, name), precision, device)


def difference(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative, in the Euclidean norm; infinite where a shape or a NaN is wrong."""
    if got.shape != wanted.shape:
        return float("inf")
    error = (got.float().cpu() - wanted).norm() / wanted.norm()
    return float("inf") if error.isnan() else error.item()


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "wavlm"])
def test_the_number_of_threads_changes_no_weight(checkpoints: Path, name: str) -> None:
    """A norm that several threads sum has other last bits, and would enter every clip of a pass."""
    weights = []
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        try:
            weights.append(made_ready(checkpoints, name).network.encoder.pos_conv_embed.conv.weight)
        finally:
            torch.set_num_threads(1)
    assert torch.equal(*weights)


def rows_of(name: str, lengths: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    if name in TEXTS:
        return [torch.randint(5, len(WORDS), (n,), generator=generator) for n in lengths]
    return [torch.randn(n, generator=generator) for n in lengths]


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    """A batch of two, as the family takes it."""
    torch.manual_seed(1)
    modality, family = MODALITIES[name]
    if modality == "text":
        return {"input_ids": torch.randint(5, len(WORDS), (2, 9))}
    if family == "whisper":
        return {"input_features": torch.randn(2, 16, 100)}
    if family in ("timesformer", "videomae"):
        return {"pixel_values": torch.randn(2, 4, 3, SIZE, SIZE)}
    if family == "image":
        return {"pixel_values": torch.randn(2, 3, SIZE, SIZE)}
    return {"input_values": torch.randn(2, 4000)}


def worst_of_padded(own: Any, ready: ReadyNetwork, name: str, lengths: list[int], device: torch.device = CPU) -> float:
    """The largest difference, over rows and hidden states, between a padded batch and each row alone."""
    key = "input_ids" if name in TEXTS else "input_values"
    rows = rows_of(name, lengths)
    batch = pad_sequence(rows, batch_first=True, padding_value=1 if name == "roberta" else 0).to(device)
    worst = 0.0
    with torch.inference_mode():
        padded = ready.hidden_states({key: batch}, lengths)
        for place, row in enumerate(rows):
            alone = own.to(device)(**{key: row[None].to(device)}, output_hidden_states=True).hidden_states
            for got, wanted in zip(padded, alone, strict=True):
                config = own.config
                n_own = len(row) if name in TEXTS else steps_after(len(row), config.conv_kernel, config.conv_stride)
                worst = max(worst, difference(got[place, :n_own], wanted[0].cpu()))
    return worst


@pytest.fixture(scope="module", params=WAVES + TEXTS)
def padded_pair(request: pytest.FixtureRequest, checkpoints: Path) -> tuple[str, Any, ReadyNetwork]:
    """A family that takes padded batches: its name, as loaded, made ready."""
    return request.param, as_loaded(checkpoints, request.param), made_ready(checkpoints, request.param)


@settings(max_examples=15, deadline=None)
@given(waves=wave_lengths, texts=text_lengths)
@example(waves=[400, 20_000], texts=[3, 20])  # the shortest next to the longest
@example(waves=[20_000, 400, 719, 401], texts=[20, 3, 4])
def test_padding_changes_no_hidden_state(
    padded_pair: tuple[str, Any, ReadyNetwork], waves: list[int], texts: list[int]
) -> None:
    name, own, ready = padded_pair
    # Layer norms over 8 channels enlarge rounding where these hardly differ: now and then 1e-5 is passed by a little.
    assert worst_of_padded(own, ready, name, texts if name in TEXTS else waves) <= 3 * TOLERANCE


def test_without_own_steps_padding_would_change_them(checkpoints: Path) -> None:
    """The check above can fail: the attention mask alone is not enough."""
    own, ready = as_loaded(checkpoints, "wav2vec2"), made_ready(checkpoints, "wav2vec2")
    ready._own_steps.clear()
    assert worst_of_padded(own, ready, "wav2vec2", [400, 20_000]) > 0.1


def test_a_padded_batch_leaves_no_trace(checkpoints: Path) -> None:
    ready = made_ready(checkpoints, "wav2vec2")
    rows = rows_of("wav2vec2", [4000, 900])
    with torch.inference_mode():
        before = ready.hidden_states({"input_values": rows[0][None]})
        ready.hidden_states({"input_values": pad_sequence(rows, batch_first=True)}, [4000, 900])
        after = ready.hidden_states({"input_values": rows[0][None]})
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("name", WAVES)
@pytest.mark.parametrize("layer", [0, 1])
def test_padding_changes_nothing_where_layers_were_dropped(checkpoints: Path, name: str, layer: int) -> None:
    own, cut = as_loaded(checkpoints, name), as_loaded(checkpoints, name)
    drop_unused_layers(cut, layer)
    ready = ReadyNetwork(cut, "float32", CPU)
    rows = rows_of(name, [5000, 600])
    with torch.inference_mode():
        padded = ready.hidden_states({"input_values": pad_sequence(rows, batch_first=True)}, [5000, 600])
        for place, row in enumerate(rows):
            wanted = own(row[None], output_hidden_states=True).hidden_states[layer][0]
            assert difference(padded[layer][place, : len(wanted)], wanted) <= TOLERANCE


@pytest.mark.parametrize("name", MODALITIES)
def test_a_ready_network_says_what_the_loaded_one_says(checkpoints: Path, name: str) -> None:
    inputs = inputs_of(name)
    with torch.inference_mode():
        wanted = as_loaded(checkpoints, name)(**inputs, output_hidden_states=True).hidden_states
        got = made_ready(checkpoints, name).hidden_states(inputs)
    assert max(difference(one, other) for one, other in zip(got, wanted, strict=True)) <= TOLERANCE


@pytest.mark.parametrize("kind", ["divided_space_time", "joint_space_time", "space_only"])
def test_every_attention_of_timesformer_is_equal(kind: str) -> None:
    def build() -> Any:
        torch.manual_seed(0)
        return TimesformerModel(TimesformerConfig(**IMAGES, num_frames=N_FRAMES, attention_type=kind)).eval()

    inputs = {"pixel_values": torch.randn(2, N_FRAMES, 3, SIZE, SIZE)}
    with torch.inference_mode():
        wanted = build()(**inputs, output_hidden_states=True).hidden_states
        got = ReadyNetwork(build(), "float32", CPU).hidden_states(inputs)
    assert max(difference(one, other) for one, other in zip(got, wanted, strict=True)) <= TOLERANCE


@pytest.mark.parametrize("name", MODALITIES)
def test_bfloat16_is_close_to_float32(checkpoints: Path, name: str) -> None:
    inputs = inputs_of(name)
    with torch.inference_mode():
        wanted = as_loaded(checkpoints, name)(**inputs, output_hidden_states=True).hidden_states
        got = made_ready(checkpoints, name, "bfloat16").hidden_states(inputs)
    errors = [difference(one, other) for one, other in zip(got, wanted, strict=True)]
    assert max(errors) <= HALF_TOLERANCE
    assert max(errors) > 1e-4  # it was computed in bfloat16


@pytest.mark.parametrize("name", WAVES)
def test_padding_is_as_harmless_in_bfloat16(checkpoints: Path, name: str) -> None:
    own, ready = as_loaded(checkpoints, name), made_ready(checkpoints, name, "bfloat16")
    assert worst_of_padded(own, ready, name, [9000, 400, 3000]) <= HALF_TOLERANCE


def test_float16_is_refused_on_a_cpu(checkpoints: Path) -> None:
    with pytest.raises(UserError, match="float16 is for GPUs"):
        made_ready(checkpoints, "bert", "float16")


@pytest.mark.gpu
@pytest.mark.parametrize("name", WAVES + TEXTS)
def test_padding_changes_no_hidden_state_on_a_gpu(checkpoints: Path, name: str) -> None:
    device = torch.device("cuda")
    own, ready = as_loaded(checkpoints, name), made_ready(checkpoints, name, device=device)
    lengths = [3, 20, 9] if name in TEXTS else [400, 20_000, 3000]
    assert worst_of_padded(own, ready, name, lengths, device) <= TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODALITIES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_is_close_to_a_cpu(checkpoints: Path, name: str, precision: str) -> None:
    inputs = inputs_of(name)
    ready = made_ready(checkpoints, name, precision, torch.device("cuda"))
    with torch.inference_mode():
        wanted = as_loaded(checkpoints, name)(**inputs, output_hidden_states=True).hidden_states
        got = ready.hidden_states({key: value.cuda() for key, value in inputs.items()})
    bound = 1e-4 if precision == "float32" else HALF_TOLERANCE
    assert max(difference(one, other) for one, other in zip(got, wanted, strict=True)) <= bound


@pytest.mark.parametrize(("wrong", "precision"), [(True, "bfloat16"), (True, "float32"), (False, "bfloat16")])
def test_a_convolution_that_is_wrong_in_bfloat16_is_refused(wrong: bool, precision: Precision) -> None:
    """As that of oneDNN is for a few channels a group on processors with AMX; here made so, whatever the processor."""

    class Convolution(nn.Conv1d):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            exact = nn.functional.conv1d(given.float(), self.weight.float(), None, groups=self.groups)
            return (exact.flip(-1) if wrong and given.dtype == torch.bfloat16 else exact).to(given.dtype)

    network = nn.Sequential(Convolution(8, 8, 3, groups=4, bias=False))
    if wrong and precision == "bfloat16":
        with pytest.raises(UserError, match=r"bfloat16: the convolution 0, of 2 channels a group, is wrong on"):
            ReadyNetwork(network, precision, CPU)
    else:
        ReadyNetwork(network, precision, CPU)
