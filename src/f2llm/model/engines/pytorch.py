"""The engine that runs PyTorch: the decoder's own weights, without copies, in a pass written for inference.

On a CPU a layer goes through the tokens in blocks, so that what lies between two matrix products (queries before their
rotation, the wide part of the MLP) stays in the processor's cache; only queries, keys, values and the residual stream
exist for all tokens at once. Nothing is kept for a gradient. The states are those of the decoder up to rounding
(1e-5). On a GPU the decoder's own pass runs, where launching kernels is what costs.

A prefix is computed once, on a CPU: its keys and values are kept for the prefixes used last. The first call with a
prefix costs a pass over it, the next ones do not. Memory of it: 2 * layers * kv_heads * head_dim numbers a token.

Limits: the weights must not change while an engine is used, since kept prefixes would not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from f2llm.model.attention import AttentionPlan
from f2llm.model.decoder import Decoder, rotary
from f2llm.model.engines.base import Ids
from f2llm.model.fused import Rope
from f2llm.model.pack import embed, make_pack
from f2llm.model.vectors import Vectors

KEPT_PREFIXES = 8
_BLOCK = (
    256  # tokens; enough for the matrix products, and 2 MiB where a layer is 2,048 wide (docs/results/inference.md)
)
KeysValues = list[tuple[Tensor, Tensor]]
"""Of each layer: rotated keys and values [P, kv_heads, head_dim] of a prefix of P tokens."""


class TorchEngine:
    """See the module; `f2llm.model.engines.base.Engine` says what `embed` promises. Safe to call from many threads."""

    name = "torch"

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.width = decoder, decoder.shape.hidden
        self._place = next(decoder.parameters()).device
        self.device = str(self._place)
        self._kept: OrderedDict[bytes, KeysValues] = OrderedDict()
        self._lock = Lock()

    @torch.inference_mode()
    def embed(self, texts: Sequence[Ids], prefix: Ids | None = None) -> Vectors:
        """Last-token states [N, width] of token ids, each text read after `prefix`; see the protocol."""
        found = np.empty((len(texts), self.width), dtype=np.float32)
        if not len(texts):
            return found
        # Neighbours of equal length are one call of attention.
        rows = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        ordered, size = [texts[row] for row in rows], 0 if prefix is None else len(prefix)
        if self._place.type != "cpu":
            whole = [np.concatenate([prefix, text]) for text in ordered] if prefix is not None and size else ordered
            pack = make_pack(whole, size)
            states = embed(self.decoder, pack._replace(input_ids=pack.input_ids.to(self._place)))
        else:
            before = self._keys_values(prefix) if prefix is not None and size else None
            states = self._pass(ordered, before)
        found[rows] = states.float().cpu().numpy()
        return found

    def _keys_values(self, prefix: Ids) -> KeysValues:
        """Keys and values of a prefix, computed where it is not among the kept."""
        name = np.asarray(prefix, dtype=np.int64).tobytes()
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        made: KeysValues = []
        self._pass([prefix], None, made)
        with self._lock:
            self._kept[name] = made
            while len(self._kept) > KEPT_PREFIXES:
                self._kept.popitem(last=False)
        return made

    def _pass(self, texts: Sequence[Ids], before: KeysValues | None, keep: KeysValues | None = None) -> Tensor:
        """States [N, width] of texts in this order; `keep` receives the keys and values of all tokens."""
        shape, start = self.decoder.shape, 0 if before is None else len(before[0][0])
        pack = make_pack(texts)
        cu_seqlens = [0, *(start + end for end in pack.cu_seqlens)] if start else pack.cu_seqlens
        plan = AttentionPlan.from_cu_seqlens(cu_seqlens, len(texts) if start else 0)
        h = self.decoder.embed_tokens(pack.input_ids)
        rope = rotary(plan.positions(h.device)[start:], shape, torch.float32)
        ends = torch.tensor(pack.cu_seqlens[1:]) - 1
        room = [h.new_empty(len(h), heads, shape.head_dim) for heads in (shape.heads, shape.kv_heads, shape.kv_heads)]
        for number, layer in enumerate(self.decoder.layers):
            last = number + 1 == len(self.decoder.layers)
            query, key, value = _heads(layer, h, rope, room, ends if last else None)
            if keep is not None:
                keep.append((key.clone(), value.clone()))
            if before is not None:
                key, value = (torch.cat(pair) for pair in zip(before[number], (key, value), strict=True))
            attended = (plan.attend_last if last else plan.attend)(query, key, value)
            h = h.index_select(0, ends) if last else h
            _add_outputs(layer, h, attended)
        states: Tensor = self.decoder.norm(h)
        return states


def _heads(layer: Any, h: Tensor, rope: Rope, room: Sequence[Tensor], ends: Tensor | None) -> tuple[Tensor, ...]:
    """Rotated queries and keys, and values of a layer, in `room`; with `ends` [N], queries of those tokens only."""
    attention, (query, key, value) = layer.self_attn, room
    ropes = {norm: _weighted(rope, norm.weight) for norm in (attention.q_norm, attention.k_norm)}
    wanted = [(attention.k_proj, attention.k_norm, key), (attention.q_proj, attention.q_norm, query)]
    for rows in _blocks(len(h)):
        x = layer.input_layernorm(h[rows])
        torch.mm(x, attention.v_proj.weight.t(), out=value[rows].flatten(1))
        for projection, norm, out in wanted if ends is None else wanted[:1]:
            _norm_rotate(projection(x), norm.eps, [part[rows] for part in ropes[norm]], out[rows])
    if ends is not None:
        query, norm = query[: len(ends)], attention.q_norm
        x = layer.input_layernorm(h.index_select(0, ends))
        _norm_rotate(attention.q_proj(x), norm.eps, [part.index_select(0, ends) for part in ropes[norm]], query)
    return query, key, value


def _weighted(rope: Rope, weight: Tensor) -> Rope:
    """Cosines and sines that also multiply by the weight of the norm before the rotation."""
    (cos, sin), half, weight = rope, len(weight) // 2, weight.float()
    return cos * weight, sin * torch.cat([weight[half:], weight[:half]])


def _norm_rotate(x: Tensor, eps: float, rope: Sequence[Tensor], out: Tensor) -> None:
    """RMSNorm of each head of x [T, H * d], then rotation by `rope`, into `out` [T, H, d]: a few passes over memory."""
    (cos, sin), half = rope, out.shape[-1] // 2
    wide = x.view(out.shape).float()
    inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(2 * half).add_(eps).rsqrt_()
    turned = wide * cos
    turned[..., :half].addcmul_(wide[..., half:], sin[..., :half])
    turned[..., half:].addcmul_(wide[..., :half], sin[..., half:])
    torch.mul(turned, inverse, out=out)


def _add_outputs(layer: Any, h: Tensor, attended: Tensor) -> None:
    """Add what attention [T, heads * head_dim] and then the MLP say to the residual stream h [T, D], in place."""
    mlp = layer.mlp
    for rows in _blocks(len(h)):
        stream = h[rows]
        stream.addmm_(attended[rows], layer.self_attn.o_proj.weight.t())
        x = layer.post_attention_layernorm(stream)
        gate, up = mlp.gate_proj(x), mlp.up_proj(x)
        stream.addmm_(F.silu(gate, inplace=True).mul_(up), mlp.down_proj.weight.t())


def _blocks(tokens: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, tokens, _BLOCK))
