"""Writing ONNX graphs as one writes NumPy: values with operators, constants kept once, names in order.

Graphs are written node by node rather than traced: a trace of one fold's LSTM takes torch half a minute, fixes the
batch, and leaves paths of this machine in the file. Written, a head takes milliseconds and the same bytes each time.
"""

from typing import Any, cast

import numpy as np

OPSET, TREE_OPSET, IR = 23, 5, 11  # what onnxruntime 1.23 and later run; trees with sets came with ai.onnx.ml 5
EXACT = "exact"  # label of products that are not quantised
BOOL, INT = np.dtype(bool), np.dtype(np.int64)


class Value:
    """The output of a node, an input or a constant."""

    def __init__(self, graph: "Graph", name: str, dtype: np.dtype) -> None:
        self.graph, self.name, self.dtype = graph, name, dtype

    def _of(self, other: Any) -> "Value":
        return other if isinstance(other, Value) else self.graph.constant(np.asarray(other, self.dtype))

    def __add__(self, other: Any) -> "Value":
        return self.graph.op("Add", self, self._of(other))

    def __sub__(self, other: Any) -> "Value":
        return self.graph.op("Sub", self, self._of(other))

    def __mul__(self, other: Any) -> "Value":
        return self.graph.op("Mul", self, self._of(other))

    def __truediv__(self, other: Any) -> "Value":
        return self.graph.op("Div", self, self._of(other))

    def __floordiv__(self, other: Any) -> "Value":
        """Of integers that are not negative."""
        return self.graph.op("Div", self, self._of(other))

    def __matmul__(self, other: Any) -> "Value":
        return self.graph.op("MatMul", self, self._of(other))

    def __and__(self, other: "Value") -> "Value":
        return self.graph.op("And", self, other)

    def __or__(self, other: "Value") -> "Value":
        return self.graph.op("Or", self, other)

    def __invert__(self) -> "Value":
        return self.graph.op("Not", self)

    def __lt__(self, other: Any) -> "Value":
        return self.graph.op("Less", self, self._of(other), dtype=BOOL)

    def __gt__(self, other: Any) -> "Value":
        return self.graph.op("Greater", self, self._of(other), dtype=BOOL)

    def equals(self, other: Any) -> "Value":
        return self.graph.op("Equal", self, self._of(other), dtype=BOOL)

    def to(self, dtype: Any) -> "Value":
        dtype = np.dtype(dtype)
        return self if dtype == self.dtype else self.graph.op("Cast", self, dtype=dtype, to=_element(dtype))

    def size(self, axis: int) -> "Value":
        """(1,) int64."""
        return self.graph.op("Shape", self, dtype=INT, start=axis, end=axis + 1)

    def reshape(self, *sizes: "int | Value") -> "Value":
        """As torch's; 0 keeps a size."""
        if all(isinstance(each, int) for each in sizes):
            return self.graph.op("Reshape", self, self.graph.ints(*cast(tuple[int, ...], sizes)))
        parts = [each if isinstance(each, Value) else self.graph.ints(each) for each in sizes]
        return self.graph.op("Reshape", self, self.graph.op("Concat", *parts, axis=0))

    def unsqueeze(self, *axes: int) -> "Value":
        return self.graph.op("Unsqueeze", self, self.graph.ints(*axes))

    def squeeze(self, axis: int) -> "Value":
        return self.graph.op("Squeeze", self, self.graph.ints(axis))

    def transpose(self, *axes: int) -> "Value":
        return self.graph.op("Transpose", self, perm=list(axes))

    def sum(self, axis: int, keep: bool = False) -> "Value":
        return self.graph.op("ReduceSum", self, self.graph.ints(axis), keepdims=int(keep))

    def any(self, axis: int, keep: bool = False) -> "Value":
        return self.to(INT).sum(axis, keep) > 0

    def where(self, those: Any, others: Any) -> "Value":
        """``self`` decides; one of the two is a value."""
        known = those if isinstance(those, Value) else others
        return self.graph.op("Where", self, known._of(those), known._of(others), dtype=known.dtype)

    def slice(self, axis: int, start: int, stop: int) -> "Value":
        return self.graph.op("Slice", self, self.graph.ints(start), self.graph.ints(stop), self.graph.ints(axis))

    def take(self, places: "Value") -> "Value":
        """(batch, n, ...) at places (batch, k) -> (batch, k, ...)."""
        return self.graph.op("GatherND", self, places.unsqueeze(2), batch_dims=1)

    def unary(self, kind: str, **attributes: Any) -> "Value":
        return self.graph.op(kind, self, **attributes)

    def softmax(self) -> "Value":
        return self.graph.op("Softmax", self, axis=-1)

    def log_softmax(self) -> "Value":
        return self.graph.op("LogSoftmax", self, axis=-1)


class Graph:
    """A graph under construction; ``serialised`` ends it."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
        self._inputs: dict[str, Any] = {}
        self._outputs: list[Any] = []

    @property
    def input_names(self) -> list[str]:
        return list(self._inputs)

    def input(self, name: str, dtype: Any, shape: list[str | int]) -> Value:
        from onnx import helper

        dtype = np.dtype(dtype)
        self._inputs[name] = helper.make_tensor_value_info(name, _element(dtype), shape)
        return Value(self, name, dtype)

    def output(self, name: str, value: Value, shape: list[str | int]) -> None:
        from onnx import helper

        self._nodes.append(helper.make_node("Identity", [value.name], [name], name=f"out/{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, _element(value.dtype), shape))

    def constant(self, array: np.ndarray | np.generic) -> Value:
        from onnx import numpy_helper

        array = np.ascontiguousarray(array).reshape(np.shape(array))  # it makes scalars vectors
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"c{len(self._constants)}")
        return Value(self, self._constants[key].name, array.dtype)

    def ints(self, *values: int) -> Value:
        return self.constant(np.array(values, dtype=np.int64))

    def op(
        self,
        kind: str,
        *inputs: Value,
        dtype: Any = None,
        domain: str = "",
        label: str | None = None,
        more: int = 0,
        **attributes: Any,
    ) -> Value:
        """A node's first output; its type is that of the first input unless it is named.

        Args:
            label: what the node's name begins with.
            more: outputs that it has and nobody reads.
        """
        from onnx import helper

        name = f"{label or kind}{len(self._nodes)}"
        names = [each.name for each in inputs]
        self._nodes.append(
            helper.make_node(
                kind, names, [name, *(f"{name}.{i}" for i in range(more))], name=name, domain=domain, **attributes
            )
        )
        return Value(self, name, np.dtype(dtype or inputs[0].dtype))

    def arange(self, size: Value) -> Value:
        """0 to ``size`` (1,) int64, without it."""
        return self.op("Range", self.constant(np.array(0)), size.squeeze(0), self.constant(np.array(1)))

    def concat(self, parts: list[Value], axis: int) -> Value:
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=axis)

    def expand(self, value: Value, *sizes: int | Value) -> Value:
        parts = [each if isinstance(each, Value) else self.ints(each) for each in sizes]
        return self.op("Expand", value, self.op("Concat", *parts, axis=0))

    def serialised(self, doc: str) -> bytes:
        """The model, checked; the same graph gives the same bytes."""
        import onnx
        from onnx import helper

        graph = helper.make_graph(
            self._nodes, "emocache", list(self._inputs.values()), self._outputs, list(self._constants.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", TREE_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="emocache", doc_string=doc)
        onnx.checker.check_model(model)
        return model.SerializeToString(deterministic=True)


def _element(dtype: np.dtype) -> int:
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(dtype)
