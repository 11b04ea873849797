"""Cached boundary states and a tail are the model itself, end to end: outputs, loss and gradients.

The reference is written out plainly: transformers' model on one clip at a time, everything below the boundary frozen
and in evaluation mode, a mean over time, a linear classifier.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers as hf
from checkpoints import IMAGES, MODALITIES, N_FRAMES, SIZE, SMALL, WAVES, WORDS
from media_tools import decode_frames
from passes import store_of
from torch import Tensor, nn

from configs import UserError
from configs.schema import Encoder
from configs.schema import Tail as Settings
from extract.encoders.encoder import LoadedEncoder
from extract.encoders.layers import LAYERS, keep_needed_layers
from extract.encoders.loading import load
from extract.encoders.tail import Tail, build_tail, load_tail
from extract.media.framing import resize_and_crop

N_LAYERS, CLASSES, TOLERANCE = 4, 3, 1e-5
DEEP = {"num_hidden_layers": N_LAYERS}
TEXTS = {**SMALL, **DEEP, "vocab_size": len(WORDS), "max_position_embeddings": 24}
LIKE = {"electra": "bert", "xlm-roberta": "roberta", "camembert": "roberta"}  # whose tokenizer it has
NAMES = ["bert", "electra", "roberta", "xlm-roberta", "camembert", "distilbert", "wav2vec2", "wav2vec2-layer"]
NAMES += ["hubert", "hubert-batch-norm", "timesformer"]
MAIN = ["bert", "wav2vec2", "wav2vec2-layer", "timesformer"]


def networks() -> dict[str, Any]:
    roberta = {**TEXTS, "pad_token_id": 1}
    layer_norm = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
    short = hf.DistilBertConfig(
        vocab_size=len(WORDS), dim=16, n_layers=N_LAYERS, n_heads=2, hidden_dim=32, initializer_range=0.2
    )
    return {
        "bert": lambda: hf.BertModel(hf.BertConfig(**TEXTS)),
        "electra": lambda: hf.ElectraModel(hf.ElectraConfig(**TEXTS, embedding_size=8)),
        "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(**roberta)),
        "xlm-roberta": lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**roberta)),
        "camembert": lambda: hf.CamembertModel(hf.CamembertConfig(**roberta)),
        "distilbert": lambda: hf.DistilBertModel(short),
        "wav2vec2": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVES | DEEP, feat_extract_norm="group")),
        "wav2vec2-layer": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVES | DEEP, **layer_norm)),
        "hubert": lambda: hf.HubertModel(hf.HubertConfig(**WAVES | DEEP)),
        "hubert-batch-norm": lambda: hf.HubertModel(hf.HubertConfig(**WAVES | DEEP, conv_pos_batch_norm=True)),
        "timesformer": lambda: hf.TimesformerModel(hf.TimesformerConfig(**IMAGES | DEEP, num_frames=N_FRAMES)),
    }


@pytest.fixture(scope="session")
def deep(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds tiny models of four layers."""
    root = tmp_path_factory.mktemp("deep")
    torch.manual_seed(0)
    for name, make in networks().items():
        shutil.copytree(checkpoints / LIKE.get(name, name), root / name)  # its processor
        make().save_pretrained(root / name)
    return root


@dataclass(frozen=True)
class Case:
    """A checkpoint, its boundary, clips with labels, and what a real fp32 store holds of them: (time, dim) each."""

    name: str
    folder: Path
    boundary: int
    sources: list[Any]
    states: list[Tensor]
    fields: dict[str, Any]

    @property
    def modality(self) -> str:
        return spec_of(self.name, self.folder, self.boundary).modality

    @property
    def labels(self) -> Tensor:
        return torch.arange(len(self.sources)) % CLASSES

    def tail(self, **settings: Any) -> Tail:
        return load_tail(spec_of(self.name, self.folder, self.boundary), Settings(**settings), self.fields)


def spec_of(name: str, folder: Path, boundary: int) -> Encoder:
    return Encoder(family=MODALITIES[LIKE.get(name, name)][1], model=str(folder), boundary=boundary)


def load_encoder(spec: Encoder) -> LoadedEncoder:
    return load(spec, torch.device("cpu"))


CaseOf = Callable[..., Case]


@pytest.fixture(scope="session")
def case_of(deep: Path, media: dict[str, list[Any]], tmp_path_factory: pytest.TempPathFactory) -> CaseOf:
    known: dict[tuple[str, int], tuple[list[Tensor], dict[str, Any]]] = {}

    def build(name: str, boundary: int = 2, which: tuple[int, ...] = tuple(range(8))) -> Case:
        clips = media[MODALITIES[LIKE.get(name, name)][0]]
        if (name, boundary) not in known:
            encoder = load_encoder(spec_of(name, deep / name, boundary))
            known[name, boundary] = stored(encoder, clips, tmp_path_factory.mktemp("stores") / name)
        states, fields = known[name, boundary]
        return Case(name, deep / name, boundary, [clips[i] for i in which], [states[i] for i in which], fields)

    return build


def stored(encoder: LoadedEncoder, sources: list[Any], path: Path) -> tuple[list[Tensor], dict[str, Any]]:
    store = store_of(encoder, sources, path)
    return [torch.from_numpy(np.array(store[f"clip{i}"])) for i in range(len(sources))], store.fields


def padded(states: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(clips, time, dim) with noise behind the shorter ones, and the mask."""
    lengths = torch.tensor([len(clip) for clip in states])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    hidden = torch.randn(*mask.shape, states[0].shape[1])
    for row, clip in zip(hidden, states, strict=True):
        row[: len(clip)] = clip
    return hidden, mask


def classifier(dim: int) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(dim, CLASSES)


def classify(outputs: Tensor, mask: Tensor, linear: nn.Linear) -> Tensor:
    """(clips, time, dim) -> (clips, classes), by the mean of each clip's own steps."""
    own = mask[..., None]
    return linear(outputs.masked_fill(~own, 0).sum(dim=1) / own.sum(dim=1))


# The plain reference


def inputs_of(case: Case, source: Any) -> dict[str, Tensor]:
    if case.modality == "text":
        return dict(hf.AutoTokenizer.from_pretrained(case.folder)(source, return_tensors="pt"))
    if case.modality == "audio":
        samples, rate = soundfile.read(source, dtype="float32")
        extractor = hf.AutoFeatureExtractor.from_pretrained(case.folder)
        return {"input_values": extractor(samples, sampling_rate=rate, return_tensors="pt")["input_values"]}
    frames = resize_and_crop(decode_frames(source, N_FRAMES).images, SIZE)
    pixels = (frames / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
    return {"pixel_values": torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)[None]}


class EndToEnd:
    """The whole model as transformers loads it; the prefix frozen and in evaluation mode."""

    def __init__(self, case: Case, n_trained: int | None = None, dropout: float = 0.0) -> None:
        config = hf.AutoConfig.from_pretrained(case.folder)
        for name in ("hidden_dropout_prob", "hidden_dropout", "dropout"):
            if hasattr(config, name):
                setattr(config, name, dropout)
        for name in ("attention_probs_dropout_prob", "attention_dropout", "activation_dropout"):
            if hasattr(config, name):
                setattr(config, name, 0.0)
        self.case = case
        self.network = hf.AutoModel.from_pretrained(case.folder, config=config).eval().requires_grad_(False)
        at = {"distilbert": "transformer.layer"}.get(case.name, "encoder.layer")
        layers = self.network.get_submodule(at + "s" if case.modality == "audio" else at)
        first = case.boundary if n_trained is None else N_LAYERS - n_trained
        self.trained = {f"layers.{i - case.boundary}": layers[i] for i in range(first, N_LAYERS)}
        if case.name == "wav2vec2-layer":
            self.trained["norm"] = self.network.encoder.layer_norm
        if case.name == "timesformer":
            self.trained["norm"] = self.network.layernorm
        for module in self.trained.values():
            module.train().requires_grad_(True)
        self.linear = classifier(16)

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        out = self.network(**inputs).last_hidden_state  # (clips, time, dim)
        if self.case.name == "timesformer":  # a class token, then patch after patch, with time running fastest
            patches = (SIZE // 16) ** 2
            frames = [out[:, [1 + p * N_FRAMES + t for p in range(patches)]].mean(dim=1) for t in range(N_FRAMES)]
            out = torch.stack(frames, dim=1)
        return self.linear(out.mean(dim=1))

    def gradients(self) -> dict[str, Tensor]:
        named = {
            f"{place}.{name}": parameter.grad
            for place, module in self.trained.items()
            for name, parameter in module.named_parameters()
        }
        return named | {f"linear.{name}": parameter.grad for name, parameter in self.linear.named_parameters()}


def assert_equal(found: Tensor, expected: Tensor, scale: float = 0.0) -> None:
    """Relative to the largest value; ``scale``, where given, is the least that the difference is compared with."""
    assert found.shape == expected.shape
    difference = (found - expected).detach().abs().max()
    assert difference <= TOLERANCE * max(float(expected.detach().abs().max()), scale)


def assert_equal_gradients(tail: Tail, linear: nn.Linear, reference: EndToEnd) -> None:
    found = {name: p.grad for name, p in tail.named_parameters() if p.requires_grad}
    found |= {f"linear.{name}": p.grad for name, p in linear.named_parameters()}
    expected = reference.gradients()
    assert set(found) == set(expected)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        # The gradient of a key's bias is zero but for rounding: softmax ignores what is added to all keys.
        is_zero = name.endswith(("key.bias", "k_proj.bias", "k_lin.bias"))
        assert_equal(found[name], gradient, scale=largest if is_zero else 0)


@pytest.mark.parametrize("name", NAMES)
def test_an_unequal_batch_from_the_store_equals_each_clip_end_to_end(name: str, case_of: CaseOf) -> None:
    case = case_of(name)
    reference = EndToEnd(case)
    expected = torch.cat([reference.logits(inputs_of(case, source)) for source in case.sources])
    expected_loss = nn.functional.cross_entropy(expected, case.labels)
    expected_loss.backward()

    tail, linear = case.tail(dropout=0.0).train(), classifier(16)
    logits = classify(*tail(*padded(case.states)), linear)
    loss = nn.functional.cross_entropy(logits, case.labels)
    loss.backward()

    assert_equal(logits, expected)
    assert_equal(loss, expected_loss)
    assert_equal_gradients(tail, linear, reference)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("n_trained", [None, 1])
@pytest.mark.parametrize("name", MAIN)
def test_the_same_dropout_gives_the_same_gradients(
    name: str, n_trained: int | None, checkpointing: bool, case_of: CaseOf
) -> None:
    case = case_of(name, which=(0, 2, 6))  # of one length, so that the random numbers are for the same places
    reference = EndToEnd(case, n_trained, dropout=0.3)
    every = [inputs_of(case, source) for source in case.sources]
    inputs = {key: torch.cat([one[key] for one in every]) for key in every[0]}
    torch.manual_seed(2)
    expected = reference.logits(inputs)
    nn.functional.cross_entropy(expected, case.labels).backward()

    tail, linear = case.tail(layers=n_trained, dropout=0.3, checkpointing=checkpointing).train(), classifier(16)
    hidden, mask = torch.stack(case.states), torch.ones(3, len(case.states[0]), dtype=torch.bool)
    torch.manual_seed(2)
    logits = classify(*tail(hidden, mask), linear)
    nn.functional.cross_entropy(logits, case.labels).backward()

    assert_equal(logits, expected)
    assert_equal_gradients(tail, linear, reference)
    torch.manual_seed(3)
    assert not torch.allclose(classify(*tail(hidden, mask), linear), expected)  # dropout was active


@pytest.mark.parametrize("boundary", [0, 3])
@pytest.mark.parametrize("name", MAIN)
def test_any_boundary_gives_the_models_own_last_hidden_state(name: str, boundary: int, case_of: CaseOf) -> None:
    case = case_of(name, boundary)
    tail, reference = case.tail().eval(), EndToEnd(case)
    with torch.no_grad():
        logits = classify(*tail(*padded(case.states)), reference.linear)
        expected = torch.cat([reference.logits(inputs_of(case, source)) for source in case.sources])
    assert len(tail.layers) == N_LAYERS - boundary
    assert_equal(logits, expected)


# What the store holds


@pytest.mark.parametrize("boundary", [0, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_store_holds_every_token_of_what_enters_the_layer(name: str, boundary: int, case_of: CaseOf) -> None:
    case = case_of(name, boundary)
    network = hf.AutoModel.from_pretrained(case.folder).eval()
    for source, found in zip(case.sources, case.states, strict=True):
        with torch.no_grad():
            expected = network(**inputs_of(case, source), output_hidden_states=True).hidden_states[boundary][0]
        assert_equal(found, expected)
    if name == "timesformer":
        assert len(case.states[0]) == 1 + N_FRAMES * (SIZE // 16) ** 2
    assert case.fields["boundary"] == boundary


def test_layers_above_the_boundary_are_dropped(deep: Path) -> None:
    for name, path in (("bert", "encoder.layer"), ("wav2vec2", "encoder.layers"), ("timesformer", "encoder.layer")):
        network = hf.AutoModel.from_pretrained(deep / name)
        keep_needed_layers(network, spec_of(name, deep / name, 2))
        assert len(network.get_submodule(path)) == 2


def test_fingerprints_without_a_boundary_are_what_they_were(load: Any) -> None:
    for name in ("bert", "wav2vec2", "timesformer"):
        assert not {"boundary", "conversation"} & set(load(name).fields)


@pytest.mark.parametrize("name", ["wavlm", "wavlm-layer", "whisper", "videomae", "vit", "resnet"])
def test_a_network_that_cannot_be_cut_is_refused(name: str, load: Any) -> None:
    kind = name.removesuffix("-layer")
    refused = rf"^boundary = 1: .* is a {kind} network that cannot be cut"
    with pytest.raises(UserError, match=refused) as caught:
        load(name, boundary=1)
    assert all(able in str(caught.value) for able in LAYERS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("boundary", [N_LAYERS, 9])
@pytest.mark.parametrize("name", MAIN)
def test_a_boundary_without_a_layer_above_it_is_refused(name: str, boundary: int, deep: Path) -> None:
    with pytest.raises(UserError, match=rf"^boundary = {boundary}: .* has 4 layers, .* 3 at most$"):
        load_encoder(spec_of(name, deep / name, boundary))


# Odd batches


@pytest.mark.parametrize("name", MAIN)
def test_a_missing_clip_leaves_the_others_and_the_gradients_alone(name: str, case_of: CaseOf) -> None:
    case = case_of(name, which=(0, 2))
    tail = case.tail(dropout=0.0).train()
    alone, own = tail(*padded(case.states))
    hidden, mask = padded([*case.states, torch.zeros_like(case.states[0])])
    mask[2] = False
    for autocast in (False, True):  # on a CPU the one is fused attention, the other is not
        tail.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs, still = tail(hidden, mask)
        assert outputs.isfinite().all()
        assert not still[2].any()
        assert still[:2].equal(own)
        outputs[still].float().square().mean().backward()
        assert all(p.grad.isfinite().all() for p in tail.parameters())
        difference = (outputs[:2][own].float() - alone[own]).abs().max() / alone[own].abs().max()
        assert difference <= (0.1 if autocast else TOLERANCE)


def test_a_batch_in_which_all_clips_are_missing(case_of: CaseOf) -> None:
    for name in MAIN:
        case = case_of(name, which=(0,))
        tail = case.tail().train()
        hidden = torch.stack([case.states[0]] * 2)
        outputs, mask = tail(hidden, torch.zeros(hidden.shape[:2], dtype=torch.bool))
        assert outputs.isfinite().all()
        assert outputs.shape[:2] == mask.shape
        assert not mask.any()


def test_segments_of_a_long_video_go_through_the_tail_by_themselves(case_of: CaseOf) -> None:
    case = case_of("timesformer", which=(0, 1, 3))
    tail = case.tail().eval()
    by_one = [tail(state[None], torch.ones(1, len(state), dtype=torch.bool))[0][0] for state in case.states]
    outputs, mask = tail(*padded([torch.cat(case.states[:2]), case.states[2]]))
    assert mask.tolist() == [[True] * 2 * N_FRAMES, [True] * N_FRAMES + [False] * N_FRAMES]
    assert_equal(outputs[0], torch.cat(by_one[:2]))
    assert_equal(outputs[1, :N_FRAMES], by_one[2])
    with pytest.raises(ValueError, match="16 time steps are no multiple of the 17 tokens of a segment"):
        tail(*padded([case.states[0][:-1]]))
    with pytest.raises(UserError, match=r"time_masking: .* needs whole segments"):
        tail(*padded([case.states[0], case.states[0][:-1]]))


def test_frozen_layers_stay_as_they_are_and_out_of_the_graph(case_of: CaseOf) -> None:
    case = case_of("bert", 1)
    tail = case.tail(layers=2, dropout=0.5).train()
    assert [layer.training for layer in tail.layers] == [False, True, True]
    tail(*padded(case.states))[0].mean().backward()
    assert all(p.grad is None and not p.requires_grad for p in tail.layers[0].parameters())
    assert all(p.grad is not None for p in tail.layers[1:].parameters())
    with pytest.raises(UserError, match=r"^fine_tune: layers = 4: there are 3 above boundary 1"):
        case.tail(layers=4)


# Stores that do not fit, and going away and coming back


def test_a_store_of_another_boundary_or_other_weights_is_refused(case_of: CaseOf, tmp_path: Path) -> None:
    case = case_of("bert")
    with pytest.raises(UserError, match=r"^boundary = 3: the store holds boundary 2: run python extract/run.py$"):
        replace(case, boundary=3).tail()
    without = {name: value for name, value in case.fields.items() if name != "boundary"}
    with pytest.raises(UserError, match=r"^boundary = 2: the store holds outputs of its encoder"):
        replace(case, fields=without).tail()
    other = Path(shutil.copytree(case.folder, tmp_path / "other"))
    networks()["bert"]().save_pretrained(other)
    with pytest.raises(UserError, match=r"^model = .*other: the store was computed with other weights"):
        replace(case, folder=other).tail()


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("name", MAIN)
def test_built_from_its_about_and_its_weights_it_says_the_same(name: str, rank: int | None, case_of: CaseOf) -> None:
    if rank:
        pytest.importorskip("peft")
    case = case_of(name)
    tail = case.tail(layers=1, lora_rank=rank).eval()
    with torch.no_grad():
        for parameter in tail.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # as after training; adapters begin at zero
    restored = build_tail(json.loads(json.dumps(tail.about)))
    restored.load_state_dict(tail.state_dict())
    batch = padded(case.states)
    with torch.no_grad():
        assert torch.equal(restored.eval()(*batch)[0], tail(*batch)[0])
    assert [p.requires_grad for p in restored.parameters()] == [p.requires_grad for p in tail.parameters()]
    assert restored.about == tail.about


# Low-rank adapters


@pytest.mark.parametrize("name", MAIN)
def test_adapters_begin_as_the_untouched_tail_and_alone_are_trained(name: str, case_of: CaseOf) -> None:
    pytest.importorskip("peft")
    case = case_of(name)
    batch = padded(case.states)
    plain = case.tail(dropout=0.0)
    tail = case.tail(layers=1, lora_rank=2, dropout=0.0).train()
    before = {key: value.clone() for key, value in tail.state_dict().items()}
    outputs, mask = tail(*batch)
    expected, own = plain(*batch)
    assert_equal(outputs[mask], expected[own])

    steps, linear = torch.optim.SGD([p for p in tail.parameters() if p.requires_grad], lr=0.1), classifier(16)
    for _ in range(2):  # in the first step A has no gradient yet, since B is zero
        steps.zero_grad()
        nn.functional.cross_entropy(classify(*tail(*batch), linear), case.labels).backward()
        steps.step()
    changed = {key for key, value in tail.state_dict().items() if not torch.equal(value, before[key])}
    adapters = {key for key in before if "lora_" in key}
    matrices = [module for module in plain.layers[-1].modules() if isinstance(module, nn.Linear)]
    assert len(adapters) == 2 * len(matrices)
    assert all(key.startswith("layers.1.") for key in adapters)
    assert changed == adapters
    assert all((p.grad is not None) == ("lora_" in key) for key, p in tail.named_parameters())


def test_adapters_without_peft_end_in_one_line(case_of: CaseOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    case = case_of("bert")
    with pytest.raises(UserError, match=r"lora_rank needs PEFT; install it with: pip install -e \.\[lora\]$"):
        case.tail(lora_rank=2)
