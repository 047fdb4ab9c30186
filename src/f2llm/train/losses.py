"""The losses of F2LLM-v2 (section 2.3 of the paper) as pure functions of tensors; letters as in `train.batch`.

Cosines at nested dims d1 < d2 < ... < D share their inner products: the product over the first d2 coordinates is that
over the first d1 plus a block. So all matryoshka dims cost about one full product, not one product each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def nested_cosines(Q_BD: Tensor, P_MD: Tensor, dims: Sequence[int]) -> Tensor:
    """Cosine of every query with every document at each dim: [R, B, M]."""
    products = torch.stack([q @ p.T for q, p in zip(_blocks(Q_BD, dims), _blocks(P_MD, dims), strict=True)]).cumsum(0)
    return products / (nested_norms(Q_BD, dims)[:, :, None] * nested_norms(P_MD, dims)[:, None, :])


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
    logits = nested_cosines(Q_BD, P_BD, dims) / temperature
    if excluded_BB is not None:
        own = torch.eye(len(Q_BD), dtype=torch.bool, device=Q_BD.device)
        logits = logits.masked_fill(excluded_BB & ~own, -math.inf)
    return _weighted_cross_entropy(logits, torch.arange(len(Q_BD), device=Q_BD.device), dims)


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
