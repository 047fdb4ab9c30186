"""The Qwen3 dense decoder over packed sequences: token ids [T] -> hidden states [T, D].

RMSNorm, rotary positions, grouped-query attention with per-head q/k norm, SwiGLU, no bias, no language-model head.
An embedding is the last token's state, so of the last layer only that token is computed beyond keys and values: the
same values and gradients, one layer's MLP and half its attention cheaper.
Parameter names and numerics are those of `Qwen3Model` in transformers (which is the oracle of the tests), so a
published `model.safetensors` loads without a key map.

Shapes: T tokens of the pack, N sequences, D hidden size. Cost: 2 * non-embedding parameters FLOP per token, plus
attention; memory in training grows with T * layers unless `checkpoint_activations` is set. On a CPU the same call in
the same process configuration gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from f2llm.model.attention import AttentionPlan
from f2llm.model.fused import CHUNKED, Fused, Rope
from f2llm.model.sizes import Shape

INIT_STD = 0.02


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # The weight may come in half precision from a sharded layer; x, the residual stream, never is then.
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Grouped-query attention with normalised, rotated queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim, self.fused = shape.head_dim, CHUNKED
        inner, kv_inner = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, inner, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv_inner, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv_inner, bias=False)
        self.o_proj = nn.Linear(inner, shape.hidden, bias=False)
        self.q_norm = RMSNorm(shape.head_dim, shape.rms_eps)
        self.k_norm = RMSNorm(shape.head_dim, shape.rms_eps)

    def forward(self, x: Tensor, rope: Rope, plan: AttentionPlan, ends: Tensor | None = None) -> Tensor:
        """[T, D] -> [T, D], or [N, D] for the tokens `ends` [N], the last of each sequence."""
        key = self._rotated(self.k_norm, self.k_proj(x), rope)
        value = self._by_head(self.v_proj(x))
        asking, attend = x, plan.attend
        if ends is not None:
            asking, attend, rope = x.index_select(0, ends), plan.attend_last, (rope[0][ends], rope[1][ends])
        query = self._rotated(self.q_norm, self.q_proj(asking), rope)
        out: Tensor = self.o_proj(attend(query, key, value))
        return out

    def _rotated(self, norm: RMSNorm, x: Tensor, rope: Rope) -> Tensor:
        return self.fused.norm_rotate(self._by_head(x), norm.weight, norm.eps, rope)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, self.head_dim)


class MLP(nn.Module):
    """SwiGLU; the input of `down_proj` is the activation that pruning scores."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.fused = CHUNKED
        self.gate_proj = nn.Linear(shape.hidden, shape.mlp, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.mlp, bias=False)
        self.down_proj = nn.Linear(shape.mlp, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.fused.swiglu(self.gate_proj(x), self.up_proj(x)))
        return out


class Layer(nn.Module):
    """Attention and MLP, each behind a norm and beside the residual stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = MLP(shape)
        self.input_layernorm = RMSNorm(shape.hidden, shape.rms_eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.rms_eps)

    def forward(self, h: Tensor, rope: Rope, plan: AttentionPlan, ends: Tensor | None = None) -> Tensor:
        """[T, D] -> [T, D], or [N, D] for the tokens `ends` [N], the last of each sequence."""
        residual = h if ends is None else h.index_select(0, ends)
        h = residual + self.self_attn(narrowed(self.input_layernorm(h)), rope, plan, ends)
        out: Tensor = h + self.mlp(narrowed(self.post_attention_layernorm(h)))
        return out


class Decoder(nn.Module):
    """The whole model; `checkpoint_activations` recomputes each layer in the backward pass to save memory.

    `append_states`: embeddings are followed by the last token's hidden states after each of so many first layers.
    """

    def __init__(self, shape: Shape, *, checkpoint_activations: bool = False) -> None:
        super().__init__()
        shape.validate()
        self.shape = shape
        self.checkpoint_activations = checkpoint_activations
        self.append_states = 0
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.rms_eps)

    def forward(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor | Sequence[int],
        *,
        last_token_only: bool = False,
        continuations: int = 0,
    ) -> Tensor:
        """Hidden states [T, D] after the final norm, for ids [T] in sequences bounded by `cu_seqlens` [N+1].

        With `last_token_only`, those of the last token of each sequence [N, D]: the embeddings, not normalised (and
        behind them the states that `append_states` asks for, not normed: [N, (1 + append_states) D]).
        With `continuations`, the first sequence is a prefix that so many sequences after it continue, and is none of
        the N itself (see `f2llm.model.attention`).
        """
        plan = AttentionPlan.from_cu_seqlens(boundaries(cu_seqlens), continuations)
        if plan.tokens != input_ids.shape[0]:
            raise ValueError(f"cu_seqlens ends at {plan.tokens}, but the pack holds {input_ids.shape[0]} tokens")
        h: Tensor = self.embed_tokens(input_ids)
        rope = rotary(plan.positions(h.device), self.shape, h.dtype)
        recompute = self.checkpoint_activations and torch.is_grad_enabled()
        first = 2 if continuations else 1
        ends = torch.as_tensor(cu_seqlens, device=h.device)[first:] - 1 if last_token_only else None
        states: list[Tensor] = []
        for number, layer in enumerate(self.layers, start=1):
            arguments = (h, rope, plan, ends if number == len(self.layers) else None)
            h = checkpoint(layer, *arguments, use_reentrant=False) if recompute else layer(*arguments)
            if ends is not None and number <= self.append_states:
                states.append(h if number == len(self.layers) else h.index_select(0, ends))
        out: Tensor = self.norm(h)
        return torch.cat([out, *states], dim=1) if states else out

    def use_fused(self, fused: Fused) -> None:
        """Choose the form of the element-wise parts (see `f2llm.model.fused`); the values stay the same."""
        for module in self.modules():
            if isinstance(module, Attention | MLP):
                module.fused = fused

    def init_weights(self, seed: int) -> None:
        """Fill matrices from a normal distribution of std 0.02 and norms with one, as Qwen3 does; decided by `seed`."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.dim() == 1:
                nn.init.ones_(parameter)
            else:
                values = torch.empty(parameter.shape).normal_(0.0, INIT_STD, generator=generator)
                with torch.no_grad():
                    parameter.copy_(values)


def narrowed(x: Tensor) -> Tensor:
    """x in the type that autocast multiplies in, so that several projections of it share one copy."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def boundaries(cu_seqlens: Tensor | Sequence[int]) -> list[int]:
    """`cu_seqlens` as plain integers."""
    values: list[int] = cu_seqlens.tolist() if isinstance(cu_seqlens, Tensor) else list(cu_seqlens)
    return values


def rotary(positions: Tensor, shape: Shape, dtype: torch.dtype) -> Rope:
    """Cosines and signed sines [T, 1, head_dim] of the rotary embedding (RoFormer, section 3.2).

    Halves of a head are paired, as in Llama and Qwen; the sign of the half that turns negative sits in the sines.
    """
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32, device=positions.device) / shape.head_dim
    angles = positions[:, None].float() * (1.0 / shape.rope_theta**exponents)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1)[:, None].to(dtype), torch.cat([-sin, sin], -1)[:, None].to(dtype)
