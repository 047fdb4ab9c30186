"""The losses of F2LLM-v2 (section 2.3 of the paper) as pure functions of tensors; letters as in `train.batch`.

Cosines at nested dims d1 < d2 < ... < D share their inner products: the product over the first d2 coordinates is that
over the first d1 plus a block. So all matryoshka dims cost about one full product, not one product each.

A contrastive loss comes as its mean over the rows, to differentiate, and the detached losses of the rows [B], to log.
M counts candidates (documents). What another paper is named for is an option, not part of F2LLM-v2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from f2llm.core.types import Distill

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


def hard_loss(
    Q_BD: Tensor, C_BKD: Tensor, present_BK: Tensor, dims: Sequence[int], temperature: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the positive, candidate 0, among the query's own candidates, weighted over the dims.

    `present_BK` is False at candidates that a row does not have.
    """
    logits = nested_row_cosines(Q_BD, C_BKD, dims) / temperature
    logits = logits.masked_fill(~present_BK, -math.inf)
    return _weighted_cross_entropy(logits, torch.zeros(len(Q_BD), dtype=torch.long, device=Q_BD.device), dims)


def in_batch_loss(
    Q_BD: Tensor,
    C_MD: Tensor,
    target_B: Tensor,
    dims: Sequence[int],
    temperature: float,
    excluded_BM: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a query's positive, candidate `target_B`, among all M candidates, weighted over the dims.

    The paper's candidates are the positives of the batch, the targets 0 to B-1. Add the hard negatives of all rows when
    a batch is small or its positives are too easy to tell apart (DPR, Karpukhin et al. 2020).
    `excluded_BM` marks candidates that must not count as negatives of a row; it is never read at the target.
    """
    mask = None if excluded_BM is None else excluded_BM.scatter(1, target_B[:, None], False)
    loss, rows_B = _InBatchLoss.apply(Q_BD, C_MD, target_B, tuple(dims), temperature, mask)  # type: ignore[no-untyped-call]
    return loss, rows_B


class _InBatchLoss(torch.autograd.Function):
    """The loss and its gradient by hand: one [B, M] matrix of inner products grows block by block.

    With a = 1 / (|q| temperature) and b = 1 / |c| at a dim, the logits are L = a S b, G is the gradient at L, and that
    at S is a G b. A block of coordinates is part of S at its own dim and at all larger ones, so it gets the sum of
    those; the norms give -q sum(G L) / |q|^2 and the like for c. Autograd would pass over [B, M] far more often.
    """

    @staticmethod
    def forward(
        ctx: Any, Q: Tensor, C: Tensor, target: Tensor, dims: tuple[int, ...], temperature: float, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q_square, c_square = nested_norms(Q, dims).square(), nested_norms(C, dims).square()
        a_RB, b_RM = q_square.rsqrt() / temperature, c_square.rsqrt()
        S, rows_B, target = Q.new_zeros(len(Q), len(C)), Q.new_zeros(len(Q)), target[:, None]
        at_S, q_norm, c_norm = [], torch.empty_like(a_RB), torch.empty_like(b_RM)
        blocks = zip(_blocks(Q, dims), _blocks(C, dims), matryoshka_weights(dims), strict=True)
        for r, (q, c, weight) in enumerate(blocks):
            S.addmm_(q, c.T)
            L = (S * b_RM[r]).mul_(a_RB[r][:, None])
            if mask is not None:
                L.masked_fill_(mask, -math.inf)
            log_sum = L.logsumexp(1, keepdim=True)
            log_share = L.gather(1, target) - log_sum
            rows_B.sub_(log_share[:, 0], alpha=weight)
            G = torch.sub(L, log_sum).exp_()
            G.scatter_(1, target, log_share.expm1_())
            G.mul_(weight / len(Q))
            if mask is not None:
                L.masked_fill_(mask, 0)
            L.mul_(G)
            q_norm[r], c_norm[r] = L.sum(1) / q_square[r], L.sum(0) / c_square[r]
            at_S.append(G.mul_(b_RM[r]).mul_(a_RB[r][:, None]))
        ctx.dims = dims
        ctx.save_for_backward(Q, C, q_norm, c_norm, *at_S)
        ctx.mark_non_differentiable(rows_B)
        return rows_B.mean(), rows_B

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        Q, C, q_norm, c_norm, *at_S = ctx.saved_tensors
        dQ, dC, total = torch.empty_like(Q), torch.empty_like(C), torch.zeros_like(at_S[0])
        q_norm, c_norm = (x.flip(0).cumsum(0).flip(0) for x in (q_norm, c_norm))
        for r in reversed(range(len(at_S))):
            block = slice(ctx.dims[r - 1] if r else 0, ctx.dims[r])
            total.add_(at_S[r])
            dQ[:, block] = total @ C[:, block] - q_norm[r][:, None] * Q[:, block]
            dC[:, block] = total.T @ Q[:, block] - c_norm[r][:, None] * C[:, block]
        return dQ.mul_(upstream), dC.mul_(upstream), None, None, None, None


def same_tower_loss(
    Q_BD: Tensor, P_BD: Tensor, dims: Sequence[int], temperature: float, excluded_BB: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The in-batch loss of the positives with more negatives in row i: query j for query i, positive j for positive i.

    Use it when texts of one side will be compared with each other too, as in clustering or paraphrase search (GTE, Li
    et al. 2023, which has query j for positive i as well; Qwen3 Embedding, Zhang et al. 2025, has these parts).
    `excluded_BB` drops column j of row i in all three parts; mark repeated queries too. Its diagonal is never read.
    Plain autograd, which keeps several [R, B, 3B] tensors: about five times as long as `in_batch_loss`.
    """
    own = torch.eye(len(Q_BD), dtype=torch.bool, device=Q_BD.device)
    others = ~own if excluded_BB is None else ~(own | excluded_BB)
    pairs = ((Q_BD, P_BD), (Q_BD, Q_BD), (P_BD, P_BD))
    logits = torch.cat([_nested_cosines(a, b, dims) for a, b in pairs], dim=-1) / temperature
    logits = logits.masked_fill(~torch.cat([own | others, others, others], dim=1), -math.inf)
    return _weighted_cross_entropy(logits, torch.arange(len(Q_BD), device=Q_BD.device), dims)


def spread_out_loss(E_ND: Tensor) -> Tensor:
    """Mean squared cosine of the pairs of distinct rows of E, 0 for fewer than two rows.

    Use it when vectors crowd into a cone, or are to be quantised or searched approximately; once for the queries and
    once for the documents, each text once (Zhang et al. 2017; EmbeddingGemma, Schechter Vera et al. 2025).
    The Gram matrix of rows [N, N] and that of columns [D, D] have the same sum of squares: the smaller one is formed.
    """
    count = len(E_ND)
    if count < 2:
        return E_ND.new_zeros(())
    U_ND = F.normalize(E_ND, dim=-1)
    gram = U_ND @ U_ND.T if count <= U_ND.shape[1] else U_ND.T @ U_ND
    return (gram.square().sum() - U_ND.square().sum(1).square().sum()) / (count * (count - 1))


def distill_loss(
    E_ND: Tensor, T_ND: Tensor, groups: Sequence[Tensor], kind: Distill = "mse", dims: Sequence[int] | None = None
) -> Tensor:
    """Distance to the teacher's vectors of the same texts, summed over the groups.

    `groups` are index tensors into the N texts (queries, positives, negatives; -1 is skipped, an empty group counts 0).
    "mse", the paper's: mean squared error to the teacher's first coordinates, un-normalised. "cosine": 1 - cosine to
    them, which leaves the length of the vectors free. Both are of the full size, or weighted over nested `dims`.
    "relational": see `relational_loss`, which has no groups.
    """
    width = E_ND.shape[1]
    if kind == "relational":
        return relational_loss(E_ND, T_ND, dims or (width,))
    nested, T_ND = dims or (width,), T_ND[:, :width]
    if kind == "mse":
        squares = torch.stack([block.square().sum(-1) for block in _blocks(E_ND - T_ND, nested)]).cumsum(0)
        error_RN = squares / squares.new_tensor(nested)[:, None]
    else:
        error_RN = 1 - nested_row_cosines(E_ND, T_ND[:, None], nested)[..., 0]
    error_N = error_RN.new_tensor(matryoshka_weights(nested)) @ error_RN
    present = [group[group >= 0] for group in groups]
    return torch.stack([error_N.index_select(0, group).mean() for group in present if len(group)]).sum()


def relational_loss(E_ND: Tensor, T_ND: Tensor, dims: Sequence[int]) -> Tensor:
    """Mean squared difference of the cosines of all pairs of distinct texts, student's against teacher's, over dims.

    Only the geometry is copied (RKD, Park et al. 2019, with cosines for its angles), so the widths may differ: the
    teacher's cosines are always those of its full vectors. [R, N, N] numbers.
    """
    count = len(E_ND)
    if count < 2:
        return E_ND.new_zeros(())
    difference = _nested_cosines(E_ND, E_ND, dims) - cosines(T_ND, T_ND)
    per_dim_R = difference.square().sum((1, 2)) / (count * (count - 1))  # on the diagonal both are 1
    return per_dim_R @ per_dim_R.new_tensor(matryoshka_weights(dims))


def hidden_loss(H_NLD: Tensor, T_NLD: Tensor) -> Tensor:
    """1 - cosine between student's and teacher's hidden states of the N texts' last tokens, mean over L layers.

    The teacher's have only the channels that the student was cut to (as in TinyBERT, Jiao et al. 2020, without its
    projections: pruning tells which channel is which). Directions only, as pruning rescales the stream.
    """
    return (1 - F.cosine_similarity(H_NLD, T_NLD, dim=-1)).mean()


def cosines(Q_BD: Tensor, C_MD: Tensor) -> Tensor:
    """Cosine of each query with each candidate at all coordinates, without gradient: [B, M]."""
    return F.normalize(Q_BD.detach(), dim=-1) @ F.normalize(C_MD.detach(), dim=-1).T


def false_negatives(cosines_BM: Tensor, target_B: Tensor, margin: float) -> Tensor:
    """True at candidates whose cosine with the query exceeds that of the positive minus `margin`; never at the target.

    Use it when documents answer queries that they are not labelled for. Take the cosines of a teacher where there is
    one (GISTEmbed, Solatorio 2024, margin 0), else the model's own (Qwen3 Embedding, Zhang et al. 2025, margin -0.1).
    """
    target_B1 = target_B[:, None]
    return (cosines_BM > cosines_BM.gather(1, target_B1) - margin).scatter(1, target_B1, False)


def same_documents(positive_B: Tensor, candidate_M: Tensor) -> Tensor:
    """True where a candidate has the id of the row's positive: [B, M], True at the target too.

    Use it when documents repeat in a batch, as labels of a classification do (Qwen3 Embedding, Zhang et al. 2025).
    """
    return positive_B[:, None] == candidate_M[None, :]


def _blocks(E: Tensor, dims: Sequence[int]) -> list[Tensor]:
    """E cut along its last axis at the dims."""
    return [E[..., low:high] for low, high in zip([0, *dims[:-1]], dims, strict=True)]


def _nested_cosines(Q_BD: Tensor, C_MD: Tensor, dims: Sequence[int]) -> Tensor:
    """Cosine of each query with each candidate at each dim: [R, B, M]."""
    pairs = zip(_blocks(Q_BD, dims), _blocks(C_MD, dims), strict=True)
    products = torch.stack([q @ c.T for q, c in pairs]).cumsum(0)
    return products / (nested_norms(Q_BD, dims)[:, :, None] * nested_norms(C_MD, dims)[:, None, :])


def _weighted_cross_entropy(logits_RBM: Tensor, target_B: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cross-entropy weighted over the dims: its mean over the rows, and the rows detached."""
    R, B, M = logits_RBM.shape
    losses_RB = F.cross_entropy(logits_RBM.reshape(R * B, M), target_B.repeat(R), reduction="none").view(R, B)
    rows_B = losses_RB.new_tensor(matryoshka_weights(dims)) @ losses_RB
    return rows_B.mean(), rows_B.detach()
