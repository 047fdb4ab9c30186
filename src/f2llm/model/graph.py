"""The decoder as a graph of tensor operations, written once for every graph language.

`GraphDecoder` says what `f2llm.model.decoder` computes in terms of `Ops`, the few operations that a language must
offer; `graph_openvino` and `graph_onnx` offer them. Nothing is traced or converted, so the graph holds what stands
here and needs the language's own package alone.

Shapes: B texts of T tokens, padded; K tokens that are seen, a prefix included; D hidden size, H heads, d head_dim.
Cost: building reads one layer's weights at a time; the graph holds them once, in float32 or with 8-bit matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from f2llm.model.sizes import Shape
from f2llm.model.weights import Weights, layer_names

Node = Any
Precision = Literal["float32", "int8"]
HIDDEN, LAST = "last_hidden_state", "sentence_embedding"
_MASKED = np.float32(-1e30)  # finite: a row that sees nothing, as padding on the left does, must not become NaN
_TINY = np.float32(1e-24)


class Ops(Protocol):
    """One graph language. A `Node` is its handle of a tensor; whole numbers are int64, all others float32."""

    def constant(self, value: NDArray[Any] | np.generic) -> Node: ...
    def add(self, a: Node, b: Node) -> Node: ...
    def multiply(self, a: Node, b: Node) -> Node: ...
    def divide(self, a: Node, b: Node) -> Node: ...
    def square(self, x: Node) -> Node: ...
    def sqrt(self, x: Node) -> Node: ...
    def cos(self, x: Node) -> Node: ...
    def sin(self, x: Node) -> Node: ...
    def silu(self, x: Node) -> Node: ...

    def mean(self, x: Node) -> Node:
        """Over the last axis, which stays with length 1."""

    def rows(self, table: NDArray[np.float32], ids: Node) -> Node:
        """Rows [B, T, D] of a table [V, D]."""

    def linear(self, x: Node, matrix: NDArray[np.float32]) -> Node:
        """x [..., in] times the transpose of a matrix [out, in]."""

    def pick(self, x: Node, places: Node) -> Node:
        """Of x [B, T, D], the row of each text that `places` [B] names: [B, D]."""

    def attention(self, query: Node, key: Node, value: Node, mask: Node, scale: float) -> Node:
        """Softmax attention of [B, H, T, d] over [B, H, K, d]; the scores are scaled, then the mask is added."""

    def reshape(self, x: Node, dims: Sequence[int]) -> Node:
        """0 keeps the length of that axis, -1 takes what is left."""

    def expand(self, x: Node, dims: Sequence[int]) -> Node:
        """Repeat axes of length 1; 1 keeps an axis."""

    def transpose(self, x: Node, order: Sequence[int]) -> Node: ...
    def unsqueeze(self, x: Node, axes: Sequence[int]) -> Node: ...
    def concat(self, parts: Sequence[Node], axis: int) -> Node: ...

    def part(self, x: Node, start: int, end: int) -> Node:
        """Of the last axis of four."""

    def size(self, x: Node, axis: int) -> Node:
        """Length of an axis, a scalar."""

    def places(self, start: Node, end: Node) -> Node:
        """Whole numbers from `start` to before `end`, both scalars."""

    def real(self, x: Node) -> Node:
        """Whole numbers as float32."""

    def where_less_equal(self, a: Node, b: Node, then: Node, otherwise: Node) -> Node: ...
    def running_sum(self, x: Node) -> Node: ...
    def greatest(self, x: Node) -> Node:
        """Of the last axis, which goes."""


class Rope(NamedTuple):
    """Cosines and sines of the rotary angles, [B or 1, 1, T, d]."""

    cos: Node
    sin: Node


class Asking(NamedTuple):
    """The tokens of a layer that ask: their angles, what they do not see, and `last` where only each text's last asks.

    `mask` [B or 1, 1, T, K] is added to the scores; `last` [B] is a place.
    """

    rope: Rope
    mask: Node
    last: Node | None = None


class GraphDecoder:
    """Builds the parts of a decoder of `weights` by `ops`."""

    def __init__(self, ops: Ops, weights: Weights) -> None:
        self.ops, self.weights = ops, weights
        self.shape: Shape = weights.shape

    def embed(self, ids: Node) -> Node:
        """Token ids [B, T] -> [B, T, D]."""
        return self.ops.rows(self._read(["embed_tokens.weight"])["embed_tokens"], ids)

    def rope(self, positions: Node) -> Rope:
        """Angles for float32 positions [B or 1, 1, T]; the frequencies are computed as `decoder.rotary` does."""
        ops, head_dim = self.ops, self.shape.head_dim
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        frequencies = (1.0 / self.shape.rope_theta**exponents).numpy()
        angles = ops.multiply(ops.unsqueeze(positions, [3]), ops.constant(frequencies))
        angles = ops.concat([angles, angles], -1)
        return Rope(ops.cos(angles), ops.sin(angles))

    def mask(self, asking: Node, seen: Node) -> Node:
        """0 where a place `seen` is not after the place `asking`, else a large negative number; shapes broadcast."""
        return self.ops.where_less_equal(seen, asking, self.ops.constant(np.float32(0)), self.ops.constant(_MASKED))

    def layer(
        self, number: int, h: Node, rope: Rope, asking: Asking, before: tuple[Node, Node] | None = None
    ) -> tuple[Node, tuple[Node, Node]]:
        """[B, T, D] -> [B, T, D] ([B, 1, D] where only the last asks), and the keys and values [B, kv_heads, T, d].

        `before`: keys and values of a prefix, [B, kv_heads, P, d].
        """
        ops, shape, own = self.ops, self.shape, self._read(layer_names(self.shape, number))
        x = self.norm(h, own["input_layernorm"])
        key = self._rotated(ops.linear(x, own["self_attn.k_proj"]), shape.kv_heads, own["self_attn.k_norm"], rope)
        value = self._by_head(ops.linear(x, own["self_attn.v_proj"]), shape.kv_heads)
        made = key, value = key, ops.transpose(value, [0, 2, 1, 3])
        if before is not None:
            key, value = (ops.concat([early, late], 2) for early, late in zip(before, made, strict=True))
        if asking.last is not None:
            h, x = (ops.unsqueeze(ops.pick(states, asking.last), [1]) for states in (h, x))
        query = self._rotated(ops.linear(x, own["self_attn.q_proj"]), shape.heads, own["self_attn.q_norm"], asking.rope)
        key, value = self._for_all_heads(key), self._for_all_heads(value)
        seen = ops.attention(query, key, value, asking.mask, shape.head_dim**-0.5)
        joined = ops.reshape(ops.transpose(seen, [0, 2, 1, 3]), [0, 0, shape.heads * shape.head_dim])
        h = ops.add(h, ops.linear(joined, own["self_attn.o_proj"]))
        x = self.norm(h, own["post_attention_layernorm"])
        inner = ops.multiply(ops.silu(ops.linear(x, own["mlp.gate_proj"])), ops.linear(x, own["mlp.up_proj"]))
        return ops.add(h, ops.linear(inner, own["mlp.down_proj"])), made

    def norm(self, x: Node, weight: NDArray[np.float32]) -> Node:
        """RMSNorm, in the form that optimisers of graphs know."""
        ops = self.ops
        square = ops.add(ops.mean(ops.square(x)), ops.constant(np.float32(self.shape.rms_eps)))
        return ops.multiply(ops.divide(x, ops.sqrt(square)), ops.constant(weight))

    def final_norm(self, x: Node) -> Node:
        return self.norm(x, self._read(["norm.weight"])["norm"])

    def _rotated(self, x: Node, heads: int, weight: NDArray[np.float32], rope: Rope) -> Node:
        """[B, T, heads * d] -> [B, heads, T, d], normalised and rotated."""
        ops, half = self.ops, self.shape.head_dim // 2
        x = ops.transpose(self.norm(self._by_head(x, heads), weight), [0, 2, 1, 3])
        negative = ops.multiply(ops.part(x, half, 2 * half), ops.constant(np.float32(-1)))
        swapped = ops.concat([negative, ops.part(x, 0, half)], -1)
        return ops.add(ops.multiply(x, rope.cos), ops.multiply(swapped, rope.sin))

    def _by_head(self, x: Node, heads: int) -> Node:
        return self.ops.reshape(x, [0, 0, heads, self.shape.head_dim])

    def _for_all_heads(self, x: Node) -> Node:
        """[B, kv_heads, K, d] -> [B, H, K, d]: each key serves a group of heads."""
        shape = self.shape
        group = shape.heads // shape.kv_heads
        if group == 1:
            return x
        wide = self.ops.expand(self.ops.unsqueeze(x, [2]), [1, 1, group, 1, 1])
        return self.ops.reshape(wide, [0, shape.heads, -1, shape.head_dim])

    def _read(self, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Tensors by the last part of their name: without the layer, and without `.weight`."""
        stream = self.weights.stream(names)
        return {short_name(name): tensor.detach().float().cpu().numpy() for name, tensor in stream}


def short_name(name: str) -> str:
    """`layers.3.mlp.up_proj.weight` -> `mlp.up_proj`."""
    parts = name.removesuffix(".weight").split(".")
    return ".".join(parts[2:] if parts[0] == "layers" else parts)


def sentence_graph(ops: Ops, weights: Weights, input_ids: Node, attention_mask: Node) -> dict[str, Node]:
    """The graph that other programs run: ids and mask, int64 [B, T], padded on either side, to the two usual outputs.

    `last_hidden_state` [B, T, D], after the final norm, for programs that pool themselves (sentence-transformers,
    text-embeddings-inference), and `sentence_embedding` [B, D], that of each text's last token, of unit length.
    """
    decoder, zero = GraphDecoder(ops, weights), ops.constant(np.int64(0))
    places = ops.places(zero, ops.size(input_ids, 1))
    causal = decoder.mask(ops.unsqueeze(places, [0, 1, 3]), ops.unsqueeze(places, [0, 1, 2]))
    absent = ops.add(ops.multiply(ops.real(attention_mask), ops.constant(-_MASKED)), ops.constant(_MASKED))
    positions = ops.add(ops.running_sum(attention_mask), ops.constant(np.int64(-1)))
    rope = decoder.rope(ops.unsqueeze(ops.real(positions), [1]))
    asking = Asking(rope, ops.add(causal, ops.unsqueeze(absent, [1, 2])))
    h = decoder.embed(input_ids)
    for number in range(weights.shape.layers):
        h, _ = decoder.layer(number, h, rope, asking)
    h = decoder.final_norm(h)
    last = ops.pick(h, ops.greatest(ops.multiply(places, attention_mask)))
    square = ops.multiply(ops.mean(ops.square(last)), ops.constant(np.float32(weights.shape.hidden)))
    return {HIDDEN: h, LAST: ops.divide(last, ops.sqrt(ops.add(square, ops.constant(_TINY))))}


def quantized(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix [out, in] as whole numbers of -127 to 127 and a scale for each row, [out, 1]."""
    scale = np.maximum(np.abs(matrix).max(axis=1, keepdims=True) / np.float32(127), np.finfo(np.float32).tiny)
    return np.rint(matrix / scale).astype(np.int8), scale
