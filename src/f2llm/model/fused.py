"""The decoder's element-wise parts with gradients written by hand: less memory traffic, and only the inputs are kept.

`norm_rotate` (RMSNorm of each head, then rotary positions) and `swiglu` are bound by memory, not by arithmetic. They
run over a few tokens at a time, so that the steps between stay in the processor's cache, and their backward pass
computes those steps again instead of keeping them. On CUDA they run over all tokens at once; `compile_fused` lets
torch.compile make one kernel of each, which pays on GPUs and, where a C++ compiler is at hand, on CPUs in runs of many
minutes.

Shapes: T tokens, H heads, d head_dim, M mlp. The plain formulas, `plain_norm_rotate` and `plain_swiglu`, are what the
tests compare with and what is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Rope = tuple[Tensor, Tensor]
_CHUNK = 2**19  # numbers; 2 MiB in float32. Of 2**16 to 2**20 the best on two cores, from 4 to 16 heads (docs/log.md)


class Fused(NamedTuple):
    """The two functions as a decoder calls them."""

    norm_rotate: Callable[[Tensor, Tensor, float, Rope], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]


def plain_norm_rotate(x: Tensor, weight: Tensor, eps: float, rope: Rope) -> Tensor:
    """RMSNorm over the last axis of x [T, H, d], then rotation by `rope` (see `f2llm.model.decoder.rotary`).

    The result has the type of x also where weights are wider (autocast), as attention in half precision demands.
    """
    cos, sin = rope
    y = F.rms_norm(x.to(torch.promote_types(x.dtype, weight.dtype)), weight.shape, weight, eps)
    half = x.shape[-1] // 2
    return torch.addcmul(y * cos, torch.cat([y[..., half:], y[..., :half]], -1), sin).to(x.dtype)


def plain_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, all [T, M]."""
    return F.silu(gate) * up


def norm_rotate(x: Tensor, weight: Tensor, eps: float, rope: Rope) -> Tensor:
    """`plain_norm_rotate` over chunks of tokens; keeps x and one number a head."""
    out: Tensor = _NormRotate.apply(x, weight, eps, *rope)  # type: ignore[no-untyped-call]
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`plain_swiglu` over chunks of tokens; keeps gate and up."""
    out: Tensor = _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return out


CHUNKED = Fused(norm_rotate, swiglu)
PLAIN = Fused(plain_norm_rotate, plain_swiglu)


def compile_fused() -> Fused:
    """Both functions by torch.compile, for any number of tokens; the first call takes some ten seconds."""
    return Fused(*(torch.compile(function, dynamic=True) for function in PLAIN))


def chunk_tokens(x: Tensor) -> int:
    """How many tokens of x are worked on at a time."""
    return max(_CHUNK * len(x) // x.numel() if x.device.type == "cpu" and x.numel() else len(x), 1)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    size = chunk_tokens(tensors[0])
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)


class _NormRotate(torch.autograd.Function):
    """With n = x / rms and y = n * weight, out = y * cos + swapped(y) * sin, where `swapped` exchanges the halves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
        out, size, half = torch.empty_like(x), x.shape[-1], x.shape[-1] // 2
        wide = torch.promote_types(x.dtype, torch.float32)
        inverse = torch.empty(*x.shape[:-1], 1, dtype=wide, device=x.device)
        for x_, out_, inverse_, cos_, sin_ in _chunks(x, out, inverse, cos, sin):
            square = torch.linalg.vector_norm(x_, dim=-1, keepdim=True, dtype=wide).square_()
            torch.rsqrt(square.div_(size).add_(eps), out=inverse_)
            y = (x_ * inverse_).mul_(weight)
            rotated = y * cos_
            rotated[..., :half].addcmul_(y[..., half:], sin_[..., :half])
            rotated[..., half:].addcmul_(y[..., :half], sin_[..., half:])
            out_.copy_(rotated)
        ctx.save_for_backward(x, weight, inverse, cos, sin)
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, weight, inverse, cos, sin = ctx.saved_tensors
        dx, half = torch.empty_like(x), x.shape[-1] // 2
        d_weight = torch.zeros_like(weight, dtype=inverse.dtype)
        for x_, upstream_, dx_, inverse_, cos_, sin_ in _chunks(x, upstream, dx, inverse, cos, sin):
            g = upstream_.to(inverse.dtype)
            dy = g * cos_
            dy[..., half:].addcmul_(g[..., :half], sin_[..., :half])
            dy[..., :half].addcmul_(g[..., half:], sin_[..., half:])
            n = x_ * inverse_
            d_weight += (dy * n).sum((0, 1))
            dy.mul_(weight)
            along = (dy * n).mean(-1, keepdim=True)
            dx_.copy_(dy.sub_(n.mul_(along)).mul_(inverse_))
        return dx, d_weight.to(weight.dtype), None, None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        out = torch.empty_like(gate)
        for gate_, up_, out_ in _chunks(gate, up, out):
            torch.mul(F.silu(gate_), up_, out=out_)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        for gate_, up_, up_stream_, d_gate_, d_up_ in _chunks(gate, up, upstream, d_gate, d_up):
            sigmoid = torch.sigmoid(gate_)
            torch.mul(gate_, sigmoid, out=d_up_)
            torch.sub(gate_, d_up_, out=d_gate_)
            d_gate_.add_(1).mul_(sigmoid).mul_(up_stream_).mul_(up_)
            d_up_.mul_(up_stream_)
        return d_gate, d_up
