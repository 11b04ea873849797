"""OpenVINO in torch's place: equal up to rounding for every family, batch size and length, or one clear line."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import MODALITIES, SIZE, WORDS, network_of

from configs import UserError
from extract.encoders.networks import ReadyNetwork
from extract.encoders.openvino_runtime import openvino_hidden

CPU = torch.device("cpu")
Inputs = dict[str, torch.Tensor]
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is an extra")


def loaded(checkpoints: Path, name: str, precision: Any = "float32", layer: int = 1) -> tuple[Any, Callable]:
    ready = ReadyNetwork(network_of(name, checkpoints / name), precision, CPU, "openvino")
    return ready.network, lambda inputs: ready.hidden_states(inputs)[layer]


def batch(name: str, rows: int, length: int) -> Inputs:
    """Rows of a family; ``length`` is in units of 400 samples or tokens where clips differ in length."""
    generator = torch.Generator().manual_seed(rows * length)
    modality, family = MODALITIES[name]
    if modality == "text":
        return {"input_ids": torch.randint(5, len(WORDS), (rows, length), generator=generator)}
    key, shape = {
        "whisper": ("input_features", (rows, 16, 100)),
        "timesformer": ("pixel_values", (rows, 4, 3, SIZE, SIZE)),
        "videomae": ("pixel_values", (rows, 4, 3, SIZE, SIZE)),
        "image": ("pixel_values", (rows, 3, SIZE, SIZE)),
    }.get(family, ("input_values", (rows, 400 * length)))
    return {key: torch.randn(shape, generator=generator)}


@needs_openvino
@pytest.mark.parametrize("name", MODALITIES)
@torch.inference_mode()
def test_it_says_what_torch_says_at_any_length(checkpoints: Path, name: str) -> None:
    network, hidden = loaded(checkpoints, name)
    run = openvino_hidden(network, hidden, [batch(name, 2, 4), batch(name, 3, 7)], "float32")
    for rows, length in ((1, 3), (5, 20), (1, 11)):
        inputs = batch(name, rows, length)
        torch.testing.assert_close(run(inputs), hidden(inputs), rtol=1e-3, atol=1e-4)


@needs_openvino
@pytest.mark.parametrize("name", ["wav2vec2", "bert"])
@torch.inference_mode()
def test_the_hidden_state_asked_for_is_given(checkpoints: Path, name: str) -> None:
    for layer in (0, 2):
        network, hidden = loaded(checkpoints, name, layer=layer)
        run = openvino_hidden(network, hidden, [batch(name, 2, 4), batch(name, 3, 7)], "float32")
        inputs = batch(name, 1, 9)
        torch.testing.assert_close(run(inputs), hidden(inputs), rtol=1e-3, atol=1e-4)


@needs_openvino
@torch.inference_mode()
def test_bfloat16_is_close(checkpoints: Path) -> None:
    network, hidden = loaded(checkpoints, "wav2vec2", "bfloat16")
    run = openvino_hidden(network, hidden, [batch("wav2vec2", 2, 4), batch("wav2vec2", 3, 7)], "bfloat16")
    inputs = batch("wav2vec2", 1, 9)
    wanted = hidden(inputs)
    assert (run(inputs) - wanted).norm() <= 0.05 * wanted.norm()


@needs_openvino
@torch.inference_mode()
def test_another_answer_than_torchs_is_refused(checkpoints: Path) -> None:
    network, hidden = loaded(checkpoints, "bert")
    answers = iter((0.0, 0.0))  # torch is asked first, once for each batch, then traced

    def changed(inputs: Inputs) -> torch.Tensor:
        return hidden(inputs) + next(answers, 1.0)

    with pytest.raises(UserError, match="differs from torch"):
        openvino_hidden(network, changed, [batch("bert", 2, 4), batch("bert", 3, 7)], "float32")


@needs_openvino
def test_float16_is_refused(checkpoints: Path) -> None:
    network, hidden = loaded(checkpoints, "bert")
    with pytest.raises(UserError, match="float16 is not for runtime: openvino"):
        openvino_hidden(network, hidden, [batch("bert", 2, 4), batch("bert", 3, 7)], "float16")


def test_a_missing_package_is_said_in_one_line(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    network, hidden = loaded(checkpoints, "bert")
    with pytest.raises(UserError, match=r"pip install -e \.\[openvino\]"):
        openvino_hidden(network, hidden, [batch("bert", 2, 4), batch("bert", 3, 7)], "float32")
