"""What a profile may say of its heads: every setting with its meaning, its default and what is allowed."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from configs.sections.common import Name, PositiveFloat, PositiveInt, Section, takes_flags

Width = Annotated[int, Field(gt=0, le=65_536)]
Depth = Annotated[int, Field(gt=0, le=1000)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Amount = Annotated[float, Field(ge=0, le=1000)]
AnyPositive = Annotated[float, Field(gt=0, le=1e12)]
Bounded = Annotated[int | float, Field(ge=-1e12, le=1e12)]


STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 600, 15, 100  # of a training whose profile names no number of epochs


class Tail(Section):
    """The layers above an encoder's boundary, trained as part of a head."""

    layers: Depth | None = None  # how many of them are trained, from the top; default: all. The others run frozen
    lr: PositiveFloat = 1e-4  # of the last layer
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # each layer below learns this much slower than the one above
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of hidden states; attention weights are not dropped
    lora_rank: Width | None = None  # train low-rank adapters of this rank, and not the weights themselves
    checkpointing: bool = False  # keep only what enters each layer, and compute the rest again: less memory, slower


class Pretraining(Section):
    """How the network of a head is trained without labels, on all clips that stores hold: ``heads/pretrain.py``."""

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 32  # conversations; what is told apart lies in one batch
    lr: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=1_000_000)] = 0.01
    temperature: Annotated[float, Field(ge=0.01, le=10)] = 0.07  # that the learned one begins with
    masked: Annotated[float, Field(gt=0, lt=1)] = 0.2  # share of a conversation's clips that are hidden and predicted
    # Learn from the clips of held-out folds, val and test, too, without their labels; every report then says so.
    transductive: bool = False


class Head(Section):
    # sequence: attention and LSTM over the conversation's clips, inputs joined clip by clip
    # transformer: the same with a transformer over the clips, which sees who else speaks as the labelled clip's speaker
    # cross_modal: a stream for each input, each attending to the others, then an LSTM over the clips
    # linear: logistic regression on each input's mean and deviation over time, and on metadata
    # xgboost: boosted trees on the same, and on metadata
    # bag_of_words: logistic regression on TF-IDF of the text: words, emoji, emphasis; characters in unseparated scripts
    kind: Literal["sequence", "transformer", "cross_modal", "linear", "xgboost", "bag_of_words"] = "sequence"
    inputs: list[Name] = []  # encoders whose stores are read; of a bag of words [text], which the manifest has
    metadata: list[str] = []  # manifest columns to embed
    privileged: bool = False  # allow label-derived columns in metadata; every report then says so
    context_clips: Count | None = None  # clips seen before the labelled one; default: all of them
    # Features less their mean over all clips of the speaker, or of the corpus (the field corpus). Transductive: it
    # reads unlabelled clips of who is judged, and every title says so. Where they are fewer than 3, they are missing
    standardise: Literal["none", "speaker", "corpus"] = "none"
    # Of encoders with augmented views: all are learned from, or none, as if there were view 0 alone
    views: Literal["all", "none"] = "all"
    speaker_identity: bool | None = None  # embed who speaks and who listens; default: where held-out speakers are known

    hidden: Width = 128  # width of projections and of each LSTM direction
    lstm_layers: Depth = 1
    layers: Depth = 1  # transformer: over the clips
    attention_heads: Width = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    # Networks start from what a linear head says of a unit, and learn what to add to it; none: from nothing. Default:
    # linear, and none where a tail is trained: what enters one is no feature yet.
    base: Literal["linear", "none"] | None = None
    # How a clip's time steps become one vector: plain mean and deviation, computed once before training; attention-
    # weighted ones; or an LSTM over the steps, many times slower where steps are many. Default: statistics, and
    # attentive where a tail is trained or time is masked.
    time: Literal["attentive", "statistics", "lstm"] | None = None
    segments: Width = 4  # cross_modal: the parts that a clip is cut into, each becoming one vector
    start_from: Name | None = None  # a head, this one or one of the same shape: begin as heads/pretrain.py left it
    fine_tune: dict[Name, Tail] = {}  # inputs whose encoder has a boundary: the layers above it that are trained

    # A column whose values are finer labels, each of one class: training learns them, too. Never an input.
    auxiliary: str | None = None
    auxiliary_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of the loss that is theirs

    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # chance that training hides an input or a field
    time_masking: Annotated[float, Field(ge=0, lt=1)] = 0.0  # largest share of a clip's time steps that training hides
    noise: Amount = 0.0  # Gaussian noise on features, in standard deviations of each dimension
    mixup: Amount = 0.0  # alpha of the Beta distribution that mixes pairs of units; 0: off

    loss: Literal["cross_entropy", "weighted", "focal"] = "weighted"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    logit_adjustment: Amount = 0.0  # training adds this times the log class frequency to logits
    sampling: Literal["shuffled", "balanced"] = "shuffled"  # balanced: each class is drawn equally often
    lr: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=1_000_000)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of all steps in which the learning rate rises
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # how it falls to zero afterwards
    epochs: PositiveInt | None = None  # default: by the number of units, so that few are seen more often
    patience: Count = 5  # epochs without a better inner-validation score; 0: never stop early
    batch_size: PositiveInt = 32
    accumulate: PositiveInt = 1  # batches whose gradients are summed before a step
    largest_gradient: AnyPositive = 1.0  # norm at which gradients are clipped
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of training's matrix products (autocast)
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the weights' moving average, which then predicts; 0: off
    seeds: Depth = 1  # networks per fold, averaged

    # Of inputs whose store has several layers: the number of one; best: chosen on an inner validation set; mix: their
    # average, with weights that training learns. Default: best of linear heads, mix of networks
    layer: Literal["best", "mix"] | Annotated[int, Field(ge=0, le=1000, strict=True)] | None = None
    c: AnyPositive | None = None  # linear kinds: inverse regularisation; default: chosen on an inner validation set
    deviations: bool | None = None  # linear: beside means over time; default: chosen as c is
    letters: bool | None = None  # bag_of_words: letters of words, too; default: chosen as c is, and not where c is set
    trees: PositiveInt = 500  # xgboost: the most rounds; an inner validation set says when to stop
    depth: Depth = 4  # xgboost: of a tree
    eta: Annotated[float, Field(gt=0, le=1)] = 0.1  # xgboost: learning rate

    @model_validator(mode="after")
    def _attention_heads_divide(self) -> "Head":
        if 2 * self.hidden % self.attention_heads:
            raise ValueError(f"attention_heads ({self.attention_heads}) must divide 2 * hidden ({2 * self.hidden})")
        if self.kind == "transformer" and self.hidden % self.attention_heads:
            raise ValueError(
                f"attention_heads ({self.attention_heads}) of a transformer must divide hidden ({self.hidden})"
            )
        return self

    @model_validator(mode="after")
    def _reads_something(self) -> "Head":
        if not self.inputs and not self.metadata:
            raise ValueError("a head needs inputs, metadata or both")
        if self.kind == "bag_of_words" and (self.inputs != ["text"] or self.metadata):
            raise ValueError("a bag_of_words head reads the text alone: inputs [text], no metadata")
        if self.kind == "cross_modal" and not self.inputs:
            raise ValueError("a cross_modal head needs inputs")
        return self

    @property
    def used(self) -> set[str]:
        """The settings that heads of this kind have."""
        common = {"kind", "inputs", "metadata", "privileged", "context_clips", "loss"}
        networks = set(type(self).model_fields) - {"c", "letters", "deviations", "trees", "depth", "eta"}
        return {
            "linear": common | {"c", "deviations", "standardise", "layer", "views"},
            "bag_of_words": common | {"c", "letters"},
            "xgboost": common | {"standardise", "trees", "depth", "eta", "seeds", "views"},
            "sequence": networks - {"segments", "layers"},
            "transformer": networks - {"segments", "lstm_layers"},
            "cross_modal": networks - {"layers"},
        }[self.kind]

    @model_validator(mode="after")
    def _uses_what_is_set(self) -> "Head":
        unused = [name for name in type(self).model_fields if name in self.model_fields_set - self.used]
        if unused:
            raise ValueError(f"{unused[0]}: a {self.kind} head has no such setting")
        unfit = "best" if self.is_network else "mix"
        if self.layer == unfit:
            raise ValueError(
                f"layer = {unfit!r}: a {self.kind} head takes a number, or {'mix' if self.is_network else 'best'}"
            )
        if self.loss == "focal" and not self.is_network:
            raise ValueError(f"loss = 'focal': a {self.kind} head minimises cross_entropy, or weighted")
        return self

    @model_validator(mode="after")
    def _fine_tunes_what_it_reads(self) -> "Head":
        for encoder in self.fine_tune:
            if encoder not in self.inputs:
                raise ValueError(f"fine_tune names {encoder!r}, which is not among its inputs")
        if self.time_masking and self.time == "statistics":
            raise ValueError("time_masking hides time steps: not with time: statistics")
        if self.fine_tune and self.standardise != "none":
            raise ValueError("standardise: layers that are trained on take states as they are: not with fine_tune")
        if self.start_from and (problem := unpretrainable(self)):
            raise ValueError(f"start_from: {problem}")
        if self.fine_tune and self.time == "statistics":
            raise ValueError("time: statistics are computed once, before training: not with fine_tune")
        return self

    @property
    def pooling(self) -> Literal["attentive", "statistics", "lstm"]:
        """How time steps become one vector, whether the profile says so or not."""
        return self.time or ("attentive" if self.fine_tune or self.time_masking else "statistics")

    @property
    def starts_linear(self) -> bool:
        """Whether a network starts from a linear head's answers."""
        return self.base == "linear" or (self.base is None and not self.fine_tune)

    def epochs_for(self, n_units: int) -> int:
        """The most epochs of a training on so many units."""
        if self.epochs:
            return self.epochs
        steps = -(-n_units // (self.batch_size * self.accumulate))
        return min(MOST_EPOCHS, max(FEWEST_EPOCHS, -(-STEPS // steps)))

    @property
    def stores(self) -> list[str]:
        """The encoders whose stores are read; a bag of words reads its text from the manifest."""
        return [] if self.kind == "bag_of_words" else self.inputs

    @property
    def is_network(self) -> bool:
        return self.kind in ("sequence", "transformer", "cross_modal")


SHAPE = ("kind", "inputs", "standardise", "hidden", "attention_heads", "lstm_layers", "layers", "segments", "layer")


def shape_of(head: Head) -> dict[str, Any]:
    """The settings without which the weights of one network do not fit another, or were learned from something else."""
    return {name: getattr(head, name) for name in SHAPE} | {"time": head.pooling}


def unfit_start(head: Head, heads: Mapping[str, Head]) -> str | None:
    """Why a head cannot start from the one that it names."""
    if head.start_from is None:
        return None
    if head.start_from not in heads:
        return f" names {head.start_from!r}, which is not under heads"
    own, other = shape_of(head), shape_of(heads[head.start_from])
    setting = next((each for each in own if own[each] != other[each]), None)
    if setting is None:
        return None
    theirs = f"{setting} of heads.{head.start_from} is {other[setting]!r}"
    return f": its weights would not fit: {theirs}, and here {own[setting]!r}"


def unpretrainable(head: Head) -> str | None:
    """Why the network of a head cannot be trained without labels."""
    if not head.is_network:
        return f"a {head.kind} head is no network"
    if not head.inputs:
        return "a head without inputs has nothing to learn without labels"
    if head.fine_tune:
        return "layers under fine_tune are not pre-trained: leave fine_tune out"
    return None


class Range(Section):
    """Numbers that a search draws from; whole ones where both ends are."""

    low: Bounded
    high: Bounded
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("needs low < high, and low > 0 with log")
        return self


def unsearchable(head: Head, setting: str, choices: list[Any] | Range) -> str | None:
    """Why a search may not try these values of a setting: one of them is no value of it, or stands there twice."""
    is_range, flags = isinstance(choices, Range), takes_flags(Head.model_fields[setting].annotation)
    values = [choices.low, choices.high] if isinstance(choices, Range) else choices
    for place, value in enumerate(values):
        if any(value == other and type(value) is type(other) for other in values[:place]):
            return f"{str(value)[:100]!r} is named twice"
        if isinstance(value, bool) and not flags:
            return f"{value} is true or false (as yes, no, on and off are in YAML): give another value"
        try:
            Head.model_validate(head.model_dump(exclude_unset=True) | {setting: value})
        except ValidationError as error:
            for problem in error.errors():  # what only contradicts other settings may be drawn, and is then left out
                open_end = is_range and problem["type"] in ("less_than", "greater_than")
                if problem["loc"][:1] == (setting,) and not (open_end and value in problem["ctx"].values()):
                    return f"{str(value)[:100]}: {problem['msg'].removeprefix('Value error, ')}"
    return None
