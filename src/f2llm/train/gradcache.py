"""Embed a batch of any size in bounded memory and on any number of processes, with the exact gradient.

Every process embeds its share of the texts, all gather the embeddings, and the loss of the whole batch gives the
gradient of each process's own. A share that fits into `max_tokens` keeps its graph and is carried back at once. A
larger one is embedded in parts without graphs, all but the last, and embedded again part by part for the backward pass
(GradCache, Gao et al. 2021): with m parts, (m - 1) / m of a forward pass more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from f2llm.model.pack import Pack
from f2llm.train.batch import PackedBatch
from f2llm.train.distributed import Replica

Aux = TypeVar("Aux")
Rounds = Sequence[Sequence[tuple[slice, Pack]]]
"""What `PackedBatch.shares` cuts a batch into."""


def backward(
    replica: Replica, batch: PackedBatch, loss: Callable[[Tensor], tuple[Tensor, Aux]], max_tokens: int
) -> tuple[Tensor, Aux]:
    """Add the gradient of `loss(E_ND)[0]` to the decoder's parameters; returns what `loss` returned.

    `loss` is called in every process with the embeddings of the whole batch. The gradients that processes average are
    multiplied by their number beforehand, so that the result is the sum, as on one process.
    """
    world = replica.world
    rounds = batch.shares(world.size, max_tokens)
    mine = [shares[world.rank] for shares in rounds]
    with torch.no_grad():
        parts = [replica.embed(pack) for _, pack in mine[:-1]]
    kept = replica.embed(mine[-1][1], last=len(mine) == 1)
    E_ND = gather_rounds(replica, rounds, [*parts, kept.detach()]).requires_grad_()
    value, aux = loss(E_ND)
    value.backward()  # type: ignore[no-untyped-call]
    assert E_ND.grad is not None
    gradient = E_ND.grad * world.size if world.size > 1 else E_ND.grad
    _carry_back(kept, gradient[mine[-1][0]])
    del kept
    for number, (texts, pack) in enumerate(mine[:-1], start=2):
        _carry_back(replica.embed(pack, last=number == len(mine)), gradient[texts])
    return value.detach(), aux


def embed_batch(replica: Replica, batch: PackedBatch, max_tokens: int) -> Tensor:
    """Embeddings [N, D] of the whole batch in every process, without gradient."""
    rounds = batch.shares(replica.world.size, max_tokens)
    return gather_rounds(replica, rounds, embed_own(replica, rounds))


@torch.no_grad()
def embed_own(replica: Replica, rounds: Rounds) -> list[Tensor]:
    """Embeddings of this process's share of each round, without gradient."""
    return [replica.embed(shares[replica.world.rank][1]) for shares in rounds]


def gather_rounds(replica: Replica, rounds: Rounds, own: list[Tensor]) -> Tensor:
    """Embeddings of all texts in the batch's order, from this process's of each round."""
    counts = [[texts.stop - texts.start for texts, _ in shares] for shares in rounds]
    rank = replica.world.rank
    own = [rows[: count[rank]] for rows, count in zip(own, counts, strict=True)]
    everyone = replica.world.gather_rows(torch.cat(own), [sum(column) for column in zip(*counts, strict=True)])
    by_rank = [
        torch.split(rows, list(column)) for rows, column in zip(everyone, zip(*counts, strict=True), strict=True)
    ]
    return torch.cat([part for parts in zip(*by_rank, strict=True) for part in parts])


def _carry_back(rows: Tensor, gradient: Tensor) -> None:
    """The backward pass of a pack; one that stands for no text passes zeros, so that all processes take part."""
    rows.backward(gradient if len(gradient) else torch.zeros_like(rows))  # type: ignore[no-untyped-call]
