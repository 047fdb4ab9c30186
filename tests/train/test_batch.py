"""Packing: every distinct text once, roles point at the right text."""

import numpy as np
import pytest
import torch

from f2llm.data.store import TokenStore
from f2llm.text.tokenizer import Tokenizer
from f2llm.train.batch import pack_rows


def test_roles_point_at_the_texts_of_the_rows(store: TokenStore) -> None:
    table = np.asarray(store.rows["groups"][:10], dtype=np.int64)
    table[3, 4:] = -1
    batch = pack_rows(store, "groups", table)
    roles = torch.cat([batch.query[:, None], batch.positive[:, None], batch.negatives], 1).numpy()
    assert np.array_equal(np.where(roles >= 0, batch.text_ids[roles], -1), table)
    assert len(set(batch.text_ids.tolist())) == len(batch.text_ids)
    for place, text in enumerate(batch.text_ids):
        own = batch.input_ids[batch.cu_seqlens[place] : batch.cu_seqlens[place + 1]].tolist()
        before = batch.prefix.tolist() if place < batch.continuations else []
        assert before + own == store.text(int(text)).tolist()


def test_sequences_come_in_order_of_length(store: TokenStore) -> None:
    batch = pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:20], dtype=np.int64))
    lengths = np.diff(batch.cu_seqlens)
    for part in (lengths[: batch.continuations], lengths[batch.continuations :]):
        assert (np.diff(part) >= 0).all()


def test_the_instruction_is_packed_once(store: TokenStore, tokenizer: Tokenizer) -> None:
    batch = pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:20], dtype=np.int64))
    text = tokenizer.decode(batch.prefix.tolist())
    assert text.startswith("Instruct: Find it.\nQuery:")
    assert batch.query.max() < batch.continuations, "every query continues it"
    assert batch.continuations > len(set(batch.query.tolist())), "and so do the documents that carry it"
    assert batch.tokens < store.lengths(batch.text_ids).sum() / 1.5


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_cover_the_pack_within_the_budget(store: TokenStore, processes: int) -> None:
    batch = pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:20], dtype=np.int64))
    rounds = batch.shares(processes, 60)
    assert {len(shares) for shares in rounds} == {processes}
    parts = [part for shares in rounds for part in shares]
    size = len(batch.prefix)
    own = [pack.input_ids[size if pack.continuations else 0 :] for _, pack in parts]
    assert torch.equal(torch.cat(own), batch.input_ids)
    assert all(len(ids) <= 60 or texts.stop - texts.start == 1 for ids, (texts, _) in zip(own, parts, strict=True))
    assert [texts.start for texts, _ in parts[1:]] == [texts.stop for texts, _ in parts[:-1]]
    assert sum(pack.continuations for _, pack in parts) == batch.continuations
    assert {pack.continuations > 0 for _, pack in parts} == {True, False}
    assert len(rounds) <= 1 + -(-len(batch.input_ids) // (40 * processes)), "not many more than needed"


def test_shares_of_few_texts_keep_all_processes_busy(store: TokenStore) -> None:
    batch = pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:1, :3], dtype=np.int64))
    ((*shares,),) = batch.shares(8, 1000)
    assert sum(texts.stop - texts.start for texts, _ in shares) == len(batch.text_ids) < 8
    assert all(len(pack.input_ids) for _, pack in shares)


def test_attention_pairs_are_those_of_the_whole_texts(store: TokenStore) -> None:
    batch = pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:20], dtype=np.int64))
    lengths, prefix = store.lengths(batch.text_ids), len(batch.prefix)
    whole = (lengths * (lengths + 1) // 2).sum()
    assert batch.attention_pairs == whole - (batch.continuations - 1) * prefix * (prefix + 1) // 2
