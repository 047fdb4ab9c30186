"""Reading passages from files and folders, and exact search with a fake embedder and a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from f2llm.apps import search as module
from f2llm.apps.search import Passage, read_passages, search
from f2llm.core.errors import ConfigError, DataError
from f2llm.model.embedder import Embedder
from tests.eval.fakes import FakeEmbedder


def test_lines_of_a_file_keep_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes("\ufefffirst\r\n\r\n  second  \nзвёзды".encode())
    assert read_passages(file) == [
        Passage("first", file, 1),
        Passage("second", file, 3),
        Passage("звёзды", file, 4),
    ]


def test_markdown_is_read_by_paragraphs(tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_text("# Title\n\none\ntwo\n\n\nthree\n", encoding="utf-8")
    assert [(p.line, p.text) for p in read_passages(file)] == [(1, "# Title"), (3, "one two"), (7, "three")]


def test_a_folder_skips_hidden_and_unreadable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "inner.txt").write_text("inner\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("outer\n", encoding="utf-8")
    (tmp_path / ".git" / "config").write_text("hidden\n", encoding="utf-8")
    (tmp_path / "image.bin").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    assert [p.text for p in read_passages(tmp_path)] == ["outer", "inner"]
    assert "2 files" in capsys.readouterr().err


def test_nothing_to_search_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_passages(tmp_path / "absent.txt")
    with pytest.raises(DataError, match="holds no text"):
        read_passages(tmp_path)


def passages(texts: list[str]) -> list[Passage]:
    return [Passage(text, Path("f"), line) for line, text in enumerate(texts, start=1)]


def test_the_nearest_text_comes_first_and_only_once() -> None:
    embedder = FakeEmbedder()
    found = search(embedder, passages(["winter", "summer", "winter", "river"]), ["winter", "the river"], top_k=2)
    assert (found[0][0].text, found[0][0].line) == ("winter", 1)
    assert found[0][0].score == pytest.approx(1.0)
    assert found[1][0].text == "river"
    assert all(len({hit.text for hit in hits}) == 2 for hits in found)
    assert embedder.calls[0] == ["winter", "summer", "river"]


def test_blocks_and_sorting_give_the_same_exact_result(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    queries = generator.normal(size=(3, 8)).astype(np.float32)
    documents = generator.normal(size=(50, 8)).astype(np.float32)
    monkeypatch.setattr(module, "BLOCK_VALUES", 20)
    scores, places = module.top(queries, documents, 7)
    expected = np.argsort(-(queries @ documents.T), axis=1)[:, :7]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ documents.T, expected, 1), rtol=1e-5)


def test_the_instruction_replaces_the_query_prompt() -> None:
    embedder = FakeEmbedder()
    search(embedder, passages(["a"]), ["b"], instruction="Find it.")
    search(embedder, passages(["a"]), ["b"], instruction="")
    assert embedder.calls == [["a"], ["Instruct: Find it.\nQuery: b"], ["a"], ["b"]]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="top_k"):
        search(FakeEmbedder(), passages(["a"]), ["b"], top_k=0)
    with pytest.raises(DataError, match="query is empty"):
        search(FakeEmbedder(), passages(["a"]), [" "])
    with pytest.raises(DataError, match="no passage"):
        search(FakeEmbedder(), [], ["b"])
    assert search(FakeEmbedder(), passages(["a"]), []) == []
    assert len(search(FakeEmbedder(), passages(["a"]), ["b"], top_k=9)[0]) == 1


def test_a_real_model_finds_the_text_itself(model_directory: Path) -> None:
    embedder = Embedder.load(model_directory)
    found = search(embedder, passages(["Good morning", "早上好", "Доброе утро"]), ["早上好"], top_k=3, instruction="")
    assert found[0][0].text == "早上好"
    assert found[0][0].score == pytest.approx(1.0, abs=1e-5)
