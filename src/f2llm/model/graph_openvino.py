"""The decoder in OpenVINO's graph language: the engine's graph, and the one that `f2llm export --to openvino` writes.

OpenVINO's CPU plug-in makes one kernel each of the norms, the rotations and the attention, so the graph is written in
the form that it knows (held by a test). With `int8` the matrices and the token table are 8-bit whole numbers with a
scale for each row, a quarter of the memory; processors with VNNI or AMX instructions can also multiply in 8 bits then,
after rounding activations in groups; others turn the weights back to float32 at each use, slower than with float32.

The package `openvino` reports its use over the network as soon as it is imported. `load_openvino` imports it without.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.core.extras import optional
from f2llm.model.graph import Asking, GraphDecoder, Node, Precision, quantized, sentence_graph
from f2llm.model.weights import Weights

_REPORTER = "openvino_telemetry"


def load_openvino() -> Any:
    """The package `openvino`, its reporter kept out; MissingDependencyError names the extra where it is absent."""
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    present = sys.modules.get(_REPORTER)
    sys.modules[_REPORTER] = None  # type: ignore[assignment]  # an import then fails, and openvino takes a stub
    try:
        return optional("openvino", "fast")
    finally:
        del sys.modules[_REPORTER]
        if present is not None:
            sys.modules[_REPORTER] = present


class OpenVinoOps:
    """`f2llm.model.graph.Ops` by OpenVINO's operation set 13."""

    def __init__(self, precision: Precision) -> None:
        self.op, self.precision = load_openvino().opset13, precision

    def parameter(self, name: str, dims: Sequence[int], kind: type[np.generic]) -> Node:
        """An input of the graph; -1 is any length."""
        node = self.op.parameter(list(dims), kind, name=name)
        node.output(0).get_tensor().set_names({name})
        return node

    def result(self, name: str, node: Node) -> Node:
        """An output of the graph."""
        found = self.op.result(node, name=name)
        found.output(0).get_tensor().set_names({name})
        return found

    def constant(self, value: NDArray[Any] | np.generic) -> Node:
        return self.op.constant(np.asarray(value))

    def add(self, a: Node, b: Node) -> Node:
        return self.op.add(a, b)

    def multiply(self, a: Node, b: Node) -> Node:
        return self.op.multiply(a, b)

    def divide(self, a: Node, b: Node) -> Node:
        return self.op.divide(a, b)

    def square(self, x: Node) -> Node:
        return self.op.power(x, self.constant(np.float32(2)))

    def sqrt(self, x: Node) -> Node:
        return self.op.sqrt(x)

    def cos(self, x: Node) -> Node:
        return self.op.cos(x)

    def sin(self, x: Node) -> Node:
        return self.op.sin(x)

    def silu(self, x: Node) -> Node:
        return self.op.swish(x)

    def mean(self, x: Node) -> Node:
        return self.op.reduce_mean(x, self.ints([-1]), keep_dims=True)

    def rows(self, table: NDArray[np.float32], ids: Node) -> Node:
        zero = self.constant(np.int64(0))
        if self.precision == "float32":
            return self.op.gather(self.constant(table), ids, zero)
        numbers, scale = (self.op.gather(self.constant(part), ids, zero) for part in quantized(table))
        return self.op.multiply(self.real(numbers), scale)

    def linear(self, x: Node, matrix: NDArray[np.float32]) -> Node:
        if self.precision == "float32":
            return self.op.matmul(x, self.constant(matrix), False, True)
        numbers, scale = (self.constant(part) for part in quantized(matrix))
        return self.op.matmul(x, self.op.multiply(self.real(numbers), scale), False, True)

    def pick(self, x: Node, places: Node) -> Node:
        return self.op.gather(x, places, self.constant(np.int64(1)), batch_dims=1)

    def attention(self, query: Node, key: Node, value: Node, mask: Node, scale: float) -> Node:
        return self.op.scaled_dot_product_attention(query, key, value, mask, self.constant(np.float32(scale)))

    def reshape(self, x: Node, dims: Sequence[int]) -> Node:
        return self.op.reshape(x, self.ints(dims), special_zero=True)

    def expand(self, x: Node, dims: Sequence[int]) -> Node:
        return self.op.broadcast(x, self.ints(dims), broadcast_spec="BIDIRECTIONAL")

    def transpose(self, x: Node, order: Sequence[int]) -> Node:
        return self.op.transpose(x, self.ints(order))

    def unsqueeze(self, x: Node, axes: Sequence[int]) -> Node:
        return self.op.unsqueeze(x, self.ints(axes))

    def concat(self, parts: Sequence[Node], axis: int) -> Node:
        return self.op.concat(list(parts), axis)

    def part(self, x: Node, start: int, end: int) -> Node:
        return self.op.slice(x, self.ints([start]), self.ints([end]), self.ints([1]), self.ints([3]))

    def size(self, x: Node, axis: int) -> Node:
        zero = self.constant(np.int64(0))
        return self.op.gather(self.op.shape_of(x, "i64"), self.constant(np.int64(axis)), zero)

    def places(self, start: Node, end: Node) -> Node:
        return self.op.range(start, end, self.constant(np.int64(1)), "i64")

    def real(self, x: Node) -> Node:
        return self.op.convert(x, "f32")

    def where_less_equal(self, a: Node, b: Node, then: Node, otherwise: Node) -> Node:
        return self.op.select(self.op.less_equal(a, b), then, otherwise)

    def running_sum(self, x: Node) -> Node:
        return self.op.cum_sum(x, self.constant(np.int64(1)))

    def greatest(self, x: Node) -> Node:
        return self.op.reduce_max(x, self.ints([-1]))

    def first(self, x: Node, count: Node) -> Node:
        """The first `count` [1] entries of axis 2."""
        return self.op.slice(x, self.ints([0]), count, self.ints([1]), self.ints([2]))

    def prefix_of(self, prefix: Node, place: int, texts: Node) -> Node:
        """Keys or values [B, kv_heads, P, d] at a place of `prefix`, for a number of texts, a scalar."""
        one = self.op.gather(prefix, self.constant(np.int64(place)), self.constant(np.int64(0)))
        dims = self.op.concat([self.unsqueeze(texts, [0]), self.ints([1, 1, 1])], 0)
        return self.op.broadcast(self.unsqueeze(one, [0]), dims, broadcast_spec="BIDIRECTIONAL")

    def ints(self, values: Sequence[int]) -> Node:
        return self.op.constant(np.asarray(values, dtype=np.int64))


def engine_graph(weights: Weights, precision: Precision) -> Any:
    """The graph of `f2llm.model.engines.openvino`.

    In: `ids` [B, T], padded on the right; `last` [B], each text's last place; `prefix` [2 * layers, kv_heads, P, d],
    keys and values of a prefix, or none (P = 0); `keep` [1], how many tokens' keys and values to give back. Whole
    numbers are int64. Out: the last tokens' states [B, D], then keys and values [B, kv_heads, keep, d] of each layer.

    Attention is causal, so what pads on the right is seen by nobody. Of the last layer only the last tokens are
    computed beyond keys and values.
    """
    ops, shape = OpenVinoOps(precision), weights.shape
    ids, last = ops.parameter("ids", [-1, -1], np.int64), ops.parameter("last", [-1], np.int64)
    prefix = ops.parameter("prefix", [2 * shape.layers, shape.kv_heads, -1, shape.head_dim], np.float32)
    keep = ops.parameter("keep", [1], np.int64)
    decoder, early = GraphDecoder(ops, weights), ops.size(prefix, 2)
    everything = ops.add(early, ops.size(ids, 1))
    own, seen = ops.places(early, everything), ops.places(ops.constant(np.int64(0)), everything)
    rope = decoder.rope(ops.unsqueeze(ops.real(own), [0, 1]))
    inner = Asking(rope, decoder.mask(ops.unsqueeze(own, [0, 1, 3]), ops.unsqueeze(seen, [0, 1, 2])))
    ends = ops.add(last, early)
    final = Asking(
        decoder.rope(ops.unsqueeze(ops.real(ends), [1, 2])),
        decoder.mask(ops.unsqueeze(ends, [1, 2, 3]), ops.unsqueeze(seen, [0, 1, 2])),
        last,
    )
    h, kept = decoder.embed(ids), []
    for number in range(shape.layers):
        asking = final if number == shape.layers - 1 else inner
        key, value = (ops.prefix_of(prefix, 2 * number + side, ops.size(ids, 0)) for side in (0, 1))
        h, made = decoder.layer(number, h, rope, asking, (key, value))
        kept += [ops.first(part, keep) for part in made]
    states = ops.reshape(decoder.final_norm(h), [0, shape.hidden])
    results = [ops.result("states", states), *(ops.result(f"kept.{place}", part) for place, part in enumerate(kept))]
    return load_openvino().Model(results, [ids, last, prefix, keep], "f2llm")


def export_model(weights: Weights, precision: Precision) -> Any:
    """The graph that other programs run (see `f2llm.model.graph.sentence_graph`)."""
    ops = OpenVinoOps(precision)
    inputs = [ops.parameter(name, [-1, -1], np.int64) for name in ("input_ids", "attention_mask")]
    outputs = [ops.result(name, node) for name, node in sentence_graph(ops, weights, *inputs).items()]
    return load_openvino().Model(outputs, inputs, "f2llm")
