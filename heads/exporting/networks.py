"""The networks of ``heads/models/`` written as graphs: each function is the ``forward`` of the module that it takes."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from heads.data.finer import ClassesOf
from heads.exporting.graph import Graph, Value
from heads.exporting.units import Units, seen_steps
from heads.models import parts
from heads.models.cross_modal import CrossModalHead
from heads.models.network import NetworkModel
from heads.models.sequence import Conversation
from heads.models.transformer import OTHER, SAME, UNKNOWN, ClipTransformer, RotaryAttention


def network_logits(model: NetworkModel, units: Units) -> Value:
    """(batch, classes) of a network without its base."""
    network, g = model.network, units.graph
    ids = [units.ids(field, words, missing=0, first=1) for field, words in model.vocabularies.items()]
    if isinstance(network, CrossModalHead):
        return _chain(g, network.classifier, _cross_modal(network, units, _embedded(g, network.fields, ids)))
    seen = [_conversation(network.conversation, units) if network.conversation is not None else None]
    seen += [_embedded(g, network.metadata, ids)]
    return _chain(g, network.classifier, g.concat([each for each in seen if each is not None], 1))


# --- the heads ---


def _conversation(module: Conversation, units: Units) -> Value:
    g, mask = units.graph, units.mask
    assert mask is not None
    assert units.roles is not None
    encoded = [_clip_encoder(each, units)[0].squeeze(1) for each in _values(module.modalities)]
    joined = _linear(module.join, g.concat(encoded, 1)).reshape(mask.size(0), mask.size(1), -1)
    if module.transformer is not None:
        states = _transformer(module.transformer, joined, units)
    else:
        clips = g.concat([joined, _lookup(module.role, units.roles)], 2)
        states = _bidirectional(module.lstm, clips, units.counts)
        states = _attention(module.attention, states, states, mask)
    return _context(module.context, states, units)


def _cross_modal(module: Any, units: Units, fields: Value | None) -> Value:
    g, mask = units.graph, units.mask
    assert mask is not None
    assert units.roles is not None
    streams = {name: _stream(stream, units) for name, stream in module.modalities.items()}
    pooled = []
    for name, (states, _, members) in streams.items():
        answers = states
        for other, attention in module.cross[name].others.items():
            keys, there, _ = streams[other]
            answers = answers + _multi_head(attention, states, keys, there)
        pooled.append(_pooled(module.pools[name], _norm(module.cross[name].norm, answers), members))
    about = _lookup(module.role, units.roles)
    if fields is not None:
        about = g.concat([g.expand(fields.unsqueeze(1), g.ints(1), mask.size(1), g.ints(1)), about], 2)
    clips = g.concat([*pooled, _chain(g, module.metadata, about)], 2)
    return _context(module.context, _bidirectional(module.fusion, clips, units.counts), units)


def _stream(module: Any, units: Units) -> tuple[Value, Value, Value]:
    g, mask = units.graph, units.mask
    assert mask is not None
    assert units.roles is not None
    n_parts = module.clips.segments
    vectors, present = _clip_encoder(module.clips, units)  # (clips, parts, hidden), (clips, parts)
    roles = _lookup(module.role, units.roles).reshape(-1, 1, module.role.embedding_dim)
    roles = g.expand(roles, 1, n_parts, 1)
    vectors = g.concat([vectors, roles], 2).reshape(mask.size(0), -1, module.lstm.ahead[0].input_size)
    there = present.reshape(mask.size(0), mask.size(1), n_parts) & mask.unsqueeze(2)
    there = there.reshape(mask.size(0), -1)
    # Those that there are move together, in order: where each goes, then what comes there.
    ahead, behind = (g.op("CumSum", each.to(np.int64), g.constant(np.array(1))) for each in (there, ~there))
    total = there.to(np.int64).sum(1, keep=True)
    to = there.where(ahead - 1, total + behind - 1)
    numbers = g.expand(g.arange(there.size(1)).unsqueeze(0), there.size(0), 1)
    order = g.op("ScatterElements", numbers, to, numbers, axis=1)
    vectors, there = vectors.take(order), g.arange(there.size(1)) < total
    members = (order // n_parts).unsqueeze(1).equals(g.arange(units.size).unsqueeze(1)) & there.unsqueeze(1)
    states = _bidirectional(module.lstm, vectors, total.squeeze(1))
    return _attention(module.attention, states, states, there), there, members


def _transformer(module: ClipTransformer, clips: Value, units: Units) -> Value:
    g, mask = units.graph, units.mask
    assert mask is not None
    assert units.roles is not None
    assert units.speakers is not None
    steps = g.arange(units.size)
    labelled = units.speakers.take(units.last)
    seen = units.speakers.equals(labelled).where(g.constant(np.array(SAME)), g.constant(np.array(OTHER)))
    seen = (units.speakers.equals(0) | labelled.equals(0)).where(UNKNOWN, seen)
    seen = steps.equals(units.last).where(SAME, seen)
    states = _chain(g, module.enter, clips) + _lookup(module.role, units.roles) + _lookup(module.speaker, seen)
    for layer in _values(module.layers):
        states = states + _rotary(layer.attention, _norm(layer.before_attention, states), units)
        states = states + _chain(g, layer.forwards, _norm(layer.before_forward, states))
    return _norm(module.norm, states)


def _rotary(module: RotaryAttention, states: Value, units: Units) -> Value:
    g, mask = units.graph, units.mask
    assert mask is not None
    width = module.leave.in_features // module.heads
    # (3, batch, heads, places, width)
    both = _linear(module.ask_answer, states).reshape(0, 0, 3, module.heads, width).transpose(2, 0, 3, 1, 4)
    before = (units.last - g.arange(units.size)).to(np.float32)
    angles = (before.unsqueeze(2) * _array(module.turns)).unsqueeze(1)  # (batch, 1, places, pairs)
    cos, sin = angles.unary("Cos"), angles.unary("Sin")

    def part(number: int) -> Value:
        return both.slice(0, number, number + 1).squeeze(0)

    def rotated(vectors: Value) -> Value:
        first, second = vectors.slice(3, 0, width // 2), vectors.slice(3, width // 2, width)
        return g.concat([first * cos - second * sin, first * sin + second * cos], 3)

    scores = rotated(part(0)) @ rotated(part(1)).transpose(0, 1, 3, 2) * width**-0.5
    answers = _masked_softmax(scores, mask.unsqueeze(1, 2)) @ part(2)
    return _linear(module.leave, answers.transpose(0, 2, 1, 3).reshape(0, 0, -1))


# --- what networks are made of ---


def _clip_encoder(module: parts.ClipEncoder, units: Units) -> tuple[Value, Value]:
    """(clips, parts, hidden) and which parts there are, (clips, parts); clips are all places of all units."""
    g = units.graph
    values, lengths = units.frames[module.modality]
    width, n_parts = module.norm.normalized_shape[0], module.segments
    values = values.reshape(-1, values.size(2), values.size(3))
    steps = seen_steps(units, module.modality).reshape(-1, values.size(1))  # (clips, time)
    lengths = lengths.reshape(-1)
    values = steps.unsqueeze(2).where(values, 0)  # whatever stands in padding
    counts = g.op("Min", lengths, g.ints(n_parts))
    part = g.arange(values.size(1)) * counts.unsqueeze(1) // g.op("Max", lengths, g.ints(1)).unsqueeze(1)
    numbers = g.constant(np.arange(n_parts))
    members = part.unsqueeze(1).equals(numbers.reshape(-1, 1)) & steps.unsqueeze(1)  # (clips, parts, time)
    if module.pool is None:
        values = _statistics(values, members)
    values = (values - _array(module.mean)) / _array(module.scale)
    if module.mix is not None:
        weights = (parts.LAYER_RATE * module.mix.scores.detach()).softmax(0).numpy()
        mixed = [
            values.slice(2, start, start + width) * float(weight)
            for start, weight in zip(module.mix.starts, weights, strict=True)
        ]
        values = mixed[0]
        for each in mixed[1:]:
            values = values + each
    values = _norm(module.norm, values)
    if module.lstm is not None:
        values = _bidirectional(module.lstm, values, g.op("Max", lengths, g.ints(1)))
    if module.pool is not None:
        weights_ = _masked_softmax(_chain(g, module.pool.score, values).transpose(0, 2, 1), _never_empty(members))
        mean = weights_ @ values
        own = members.to(np.float32).transpose(0, 2, 1) @ mean
        variance = weights_ @ _squared(values - own)
        deviation = g.op("Max", variance, g.constant(np.float32(parts.SMALLEST_VARIANCE))).unary("Sqrt")
        values = g.concat([mean, deviation], 2)
    present = _chain(g, module.project, values)
    has = (lengths > 0).unsqueeze(1)
    there = (has & (numbers < counts.unsqueeze(1))) | (~has & numbers.equals(0))
    return has.unsqueeze(2).where(present, _array(module.missing)), there


def _statistics(values: Value, members: Value) -> Value:
    """Mean and deviation of each part, (clips, parts, 2 * dim); 0 of a part without steps."""
    g, chosen = values.graph, members.to(np.float32)
    sizes = g.op("Max", chosen.sum(2, keep=True), g.constant(np.float32(1)))
    mean = chosen @ values / sizes
    distances = _squared(values - chosen.transpose(0, 2, 1) @ mean)
    return g.concat([mean, (chosen @ distances / sizes).unary("Sqrt")], 2)


def _bidirectional(module: parts.BidirectionalLSTM, states: Value, lengths: Value) -> Value:
    """(batch, steps, width), padded on the right -> (batch, steps, 2 * hidden)."""
    g = states.graph
    for ahead, back in zip(module.ahead, module.back, strict=True):
        both: list[Any] = [ahead, back]
        weights = np.stack([_gates(each.weight_ih_l0) for each in both])
        recurrent = np.stack([_gates(each.weight_hh_l0) for each in both])
        biases = np.stack([np.concatenate([_gates(each.bias_ih_l0), _gates(each.bias_hh_l0)]) for each in both])
        hidden = both[0].hidden_size
        found = g.op(
            "LSTM",
            states.transpose(1, 0, 2),
            *(g.constant(each) for each in (weights, recurrent, biases)),
            lengths.to(np.int32),
            direction="bidirectional",
            hidden_size=hidden,
        )  # (steps, 2, batch, hidden)
        states = found.transpose(2, 0, 1, 3).reshape(0, 0, 2 * hidden)
    return states


def _gates(weights: Tensor) -> np.ndarray:
    """From torch's order (input, forget, cell, output) to that of ONNX (input, output, forget, cell)."""
    i, f, c, o = np.split(weights.detach().cpu().numpy(), 4)
    return np.concatenate([i, o, f, c])


def _attention(module: parts.Attention, states: Value, others: Value, mask: Value) -> Value:
    return _norm(module.norm, states + _multi_head(module.attention, states, others, mask))


def _multi_head(module: nn.MultiheadAttention, ask: Value, answer: Value, mask: Value) -> Value:
    heads, width = module.num_heads, module.embed_dim // module.num_heads
    weights, bias = module.in_proj_weight.detach().cpu().numpy(), module.in_proj_bias.detach().cpu().numpy()

    def projected(values: Value, number: int) -> Value:
        rows = slice(number * module.embed_dim, (number + 1) * module.embed_dim)
        values = values @ np.ascontiguousarray(weights[rows].T) + bias[rows]
        return values.reshape(0, 0, heads, width).transpose(0, 2, 1, 3)

    scores = projected(ask, 0) @ projected(answer, 1).transpose(0, 1, 3, 2) * width**-0.5
    answers = _masked_softmax(scores, mask.unsqueeze(1, 2)) @ projected(answer, 2)
    return _linear(module.out_proj, answers.transpose(0, 2, 1, 3).reshape(0, 0, module.embed_dim))


def _pooled(module: parts.AttentionPooling, states: Value, members: Value) -> Value:
    scores = _chain(states.graph, module.score, states).transpose(0, 2, 1)
    return _masked_softmax(scores, _never_empty(members)) @ states


def _context(module: parts.ContextVector, states: Value, units: Units) -> Value:
    assert units.mask is not None
    pooled = _pooled(module.pool, states, units.mask.unsqueeze(1)).squeeze(1)
    return units.graph.concat([pooled, states.take(units.last).squeeze(1)], 1)


def _embedded(g: Graph, module: parts.MetadataEmbeddings, ids: list[Value]) -> Value | None:
    found = [_lookup(table, each) for table, each in zip(_values(module.tables), ids, strict=True)]
    return g.concat(found, 1) if found else None


def _chain(g: Graph, modules: nn.Sequential, value: Value) -> Value:
    for module in modules:
        if isinstance(module, nn.Linear):
            value = _linear(module, value)
        elif isinstance(module, nn.LayerNorm):
            value = _norm(module, value)
        elif isinstance(module, ClassesOf):
            belongs = np.exp(module.belongs.cpu().numpy()).T  # 1 where a finer label is of a class
            value = (value.softmax() @ np.ascontiguousarray(belongs)).unary("Log")
        elif not isinstance(module, nn.Dropout):
            value = value.unary({nn.GELU: "Gelu", nn.Tanh: "Tanh"}[type(module)])
    return value


def _linear(module: nn.Linear, value: Value) -> Value:
    product = value @ np.ascontiguousarray(module.weight.detach().cpu().numpy().T)
    return product if module.bias is None else product + module.bias.detach().cpu().numpy()


def _norm(module: nn.LayerNorm, value: Value) -> Value:
    weights = (value.graph.constant(_array(each)) for each in (module.weight, module.bias))
    return value.graph.op("LayerNormalization", value, *weights, axis=-1, epsilon=module.eps)


def _lookup(module: nn.Embedding, ids: Value) -> Value:
    return ids.graph.op("Gather", ids.graph.constant(_array(module.weight)), ids, axis=0, dtype=np.float32)


def _masked_softmax(scores: Value, mask: Value) -> Value:
    return mask.where(scores, -np.inf).softmax()


def _never_empty(members: Value) -> Value:
    """Parts without steps take part in all: finite, and masked later."""
    return members | ~members.any(2, keep=True)


def _squared(value: Value) -> Value:
    return value * value


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


def _values(modules: Any) -> Any:
    """Of a ModuleDict or a ModuleList, whose types say too little."""
    return modules.values() if isinstance(modules, nn.ModuleDict) else modules
