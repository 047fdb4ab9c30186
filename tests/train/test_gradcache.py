"""A batch in one pack or in micro-batches gives the gradient of its texts one by one."""

import numpy as np
import torch
from torch import Tensor

from f2llm.data.store import TokenStore
from f2llm.model.decoder import Decoder
from f2llm.train.batch import pack_rows
from f2llm.train.distributed import Replica, World
from f2llm.train.gradcache import backward
from f2llm.train.losses import in_batch_loss


def test_gradient_equals_that_of_the_texts_one_by_one(store: TokenStore, decoder: Decoder) -> None:
    batch = pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:30], dtype=np.int64))

    def loss(E_ND: Tensor) -> tuple[Tensor, Tensor]:
        return in_batch_loss(E_ND[batch.query], E_ND[batch.positive], torch.arange(30), [8, 16], 0.05)

    texts = [torch.from_numpy(store.text(int(i)).astype(np.int64)) for i in batch.text_ids]
    alone = torch.cat([decoder(text, [0, len(text)])[-1:] for text in texts])
    value, _ = loss(alone)
    decoder.zero_grad()
    value.backward()
    found = [(value, [p.grad.clone() for p in decoder.parameters() if p.grad is not None])]
    for budget in (10**6, 60):
        decoder.zero_grad()
        value, _ = backward(Replica(decoder, World(), "fsdp", "fp32"), batch, loss, budget)
        found.append((value, [p.grad.clone() for p in decoder.parameters() if p.grad is not None]))
    (one_by_one, expected), *packed = found
    for total, gradients in packed:
        torch.testing.assert_close(total, one_by_one, rtol=1e-5, atol=1e-6)
        for a, b in zip(gradients, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
