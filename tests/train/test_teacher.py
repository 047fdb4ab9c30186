"""Teacher vectors: the same as computed on the spot, resumable, and only for the texts that are needed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from f2llm.core.errors import DataError
from f2llm.core.files import write_json
from f2llm.data.store import TokenStore
from f2llm.model.decoder import Decoder
from f2llm.model.pack import embed
from f2llm.train.batch import pack_texts
from f2llm.train.sampler import BatchSampler
from f2llm.train.teacher import StoredTeacher, compute_teacher_vectors, needed_texts


def test_vectors_equal_the_teachers_own(tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    ids = np.arange(0, len(store), 3)
    compute_teacher_vectors(tmp_path, decoder, store, ids, batch_tokens=200)
    vectors = StoredTeacher(tmp_path)
    wanted = ids[[5, 1, 17]]
    with torch.no_grad():
        direct = embed(decoder, pack_texts(store, wanted))
    torch.testing.assert_close(vectors[wanted], direct, rtol=1e-3, atol=2e-3)


def test_a_cut_off_computation_continues(
    tmp_path: Path, store: TokenStore, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("f2llm.train.teacher._CHUNK_TEXTS", 50)
    ids = np.arange(len(store))
    compute_teacher_vectors(tmp_path / "whole", decoder, store, ids, batch_tokens=200)
    compute_teacher_vectors(tmp_path / "cut", decoder, store, ids, batch_tokens=200)
    with open(tmp_path / "cut" / "vectors.f16", "r+b") as handle:  # as if the process had died after 100 texts
        order = np.argsort(store.lengths(ids), kind="stable")
        for text in order[100:]:
            handle.seek(int(text) * decoder.shape.hidden * 2)
            handle.write(b"\0" * decoder.shape.hidden * 2)
    write_json(tmp_path / "cut" / "done.json", {"texts": 100, "dim": decoder.shape.hidden})
    compute_teacher_vectors(tmp_path / "cut", decoder, store, ids, batch_tokens=200)
    assert (tmp_path / "cut" / "vectors.f16").read_bytes() == (tmp_path / "whole" / "vectors.f16").read_bytes()


def test_missing_texts_are_told(tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    compute_teacher_vectors(tmp_path, decoder, store, np.arange(0, 100, 2), batch_tokens=200)
    with pytest.raises(DataError, match="do not cover"):
        StoredTeacher(tmp_path)[np.array([2, 3])]


def test_needed_texts_are_those_of_the_steps(store: TokenStore) -> None:
    sampler = BatchSampler({"pairs": 90}, 10, 0)
    one, all_rows = (needed_texts(store, sampler, steps, {"pairs": 6}, 0) for steps in (1, 9))
    assert len(one) < len(all_rows)
    assert set(all_rows) == set(np.unique(store.rows["pairs"]).tolist())
