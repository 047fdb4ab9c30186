"""The loss of a training step (F2LLM-v2, section 2.3) as a function of the embeddings of its batch.

Hard cross-entropy for every task, plus in-batch cross-entropy for retrieval, both over all matryoshka dims, plus the
distillation MSE where there is a teacher. The options are off by default; `LossSettings` says when each helps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from f2llm.core.errors import ConfigError
from f2llm.core.types import Distill, TaskType
from f2llm.train.batch import PackedBatch
from f2llm.train.losses import (
    cosines,
    distill_loss,
    false_negatives,
    hard_loss,
    hidden_loss,
    in_batch_loss,
    same_documents,
    same_tower_loss,
    spread_out_loss,
)


@dataclass(frozen=True)
class LossSettings:
    """What the loss is made of; the defaults are the paper's.

    - `temperatures`: by source, where some need another than `temperature` (texts of a few words, noisy labels).
    - `mask_duplicates`: the same document at another row is no negative; for sources whose documents repeat.
    - `false_negative_margin`: nor, in the in-batch loss, is a document that the teacher (without one, the model itself)
      finds closer to the query than the positive minus this; for sources with many unlabelled answers.
    - `share_hard_negatives`: hard negatives of other rows are negatives too, each once, and duplicates are masked; for
      small batches.
    - `same_tower`: so are the other queries, and other positives for the positive; where texts of one kind are
      compared.
    - `spread_out_weight`: push all texts apart; before quantising vectors, or where they crowd together.
    - `distill`, `distill_matryoshka`: what is compared with the teacher (see `losses.distill_loss`), and whether at all
      dims or the full one only.
    - `distill_hidden_weight`: match the student's hidden states after its first `hidden_states` layers with those of
      the teacher's layers that they were cut from; for models pruned from their teacher.
    - `detach_across_processes`: on several processes no gradient reaches the positives through the in-batch loss, as in
      the published code; only to reproduce it.
    """

    dims: tuple[int, ...]
    temperature: float = 0.05
    distill_weight: float = 1.0
    distill: Distill = "mse"
    distill_matryoshka: bool = False
    distill_hidden_weight: float = 0.0
    hidden_states: int = 0
    mask_duplicates: bool = False
    temperatures: Mapping[str, float] = field(default_factory=dict)
    false_negative_margin: float | None = None
    share_hard_negatives: bool = False
    same_tower: bool = False
    spread_out_weight: float = 0.0
    detach_across_processes: bool = False

    def __post_init__(self) -> None:
        if self.same_tower and self.share_hard_negatives:
            raise ConfigError("same_tower and share_hard_negatives cannot be combined; choose one of them")


@dataclass(frozen=True)
class Parts:
    """The terms of the loss, and each row's hard loss [B]; all detached."""

    terms: dict[str, Tensor]
    rows_B: Tensor


def make_objective(
    settings: LossSettings, batch: PackedBatch, task_type: TaskType, teacher_ND: Tensor | None, processes: int = 1
) -> Callable[[Tensor], tuple[Tensor, Parts]]:
    """The loss of `batch` as a function of its embeddings E_ND [N, D] (float32).

    With L hidden states to match, they follow the embeddings: [N, D + L D], and the teacher's vectors [N, D_T + L D].
    """
    temperature = settings.temperatures.get(batch.source, settings.temperature)
    query, positive, negatives = batch.query, batch.positive, batch.negatives
    candidates = torch.cat([positive[:, None], negatives], dim=1)

    def loss(outputs: Tensor) -> tuple[Tensor, Parts]:
        E_ND, H_NLD = _split(settings, outputs)
        T_ND, G_NLD = (None, None) if teacher_ND is None else _split(settings, teacher_ND)
        # Not E_ND[...]: with several threads the gradient of indexing adds up in another order at each run.
        Q_BD = E_ND.index_select(0, query)
        C_BKD = E_ND.index_select(0, candidates.clamp_min(0).flatten()).view(*candidates.shape, -1)
        hard, rows_B = hard_loss(Q_BD, C_BKD, candidates >= 0, settings.dims, temperature)
        terms = {"hard": hard}
        if task_type == "retrieval":
            source = E_ND.detach() if settings.detach_across_processes and processes > 1 else E_ND
            terms["in_batch"] = _in_batch(settings, batch, temperature, Q_BD, source, T_ND)
        if T_ND is not None:
            groups = [query, positive, negatives.flatten()]
            dims = settings.dims if settings.distill_matryoshka else None
            terms["distill"] = settings.distill_weight * distill_loss(E_ND, T_ND, groups, settings.distill, dims)
            if H_NLD is not None and G_NLD is not None:
                terms["hidden"] = settings.distill_hidden_weight * hidden_loss(H_NLD, G_NLD)
        if settings.spread_out_weight:
            terms["spread_out"] = settings.spread_out_weight * _spread_out(batch, E_ND)
        total = torch.stack(list(terms.values())).sum()
        return total, Parts({name: term.detach() for name, term in terms.items()}, rows_B)

    return loss


def _split(settings: LossSettings, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Vectors [N, ...] and the hidden states [N, L, D] behind them, if they are to be matched."""
    if not settings.hidden_states:
        return outputs, None
    states = settings.hidden_states * settings.dims[-1]
    return outputs[:, :-states], outputs[:, -states:].reshape(len(outputs), settings.hidden_states, -1)


def _in_batch(
    settings: LossSettings,
    batch: PackedBatch,
    temperature: float,
    Q_BD: Tensor,
    E_ND: Tensor,
    teacher_ND: Tensor | None,
) -> Tensor:
    """In-batch loss over the positives of all rows, in the form that the options ask for."""
    documents, target = batch.positive, torch.arange(len(batch.positive), device=E_ND.device)
    if settings.share_hard_negatives:
        others = torch.unique(batch.negatives[batch.negatives >= 0])
        documents = torch.cat([documents, others[~torch.isin(others, documents)]])
    C_MD = E_ND.index_select(0, documents)
    excluded = _excluded(settings, batch, documents, target, Q_BD, C_MD, teacher_ND)
    if settings.same_tower:
        count = len(batch.positive)
        repeated = same_documents(batch.query, batch.query)
        masked = repeated if excluded is None else repeated | excluded[:, :count]
        return same_tower_loss(Q_BD, C_MD[:count], settings.dims, temperature, masked)[0]
    return in_batch_loss(Q_BD, C_MD, target, settings.dims, temperature, excluded)[0]


def _excluded(
    settings: LossSettings,
    batch: PackedBatch,
    documents: Tensor,
    target: Tensor,
    Q_BD: Tensor,
    C_MD: Tensor,
    teacher_ND: Tensor | None,
) -> Tensor | None:
    """[B, M] True at candidates that must not count as negatives; None where no option asks."""
    excluded = None
    if settings.mask_duplicates or settings.share_hard_negatives:
        excluded = same_documents(batch.positive, documents)
    if settings.false_negative_margin is not None:
        judge = (Q_BD, C_MD)
        if teacher_ND is not None:
            judge = (teacher_ND.index_select(0, batch.query), teacher_ND.index_select(0, documents))
        close = false_negatives(cosines(*judge), target, settings.false_negative_margin)
        excluded = close if excluded is None else excluded | close
    return excluded


def _spread_out(batch: PackedBatch, E_ND: Tensor) -> Tensor:
    """Of the distinct queries, and of the distinct documents."""
    documents = torch.cat([batch.positive, batch.negatives[batch.negatives >= 0]])
    return torch.stack(
        [spread_out_loss(E_ND.index_select(0, torch.unique(ids))) for ids in (batch.query, documents)]
    ).sum()
