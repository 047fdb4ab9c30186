"""Teacher vectors: the same as computed on the spot, resumable, and only for the texts that are needed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from f2llm.core.errors import DataError
from f2llm.core.files import write_json
from f2llm.data.store import TokenStore
from f2llm.model.decoder import Decoder
from f2llm.model.pack import embed
from f2llm.train.batch import pack_rows, pack_texts
from f2llm.train.distributed import Replica, World
from f2llm.train.gradcache import embed_batch
from f2llm.train.objective import LossSettings
from f2llm.train.sampler import BatchSampler
from f2llm.train.settings import Upkeep, make_sampler
from f2llm.train.teacher import HiddenMatch, OnlineTeacher, StoredTeacher, compute_teacher_vectors, needed_texts
from f2llm.train.trainer import train
from tests.train.test_trainer import SETTINGS, losses


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


MATCH = HiddenMatch(layers=(1, 2), channels=(0, 3, 4, 7, 8, 9, 10, 11, 12, 15, 16, 17, 19, 20, 21, 23))


@pytest.fixture
def teacher(decoder: Decoder) -> Decoder:
    """Deeper and wider than the student."""
    model = Decoder(replace(decoder.shape, hidden=24, layers=4))
    model.init_weights(5)
    return model


@pytest.mark.parametrize("match", [None, MATCH])
def test_online_and_stored_teachers_train_the_same_student(
    match: HiddenMatch | None, tmp_path: Path, store: TokenStore, decoder: Decoder, teacher: Decoder
) -> None:
    student = replace(decoder.shape, layers=3)
    loss = LossSettings(dims=(8, 16), distill_weight=100.0)
    if match is not None:
        loss = replace(loss, hidden_states=2, distill_hidden_weight=1.0)
    settings = replace(SETTINGS, loss=loss, steps=6)
    negatives = {source: settings.negatives(kind) for source, kind in store.task_types.items()}
    ids = needed_texts(store, make_sampler(store, settings), settings.steps, negatives, settings.seed)
    states = match.depth if match else 0
    compute_teacher_vectors(tmp_path / "teach", teacher, store, ids, batch_tokens=500, states=states)
    stored = StoredTeacher(tmp_path / "teach", match)
    online = OnlineTeacher(teacher, World(), "ddp", "fp32", 500, match)
    trained = []
    for name, source in (("stored", stored), ("online", online)):
        model = Decoder(student)
        model.init_weights(0)
        train(model, store, settings, tmp_path / name, upkeep=Upkeep(checkpoint_every=100), teacher=source)
        trained.append(model)
    np.testing.assert_allclose(losses(tmp_path / "online"), losses(tmp_path / "stored"), rtol=1e-4)
    for one, other in zip(*(model.parameters() for model in trained), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)


def test_the_wanted_layers_and_channels_are_selected(store: TokenStore, teacher: Decoder, tmp_path: Path) -> None:
    ids = np.arange(0, 40)
    compute_teacher_vectors(tmp_path, teacher, store, ids, batch_tokens=500, states=3)
    pack = pack_texts(store, ids)
    seen: list[torch.Tensor] = []
    for layer in teacher.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.append(output))
    with torch.no_grad():
        teacher.append_states = 0
        last = embed(teacher, pack)
        seen.clear()
        teacher(pack.input_ids, pack.cu_seqlens)
    ends = torch.tensor(pack.cu_seqlens[1:]) - 1
    found = StoredTeacher(tmp_path, MATCH)[ids]
    wanted = torch.cat([last, *(seen[layer][ends][:, list(MATCH.channels)] for layer in MATCH.layers)], 1)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert StoredTeacher(tmp_path)[ids].shape == (40, 24), "without a match, the embeddings alone"


def test_a_students_states_do_not_depend_on_parts_or_prefixes(store: TokenStore, teacher: Decoder) -> None:
    """The instruction that queries share, and micro-batches, change nothing."""
    batch = pack_rows(store, "pairs", np.asarray(store.rows["pairs"][:16], dtype=np.int64))
    assert batch.continuations > 0
    teacher.append_states = 4
    replica = Replica(teacher, World(), "ddp", "fp32")
    whole, parts = (embed_batch(replica, batch, tokens) for tokens in (100_000, 60))
    torch.testing.assert_close(whole, parts, atol=2e-5, rtol=1e-4)
    alone = torch.cat([embed(teacher, pack_texts(store, batch.text_ids[i : i + 1])) for i in range(8)])
    torch.testing.assert_close(whole[:8], alone, atol=2e-5, rtol=1e-4)
    assert whole.shape[1] == 5 * 24
