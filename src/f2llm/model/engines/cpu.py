"""The decoder's pass for inference on a CPU: last-token states of packed texts, read after a prefix that is kept.

It computes what `model.decoder` says, up to rounding (1e-5), with less work around the products:

- Weights are laid out once (`engines.products`); queries, keys and values are one product, and so are the two halves of
  the MLP. A query is bound by reading the weights and by the number of operations.
- Documents go through a layer in blocks of tokens, so that what lies between two products stays in the processor's
  cache; only queries, keys, values and the residual stream exist for all tokens at once.
- Attention is products of chunks of tokens with all keys before them: half of the scores of a long text are never
  computed, and nothing is copied for the heads that share keys.

Letters: T tokens, N texts, P tokens of the prefix, H heads that share K heads of keys and values, d numbers a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from f2llm.model.attention import AttentionPlan, Run
from f2llm.model.decoder import Decoder, RMSNorm, rotary
from f2llm.model.engines.products import Product, product
from f2llm.model.pack import Pack
from f2llm.model.sizes import Shape

_BLOCK = 256  # tokens: enough for the products, and 4 MiB where a layer is 4,096 wide (docs/log.md)
_CHUNK = 64  # tokens that attend at a time
_LATER = torch.full((_CHUNK, _CHUNK), -inf).triu_(1)  # added to the scores of the chunk's own tokens
_ZERO = torch.zeros(1, 1, 1)
KeysValues = list[tuple[Tensor, Tensor]]
"""Of each layer: rotated keys and values [P, K, d] of a prefix of P tokens."""


class Norm(NamedTuple):
    """RMSNorm over n numbers as x * weight / sqrt(|x|^2 + eps): `weight` holds a factor sqrt(n), `eps` one of n.

    `turned` is the weight with its halves exchanged, as a rotation of what was normed needs it.
    """

    weight: Tensor
    turned: Tensor
    eps: float

    @classmethod
    def of(cls, norm: RMSNorm) -> Norm:
        weight = norm.weight.detach().float().clone()
        weight *= sqrt(len(weight))
        return cls(weight, weight.roll(len(weight) // 2), norm.eps * len(weight))

    def __call__(self, x: Tensor) -> Tensor:
        return (x * self.inverse(x)).mul_(self.weight)

    def inverse(self, x: Tensor) -> Tensor:
        """1 / sqrt(|x|^2 + eps) over the last axis, which stays with length 1."""
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return length.square_().add_(self.eps).rsqrt_()


@dataclass(frozen=True)
class CpuLayer:
    """A layer's weights as the pass wants them.

    `heads` gives queries, keys and values of all tokens; in the last layer keys and values, and `query` the queries of
    the few that ask. `head_norm` has a weight for each K heads of them, [groups, 1, d].
    """

    input_norm: Norm
    heads: Product
    head_norm: Norm
    query: Product | None
    query_norm: Norm
    out: Product
    mlp_norm: Norm
    gate_up: Product
    down: Product


class CpuDecoder:
    """The weights of a decoder, kept as `kind` (see `engines.products`), and the pass over them.

    They are copied, but for a token table in `kind` already, which is the decoder's own.
    """

    def __init__(self, decoder: Decoder, kind: torch.dtype) -> None:
        self.shape, last = decoder.shape, decoder.layers[-1]
        table = decoder.embed_tokens.weight.detach()
        self._table = table.half() if kind in (torch.float16, torch.int8) else table
        self._norm = Norm.of(decoder.norm)
        self._layers = [_laid_out(layer, self.shape, kind, layer is last) for layer in decoder.layers]

    def states(self, pack: Pack, before: KeysValues | None = None, keep: KeysValues | None = None) -> Tensor:
        """Last-token states [N, D] of texts read after `before`; `keep` receives the keys and values of all tokens."""
        shape, start = self.shape, len(before[0][0]) if before else 0
        plan = AttentionPlan.from_cu_seqlens(pack.cu_seqlens)
        h = F.embedding(pack.input_ids, self._table).float()
        rope = rotary(plan.positions(h.device) + start, shape, torch.float32)
        ends = torch.tensor(pack.cu_seqlens[1:]) - 1
        query_key = h.new_empty(len(h), shape.heads + shape.kv_heads, shape.head_dim)
        value = h.new_empty(len(h), shape.kv_heads, shape.head_dim)
        for number, layer in enumerate(self._layers):
            query, key = _heads(layer, h, rope, query_key, value, ends)
            if keep is not None:
                keep.append((key.clone(), value.clone()))
            if layer.query is not None:
                h = h.index_select(0, ends)
            attended = _attend(plan.runs, query, key, value, before[number] if before else None)
            _add_outputs(layer, h, attended, shape.mlp)
        return self._norm(h)


def _laid_out(layer: Any, shape: Shape, kind: torch.dtype, last: bool) -> CpuLayer:
    attention, mlp = layer.self_attn, layer.mlp
    q, k, v = (part.weight.detach() for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    query_norm, key_norm = Norm.of(attention.q_norm), Norm.of(attention.k_norm)
    queries = 0 if last else shape.heads // shape.kv_heads
    weights, turned = (
        torch.stack([of_query] * queries + [of_key])[:, None]
        for of_query, of_key in zip(query_norm[:2], key_norm[:2], strict=True)
    )
    return CpuLayer(
        input_norm=Norm.of(layer.input_layernorm),
        heads=product(torch.cat([k, v] if last else [q, k, v]), kind),
        head_norm=Norm(weights, turned, key_norm.eps),
        query=product(q, kind) if last else None,
        query_norm=query_norm,
        out=product(attention.o_proj.weight, kind),
        mlp_norm=Norm.of(layer.post_attention_layernorm),
        gate_up=product(torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()]), kind),
        down=product(mlp.down_proj.weight, kind),
    )


def _heads(
    layer: CpuLayer, h: Tensor, rope: Sequence[Tensor], query_key: Tensor, value: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor]:
    """Normed and rotated queries [T, H, d], in the last layer [N, H, d], and keys [T, K, d]; fills `value`."""
    kv_heads, head_dim = value.shape[1:]
    out = query_key if layer.query is None else query_key[:, -kv_heads:]
    ropes = _weighted([part[:, None] for part in rope], layer.head_norm)  # [T, groups, 1, d]
    for rows in _blocks(len(h)):
        x = layer.heads(layer.input_norm(h[rows]))
        x = x.view(len(x), -1, kv_heads, head_dim)
        value[rows] = x[:, -1]
        _norm_rotate(x[:, :-1], layer.head_norm, [part[rows] for part in ropes], out[rows].view_as(x[:, :-1]))
    if layer.query is None:
        return out[:, :-kv_heads], out[:, -kv_heads:]
    x = layer.query(layer.input_norm(h.index_select(0, ends))).view(len(ends), -1, head_dim)
    query = torch.empty_like(x)
    ropes = _weighted([part.index_select(0, ends) for part in rope], layer.query_norm)
    _norm_rotate(x, layer.query_norm, ropes, query)
    return query, out


def _weighted(rope: Sequence[Tensor], norm: Norm) -> list[Tensor]:
    """Cosines and sines that also multiply by the weight of the norm before the rotation."""
    return [rope[0] * norm.weight, rope[1] * norm.turned]


def _norm_rotate(x: Tensor, norm: Norm, rope: Sequence[Tensor], out: Tensor) -> None:
    """RMSNorm of each head of x [..., d], then rotation by `rope`, which holds the norm's weight, into `out`."""
    (cos, sin), half = rope, x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half])
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:])
    torch.mul(turned, norm.inverse(x), out=out)


def _attend(
    runs: Sequence[Run], query: Tensor, key: Tensor, value: Tensor, before: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Attention [T, H * d] of all tokens, or [N, H * d] of the last of each text, where `query` holds only those."""
    last = len(query) < len(key)
    out = query.new_empty(query.shape)
    sizes, asking = [run.tokens for run in runs], [run.sequences if last else run.tokens for run in runs]
    rows = zip(
        runs,
        *(x.split_with_sizes(asking) for x in (query, out)),
        *(x.split_with_sizes(sizes) for x in (key, value)),
        strict=True,
    )
    for run, q, to, k, v in rows:
        _attend_run(run.sequences, q, k, v, before, to)
    return out.flatten(1)


def _attend_run(
    texts: int, query: Tensor, key: Tensor, value: Tensor, before: tuple[Tensor, Tensor] | None, out: Tensor
) -> None:
    """Causal attention of texts of equal length, into `out`, in chunks of tokens that ask.

    Heads that share keys, and the tokens of a chunk, are the rows of one matrix; a chunk computes no score of tokens
    after it.
    """
    kv_heads, head_dim = key.shape[1:]
    q = query.view(texts, -1, kv_heads, query.shape[1] // kv_heads, head_dim).permute(0, 2, 3, 1, 4)
    k, v = (x.view(texts, -1, kv_heads, head_dim).transpose(1, 2) for x in (key, value))
    if before is not None:
        k, v = (
            torch.cat([first.transpose(0, 1).expand(texts, -1, -1, -1), own], 2)
            for first, own in zip(before, (k, v), strict=True)
        )
    k, v = (x.reshape(texts * kv_heads, -1, head_dim) for x in (k, v))
    shared, tokens = q.shape[2:4]
    to, seen = out.view(texts, tokens, kv_heads, shared, head_dim).permute(0, 2, 3, 1, 4), k.shape[1] - tokens
    for start in range(0, tokens, _CHUNK):
        end = min(start + _CHUNK, tokens)
        asking = q[:, :, :, start:end].reshape(texts * kv_heads, -1, head_dim)
        keys, values = k[:, : seen + end], v[:, : seen + end]
        scores = torch.baddbmm(_ZERO, asking, keys.transpose(1, 2), beta=0, alpha=1 / sqrt(head_dim))
        own = scores.view(-1, shared, end - start, seen + end)[..., seen + start :]
        own.add_(_LATER[: end - start, : end - start])
        to[:, :, :, start:end] = torch.bmm(scores.softmax(-1), values).view(texts, kv_heads, shared, -1, head_dim)


def _add_outputs(layer: CpuLayer, h: Tensor, attended: Tensor, width: int) -> None:
    """Add what attention [T, H * d] and then the MLP say to the residual stream h [T, D], in place."""
    for rows in _blocks(len(h)):
        stream = h[rows]
        stream.add_(layer.out(attended[rows]))
        gate, up = layer.gate_up(layer.mlp_norm(stream)).split_with_sizes([width, width], 1)
        stream.add_(layer.down(F.silu(gate).mul_(up)))


def _blocks(tokens: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, tokens, _BLOCK))
