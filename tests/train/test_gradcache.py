"""A batch in micro-batches gives the gradient of the whole batch."""

import numpy as np
import torch
from torch import Tensor

from f2llm.data.store import TokenStore
from f2llm.model.decoder import Decoder
from f2llm.train.batch import pack_rows
from f2llm.train.gradcache import backward
from f2llm.train.losses import in_batch_loss


def test_gradient_equals_that_of_the_whole_batch(store: TokenStore, decoder: Decoder) -> None:
    batch = pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:30], dtype=np.int64))

    def loss(E_ND: Tensor) -> tuple[Tensor, None]:
        return in_batch_loss(E_ND[batch.query], E_ND[batch.positive], [8, 16], 0.05), None

    found = []
    for budget in (10**6, 150):
        decoder.zero_grad()
        value, _ = backward(decoder, batch, loss, budget)
        found.append((value, [p.grad.clone() for p in decoder.parameters() if p.grad is not None]))
    (whole, gradients), (parts, summed) = found
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    for a, b in zip(summed, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
