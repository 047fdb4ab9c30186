"""The decoder in ONNX: the graph that `f2llm export --to onnx` writes, for ONNX Runtime, browsers, phones, servers.

Operation set 17 and nothing newer, so that runtimes since 2022 load it. With `int8` matrices and token table are 8-bit
whole numbers with a scale for each row or output, which makes the file a quarter as large; runtimes turn them back to
float32 when they load it, so it is not faster.

Cost: weights pass through once. Up to `_INLINE` bytes they lie in the graph's file; more go to a second file beside it,
as the format demands beyond 2 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from f2llm.core.extras import optional
from f2llm.model.graph import HIDDEN, LAST, Node, Precision, quantized, sentence_graph
from f2llm.model.weights import Weights

DATA_SUFFIX = "_data"
_INLINE = 1_900_000_000
_OPSET, _IR_VERSION = 17, 8
_SMALL = 1024  # bytes; a tensor up to so large stays in the graph's file
_PAGE = 4096  # bytes; where a large tensor starts, so that runtimes can map it


class OnnxOps:
    """`f2llm.model.graph.Ops` by ONNX; a node is the name of a tensor. Weights go to `data` if that is given."""

    def __init__(self, precision: Precision, data: BinaryIO | None = None) -> None:
        self.precision, self.data = precision, data
        self.onnx = optional("onnx", "onnx")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: NDArray[Any] | np.generic) -> Node:
        array, name = np.asarray(value), f"c{len(self.constants)}"
        if self.data is None or array.nbytes <= _SMALL:
            tensor = self.onnx.numpy_helper.from_array(array, name)
        else:
            tensor = self._outside(array, name)
        self.constants.append(tensor)
        return name

    def add(self, a: Node, b: Node) -> Node:
        return self._node("Add", a, b)

    def multiply(self, a: Node, b: Node) -> Node:
        return self._node("Mul", a, b)

    def divide(self, a: Node, b: Node) -> Node:
        return self._node("Div", a, b)

    def square(self, x: Node) -> Node:
        return self._node("Pow", x, self.constant(np.float32(2)))

    def sqrt(self, x: Node) -> Node:
        return self._node("Sqrt", x)

    def cos(self, x: Node) -> Node:
        return self._node("Cos", x)

    def sin(self, x: Node) -> Node:
        return self._node("Sin", x)

    def silu(self, x: Node) -> Node:
        return self.multiply(x, self._node("Sigmoid", x))

    def mean(self, x: Node) -> Node:
        return self._node("ReduceMean", x, axes=[-1], keepdims=1)

    def rows(self, table: NDArray[np.float32], ids: Node) -> Node:
        if self.precision == "float32":
            return self._node("Gather", self.constant(table), ids, axis=0)
        numbers, scale = (self._node("Gather", self.constant(part), ids, axis=0) for part in quantized(table))
        return self.multiply(self.real(numbers), scale)

    def linear(self, x: Node, matrix: NDArray[np.float32]) -> Node:
        if self.precision == "float32":
            return self._node("MatMul", x, self.constant(np.ascontiguousarray(matrix.T)))
        numbers, scale = quantized(matrix)
        turned = self.constant(np.ascontiguousarray(numbers.T))
        return self._node("MatMul", x, self._node("DequantizeLinear", turned, self.constant(scale[:, 0]), axis=1))

    def pick(self, x: Node, places: Node) -> Node:
        return self._node("GatherND", x, self.unsqueeze(places, [1]), batch_dims=1)

    def attention(self, query: Node, key: Node, value: Node, mask: Node, scale: float) -> Node:
        query = self.multiply(query, self.constant(np.float32(scale)))
        scores = self._node("MatMul", query, self.transpose(key, [0, 1, 3, 2]))
        return self._node("MatMul", self._node("Softmax", self.add(scores, mask), axis=-1), value)

    def reshape(self, x: Node, dims: Sequence[int]) -> Node:
        return self._node("Reshape", x, self._ints(dims))

    def expand(self, x: Node, dims: Sequence[int]) -> Node:
        return self._node("Expand", x, self._ints(dims))

    def transpose(self, x: Node, order: Sequence[int]) -> Node:
        return self._node("Transpose", x, perm=list(order))

    def unsqueeze(self, x: Node, axes: Sequence[int]) -> Node:
        return self._node("Unsqueeze", x, self._ints(axes))

    def concat(self, parts: Sequence[Node], axis: int) -> Node:
        return self._node("Concat", *parts, axis=axis)

    def part(self, x: Node, start: int, end: int) -> Node:
        return self._node("Slice", x, self._ints([start]), self._ints([end]), self._ints([3]))

    def size(self, x: Node, axis: int) -> Node:
        return self._node("Squeeze", self._node("Shape", x, start=axis, end=axis + 1), self._ints([0]))

    def places(self, start: Node, end: Node) -> Node:
        return self._node("Range", start, end, self.constant(np.int64(1)))

    def real(self, x: Node) -> Node:
        return self._node("Cast", x, to=self.onnx.TensorProto.FLOAT)

    def where_less_equal(self, a: Node, b: Node, then: Node, otherwise: Node) -> Node:
        return self._node("Where", self._node("LessOrEqual", a, b), then, otherwise)

    def running_sum(self, x: Node) -> Node:
        return self._node("CumSum", x, self.constant(np.int64(1)))

    def greatest(self, x: Node) -> Node:
        return self._node("ReduceMax", x, axes=[-1], keepdims=0)

    def _ints(self, values: Sequence[int]) -> Node:
        return self.constant(np.asarray(values, dtype=np.int64))

    def _node(self, kind: str, *inputs: Node, **attributes: Any) -> Node:
        name = f"n{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _outside(self, array: NDArray[Any], name: str) -> Any:
        """A tensor whose numbers are written to the data file."""
        assert self.data is not None
        self.data.write(bytes(-self.data.tell() % _PAGE))
        entries = {"location": Path(self.data.name).name, "offset": self.data.tell(), "length": array.nbytes}
        self.data.write(array.tobytes())
        tensor = self.onnx.TensorProto(name=name, dims=array.shape, data_location=self.onnx.TensorProto.EXTERNAL)
        tensor.data_type = self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def write_onnx(weights: Weights, path: Path, precision: Precision, inline: int = _INLINE) -> None:
    """Write the graph to `path`, and where its numbers are more than `inline` bytes, those to `path` + "_data"."""
    bytes_each = 1 if precision == "int8" else 4
    if weights.shape.parameters * bytes_each <= inline:
        model = _model(OnnxOps(precision), weights)
    else:
        with open(f"{path}{DATA_SUFFIX}", "wb") as data:
            model = _model(OnnxOps(precision, data), weights)
    path.write_bytes(model.SerializeToString())


def _model(ops: OnnxOps, weights: Weights) -> Any:
    helper, kinds, width = ops.onnx.helper, ops.onnx.TensorProto, weights.shape.hidden
    made = sentence_graph(ops, weights, "input_ids", "attention_mask")
    for name, node in made.items():
        ops.nodes.append(helper.make_node("Identity", [node], [name], name=name))
    inputs = [
        helper.make_tensor_value_info(name, kinds.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    dims = {HIDDEN: ["batch", "tokens", width], LAST: ["batch", width]}
    outputs = [helper.make_tensor_value_info(name, kinds.FLOAT, dims[name]) for name in made]
    graph = helper.make_graph(ops.nodes, "f2llm", inputs, outputs, initializer=ops.constants)
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="f2llm")
