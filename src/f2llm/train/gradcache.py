"""Embed a batch of any size in bounded memory, with the exact gradient (GradCache, Gao et al. 2021).

A batch within `micro_batch_tokens` takes the plain path. A larger one is embedded without gradient, the loss gives the
gradient of the embeddings, and each micro-batch is embedded again to carry its share back: one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from f2llm.model.decoder import Decoder
from f2llm.model.pack import embed
from f2llm.train.batch import PackedBatch

Aux = TypeVar("Aux")


def backward(
    decoder: Decoder, batch: PackedBatch, loss: Callable[[Tensor], tuple[Tensor, Aux]], max_tokens: int
) -> tuple[Tensor, Aux]:
    """Add the gradient of `loss(E_ND)[0]` to the decoder's parameters; returns what `loss` returned."""
    parts = list(batch.micro_batches(max_tokens))
    if len(parts) == 1:
        value, aux = loss(embed(decoder, parts[0][1]))
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach(), aux
    with torch.no_grad():
        E_ND = torch.cat([embed(decoder, pack) for _, pack in parts])
    E_ND.requires_grad_()
    value, aux = loss(E_ND)
    value.backward()  # type: ignore[no-untyped-call]
    assert E_ND.grad is not None
    for texts, pack in parts:
        embed(decoder, pack).backward(E_ND.grad[texts])  # type: ignore[no-untyped-call]
    return value.detach(), aux
