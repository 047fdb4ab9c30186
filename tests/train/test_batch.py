"""Packing: every distinct text once, roles point at the right text."""

import numpy as np
import torch

from f2llm.data.store import TokenStore
from f2llm.train.batch import pack_rows


def test_roles_point_at_the_texts_of_the_rows(store: TokenStore) -> None:
    table = np.asarray(store.rows["groups"][:10], dtype=np.int64)
    table[3, 4:] = -1
    batch = pack_rows(store, "groups", table)
    roles = torch.cat([batch.query[:, None], batch.positive[:, None], batch.negatives], 1).numpy()
    assert np.array_equal(np.where(roles >= 0, batch.text_ids[roles], -1), table)
    assert len(set(batch.text_ids.tolist())) == len(batch.text_ids)
    for place, text in enumerate(batch.text_ids):
        piece = batch.input_ids[batch.cu_seqlens[place] : batch.cu_seqlens[place + 1]]
        assert piece.tolist() == store.text(int(text)).tolist()


def test_sequences_come_in_order_of_length(store: TokenStore) -> None:
    batch = pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:20], dtype=np.int64))
    lengths = np.diff(batch.cu_seqlens)
    assert (np.diff(lengths) >= 0).all()


def test_micro_batches_cover_the_pack_within_the_budget(store: TokenStore) -> None:
    batch = pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:20], dtype=np.int64))
    parts = list(batch.micro_batches(100))
    assert torch.equal(torch.cat([ids for _, ids, _ in parts]), batch.input_ids)
    assert all(len(ids) <= 100 or len(cu) == 2 for _, ids, cu in parts)
    assert [texts.start for texts, _, _ in parts[1:]] == [texts.stop for texts, _, _ in parts[:-1]]
