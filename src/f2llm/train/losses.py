"""The losses of F2LLM-v2 (section 2.3 of the paper) as pure functions of tensors; letters as in `train.batch`.

Cosines at nested dims d1 < d2 < ... < D share their inner products: the product over the first d2 coordinates is that
over the first d1 plus a block. So all matryoshka dims cost about one full product, not one product each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-12


def matryoshka_weights(dims: Sequence[int]) -> list[float]:
    """Weight of each of the ascending `dims`: the n-th from the largest, D, gets 1 / (n * sqrt(D / dim))."""
    full = dims[-1]
    return [1.0 / ((len(dims) - i) * math.sqrt(full / dim)) for i, dim in enumerate(dims)]


def nested_norms(E: Tensor, dims: Sequence[int]) -> Tensor:
    """Euclidean norms of the first `dim` coordinates of E [..., D], for each dim: [R, ...]."""
    blocks = [block.square().sum(-1) for block in _blocks(E, dims)]
    return torch.stack(blocks).cumsum(0).clamp_min(_TINY).sqrt()


def nested_row_cosines(Q_BD: Tensor, C_BKD: Tensor, dims: Sequence[int]) -> Tensor:
    """Cosine of each query with its own K candidates at each dim: [R, B, K]."""
    pairs = zip(_blocks(Q_BD, dims), _blocks(C_BKD, dims), strict=True)
    products = torch.stack([torch.einsum("bd,bkd->bk", q, c) for q, c in pairs]).cumsum(0)
    return products / (nested_norms(Q_BD, dims)[:, :, None] * nested_norms(C_BKD, dims))


def hard_loss(Q_BD: Tensor, C_BKD: Tensor, present_BK: Tensor, dims: Sequence[int], temperature: float) -> Tensor:
    """Cross-entropy of the positive, candidate 0, among the query's own candidates, weighted over the dims.

    `present_BK` is False at candidates that a row does not have.
    """
    logits = nested_row_cosines(Q_BD, C_BKD, dims) / temperature
    logits = logits.masked_fill(~present_BK, -math.inf)
    return _weighted_cross_entropy(logits, torch.zeros(len(Q_BD), dtype=torch.long, device=Q_BD.device), dims)


def in_batch_loss(
    Q_BD: Tensor, P_BD: Tensor, dims: Sequence[int], temperature: float, excluded_BB: Tensor | None = None
) -> Tensor:
    """Cross-entropy of a query's positive among the positives of the whole batch, weighted over the dims.

    `excluded_BB` marks documents that must not count as negatives (the same document at another row); the diagonal of
    it is never read.
    """
    mask = None
    if excluded_BB is not None:
        mask = excluded_BB & ~torch.eye(len(Q_BD), dtype=torch.bool, device=Q_BD.device)
    loss: Tensor = _InBatchLoss.apply(Q_BD, P_BD, tuple(dims), temperature, mask)  # type: ignore[no-untyped-call]
    return loss


class _InBatchLoss(torch.autograd.Function):
    """The loss and its gradient by hand: one [B, B] matrix of inner products grows block by block.

    With a = 1 / (|q| temperature) and b = 1 / |p| at a dim, the logits are L = a S b, G is the gradient at L, and that
    at S is a G b. A block of coordinates is part of S at its own dim and at all larger ones, so it gets the sum of
    those; the norms give -q sum(G L) / |q|^2 and the like for p. Autograd would pass over [B, B] far more often.
    """

    @staticmethod
    def forward(
        ctx: Any, Q: Tensor, P: Tensor, dims: tuple[int, ...], temperature: float, mask: Tensor | None
    ) -> Tensor:
        q_square, p_square = nested_norms(Q, dims).square(), nested_norms(P, dims).square()
        a_RB, b_RB = q_square.rsqrt() / temperature, p_square.rsqrt()
        S, loss = Q.new_zeros(len(Q), len(P)), Q.new_zeros(())
        at_S, q_norm, p_norm = [], torch.empty_like(a_RB), torch.empty_like(b_RB)
        blocks = zip(_blocks(Q, dims), _blocks(P, dims), matryoshka_weights(dims), strict=True)
        for r, (q, p, weight) in enumerate(blocks):
            S.addmm_(q, p.T)
            L = (S * b_RB[r]).mul_(a_RB[r][:, None])
            if mask is not None:
                L.masked_fill_(mask, -math.inf)
            log_sum = L.logsumexp(1)
            loss += weight * (log_sum - L.diagonal()).mean()
            G = torch.sub(L, log_sum[:, None]).exp_()
            G.diagonal().sub_(1)
            G.mul_(weight / len(Q))
            if mask is not None:
                L.masked_fill_(mask, 0)
            L.mul_(G)
            q_norm[r], p_norm[r] = L.sum(1) / q_square[r], L.sum(0) / p_square[r]
            at_S.append(G.mul_(b_RB[r]).mul_(a_RB[r][:, None]))
        ctx.dims = dims
        ctx.save_for_backward(Q, P, q_norm, p_norm, *at_S)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        Q, P, q_norm, p_norm, *at_S = ctx.saved_tensors
        dQ, dP, total = torch.empty_like(Q), torch.empty_like(P), torch.zeros_like(at_S[0])
        q_norm, p_norm = (x.flip(0).cumsum(0).flip(0) * upstream for x in (q_norm, p_norm))
        for r in reversed(range(len(at_S))):
            block = slice(ctx.dims[r - 1] if r else 0, ctx.dims[r])
            total.add_(at_S[r] * upstream)
            dQ[:, block] = total @ P[:, block] - q_norm[r][:, None] * Q[:, block]
            dP[:, block] = total.T @ Q[:, block] - p_norm[r][:, None] * P[:, block]
        return dQ, dP, None, None, None


def distill_loss(E_ND: Tensor, T_ND: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Mean squared error to the teacher's first D coordinates, un-normalised, summed over the groups.

    `groups` are index tensors into the N texts (queries, positives, negatives; -1 is skipped, an empty group counts 0).
    """
    error_N = (E_ND - T_ND[:, : E_ND.shape[1]]).square().mean(-1)
    present = [group[group >= 0] for group in groups]
    return torch.stack([error_N.index_select(0, group).mean() for group in present if len(group)]).sum()


def _blocks(E: Tensor, dims: Sequence[int]) -> list[Tensor]:
    """E cut along its last axis at the dims."""
    return [E[..., low:high] for low, high in zip([0, *dims[:-1]], dims, strict=True)]


def _weighted_cross_entropy(logits_RBM: Tensor, target_B: Tensor, dims: Sequence[int]) -> Tensor:
    R, B, M = logits_RBM.shape
    losses = F.cross_entropy(logits_RBM.reshape(R * B, M), target_B.repeat(R), reduction="none").view(R, B).mean(1)
    return torch.dot(losses, losses.new_tensor(matryoshka_weights(dims)))
