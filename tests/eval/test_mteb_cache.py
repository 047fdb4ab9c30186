"""Vectors on disk: encoded once, whole after a kill, damage found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.core.errors import ModelError
from f2llm.eval import mteb_cache
from f2llm.eval.mteb_cache import VectorStore
from f2llm.model.vectors import Vectors


class Counting:
    """An encoder that makes four numbers of a text, and remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, texts: list[str]) -> Vectors:
        self.seen += texts
        rows = [[len(text), sum(map(ord, text)) % 97, text.count("a"), 1] for text in texts]
        return np.array(rows, dtype=np.float32)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.text(max_size=4), max_size=12), max_size=5))
def test_every_text_is_encoded_once_and_comes_back_in_place(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[str]]
) -> None:
    store, encode = VectorStore(tmp_path_factory.mktemp("v"), 4), Counting()
    for texts in calls:
        np.testing.assert_array_equal(store.vectors("p", texts, encode), Counting()(texts).reshape(-1, 4))
    assert sorted(encode.seen) == sorted({text for texts in calls for text in texts})


def test_another_process_reads_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mteb_cache, "ROWS", 3)
    texts = [f"text {n}" for n in range(8)]
    first = VectorStore(tmp_path, 4).vectors("p", texts, Counting())
    again = Counting()
    np.testing.assert_array_equal(VectorStore(tmp_path, 4).vectors("p", texts[::-1], again), first[::-1])
    assert again.seen == []
    assert len(list(tmp_path.glob("*/*.npy"))) == 3


def test_prompts_are_kept_apart(tmp_path: Path) -> None:
    store, encode = VectorStore(tmp_path, 4), Counting()
    store.vectors("", ["a"], encode)
    store.vectors("Instruct: x\nQuery: ", ["a"], encode)
    assert encode.seen == ["a", "a"]


def test_an_encoder_that_stops_half_way_loses_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mteb_cache, "ROWS", 2)
    good = Counting()

    def stops(texts: list[str]) -> Vectors:
        if "4" in texts:
            raise KeyboardInterrupt
        return good(texts)

    texts = [str(n) for n in range(6)]
    with pytest.raises(KeyboardInterrupt):
        VectorStore(tmp_path, 4).vectors("p", texts, stops)
    rest = Counting()
    VectorStore(tmp_path, 4).vectors("p", texts, rest)
    assert (good.seen, rest.seen) == (texts[:4], texts[4:])


def test_slow_encoding_is_written_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mteb_cache, "SECONDS", 0.0)
    monkeypatch.setattr(mteb_cache, "_SLICE", 2)
    written: list[int] = []

    def encode(texts: list[str]) -> Vectors:
        written.append(len(list(tmp_path.glob("*/*.npy"))))
        return Counting()(texts)

    VectorStore(tmp_path, 4).vectors("p", [str(n) for n in range(6)], encode)
    assert written == [0, 1, 2]


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "other width"])
def test_a_damaged_file_is_told_and_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str) -> None:
    texts = ["a", "b", "c"]
    right = VectorStore(tmp_path, 4).vectors("p", texts, Counting())
    (path,) = tmp_path.glob("*/*.npy")
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[-3] ^= 64
    elif harm == "cut":
        del content[-7:]
    elif harm == "empty":
        content.clear()
    else:
        np.save(path, np.zeros(3))
        content = bytearray(path.read_bytes())
    path.write_bytes(content)
    encode = Counting()
    np.testing.assert_array_equal(VectorStore(tmp_path, 4).vectors("p", texts, encode), right)
    assert encode.seen == texts
    assert " ".join(capsys.readouterr().err.split()).count("is damaged; it is deleted") == 1
    assert len(list(tmp_path.glob("*/*.npy"))) == 1


def test_a_vector_that_is_not_finite_is_refused_and_not_stored(tmp_path: Path) -> None:
    def broken(texts: list[str]) -> Vectors:
        found = Counting()(texts)
        found[1, 2] = np.nan
        return found

    with pytest.raises(ModelError, match="not finite for 1 of 3 texts, the first 'other'"):
        VectorStore(tmp_path, 4).vectors("p", ["first", "other", "third"], broken)
    assert not list(tmp_path.glob("*/*.npy"))
