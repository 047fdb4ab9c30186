"""An index over its life: files come, change and go; searches by vector, words, both; filters; another model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from f2llm.apps.index import Index
from f2llm.apps.index_build import Report
from f2llm.apps.index_table import cast, condition, exists, kind_of, lock, open_table, scan
from f2llm.apps.reading import Columns
from f2llm.core.errors import ConfigError, DataError, ModelError, StorageError
from f2llm.model.embedder import Embedder

DOCS = {
    "eng.txt": "The weather is fine.",
    "swa.txt": "Hali ya hewa ni nzuri.",
    "rus.md": "# Привет\n\nПогода хорошая.",
    "more/zho.txt": "天气很好。",
}
ROWS = "id,body,year,price,open\n" + "".join(f"{n},river number {n},{2015 + n},{n}.5,x{n}\n" for n in range(10))


def identify(texts: Sequence[str]) -> list[tuple[str, float]]:
    return [("rus_Cyrl" if "а" in text else "eng_Latn", 1.0) for text in texts]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in DOCS.items():
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "docs"


@pytest.fixture
def index(folder: Path, model_directory: Path, tmp_path: Path) -> Index:
    found = Index.create(tmp_path / "db", model_directory)
    found.add([folder], identify=identify)
    return found


@pytest.fixture
def table(tmp_path: Path, model_directory: Path) -> Index:
    file = tmp_path / "rows.csv"
    file.write_text(ROWS, encoding="utf-8")
    own = Columns.parse(["text=body", "year", "cost=price", "open"])
    found = Index.create(tmp_path / "rows.db", model_directory, columns=own)
    found.add([file])
    return found


def counts(report: Report) -> tuple[int, int, int, int]:
    return report.added, report.updated, report.removed, report.unchanged


def rows(index: Index) -> dict[str, list[str]]:
    """What stands in the table, by name of the file."""
    found: dict[str, list[str]] = {}
    for row in scan(open_table(index.db)[0], ["path", "text"]).to_pylist():
        found.setdefault(Path(row["path"]).name, []).append(row["text"])
    return {name: sorted(texts) for name, texts in found.items()}


def paths(index: Index, query: str = "x", **options: object) -> set[str]:
    return {Path(hit.path).name for hit in index.search(query, 50, **options)}  # type: ignore[arg-type]


def test_only_what_changed_is_embedded(folder: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths(index) == {"eng.txt", "swa.txt", "rus.md", "zho.txt"}
    before = rows(index)
    (folder / "eng.txt").write_text("Another text here.", encoding="utf-8")
    (folder / "swa.txt").unlink()
    (folder / "new.txt").write_text("new words", encoding="utf-8")
    again = Index.open(index.db)
    report = again.add([folder])
    assert counts(report) == (1, 1, 1, 2)
    assert report.embedded == 2
    kept = {name: texts for name, texts in before.items() if name in ("rus.md", "zho.txt")}
    assert rows(again) == kept | {"eng.txt": ["Another text here."], "new.txt": ["new words"]}
    monkeypatch.setattr(Embedder, "encode", lambda *_, **__: pytest.fail("something was embedded"))
    report = Index.open(index.db).add([folder])
    assert counts(report) == (0, 0, 0, 4)
    assert report.passages == sum(map(len, rows(again).values()))


def test_a_file_that_becomes_shorter_leaves_no_old_passages(folder: Path, index: Index) -> None:
    file = folder / "long.txt"
    file.write_text("\n\n".join(f"Paragraph number {n} of a long text." for n in range(30)), encoding="utf-8")
    long = index.add([file])
    assert long.embedded > 5
    file.write_text("Short.", encoding="utf-8")
    assert index.add([file]).passages == long.passages - long.embedded + 1


def test_removing_and_other_folders(folder: Path, index: Index, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("other text", encoding="utf-8")
    assert counts(index.add([tmp_path / "other"])) == (1, 0, 0, 0), "files elsewhere stay"
    assert index.remove([folder]).removed == 4
    assert paths(index) == {"a.txt"}
    with pytest.raises(DataError, match="has no file at"):
        index.remove([folder])


def test_the_nearest_is_found_with_its_place(index: Index, folder: Path) -> None:
    [hit] = index.search("天气很好。", 1, instruction="")
    assert hit.path == str(folder / "more" / "zho.txt")
    assert (hit.position, hit.unit, hit.language) == (1, "line", "eng_Latn")
    assert hit.score == pytest.approx(1, abs=1e-3)
    assert [stage.name for stage in index.stages] == ["encode", "load", "shortlist", "rerank"]
    [russian] = index.search("Погода", 1, mode="text")
    assert (russian.title, russian.language, russian.words) == ("Привет", "rus_Cyrl", ["погода"])


def test_scores_are_exact_cosines(index: Index, model_directory: Path) -> None:
    embedder = Embedder.load(model_directory)
    hits = index.search("weather", 50)
    expected = embedder.encode_document([hit.text for hit in hits]) @ embedder.encode_query(["weather"])[0]
    np.testing.assert_allclose([hit.score for hit in hits], expected, atol=2e-3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_modes(index: Index) -> None:
    assert paths(index, "weather", mode="text") == {"eng.txt"}
    assert paths(index, "天气", mode="text") == {"zho.txt"}
    assert index.search("nowhere", mode="text") == []
    hybrid = index.search("weather", 4, mode="hybrid")
    assert Path(hybrid[0].path).name in {"eng.txt", Path(index.search("weather", 1)[0].path).name}
    assert len(hybrid) == 4
    assert all(hit.cosine is not None for hit in hybrid)


def test_filters(index: Index) -> None:
    assert paths(index, languages=["rus"]) == {"rus.md"}
    assert paths(index, path="more/*") == {"zho.txt"}
    assert paths(index, path="*.md") == {"rus.md"}
    assert paths(index, path="ore/*") == set()
    assert paths(index, where="text like 'Hali%'") == {"swa.txt"}
    assert paths(index, "weather", mode="text", path="*.md") == set()
    with pytest.raises(ConfigError, match="no language 'klingon'"):
        index.search("x", languages=["klingon"])


def test_own_columns_have_types_and_filter(table: Index) -> None:
    found = table.search("river", 20, where="year > 2020 and cost < 8.0")
    assert sorted(hit.values["year"] for hit in found) == [2021, 2022]
    assert found[0].values["open"].startswith("x")
    assert {hit.position for hit in found} == {8, 9}
    with pytest.raises(ConfigError, match=r"no column yer; there are text, language, path, position, title, year"):
        table.search("river", where="yer > 2020")
    with pytest.raises(ConfigError, match="is not understood"):
        table.search("river", where="year >>> 2")
    with pytest.raises(ConfigError, match="is not understood"):
        table.search("river", where="year > 'abc'")


def test_a_value_of_another_type_is_left_empty_and_counted(table: Index, tmp_path: Path) -> None:
    more = tmp_path / "more.csv"
    more.write_text("body,year\nlake,soon\npond,2030\n")
    assert table.add([more]).left_empty == {"year": 1}
    assert {hit.values["year"] for hit in table.search("lake", 50, path="more.csv")} == {None, 2030}


def test_a_column_that_no_table_has(tmp_path: Path, model_directory: Path) -> None:
    (tmp_path / "rows.csv").write_text(ROWS)
    index = Index.create(tmp_path / "db", model_directory, columns=Columns.parse(["text=body", "yer"]))
    with pytest.raises(ConfigError, match="no table has a column 'yer'; the columns are id, body, year"):
        index.add([tmp_path / "rows.csv"])
    again = Index.create(tmp_path / "db", model_directory, columns=Columns.parse(["text=body", "year"]))
    assert again.add([tmp_path / "rows.csv"]).added == 1, "the mistake is mended by the right command"
    with pytest.raises(ConfigError, match="has a column path of its own"):
        Index.create(tmp_path / "db2", model_directory, columns=Columns.parse(["path"]))


def test_a_text_that_stands_twice_is_one_hit(index: Index, folder: Path) -> None:
    (folder / "copy.txt").write_text(DOCS["eng.txt"], encoding="utf-8")
    index.add([folder])
    texts = [hit.text for hit in index.search("weather", 50)]
    assert len(texts) == len(set(texts))
    assert rows(index)["copy.txt"] == rows(index)["eng.txt"]


def test_another_model_is_refused(index: Index, model_directory: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model_directory, tmp_path / "other-model"))
    assert Index.open(index.db, other).search("x"), "a copy is the same model"
    (other / "sentence_bert_config.json").write_text('{"max_seq_length": 30}')
    with pytest.raises(ModelError, match=r"was made with .* their vectors cannot be compared"):
        Index.open(index.db, other)


def test_options_that_do_not_fit(index: Index, folder: Path, model_directory: Path, tmp_path: Path) -> None:
    index.check_options({"chunk_tokens": None, "columns": None})
    with pytest.raises(ConfigError, match="was made with chunk_tokens 39, not 20"):
        index.check_options({"chunk_tokens": 20})
    with pytest.raises(ConfigError, match="there is an index"):
        Index.create(index.db, model_directory)
    for options, words in (({"chunk_tokens": 400}, "give 8 to 39"), ({"dims": 99}, "give 1 to 48"),
                           ({"short_dims": 49}, "give 1 to 48"), ({"overlap": 30}, "--overlap 30")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            Index.create(tmp_path / "no", model_directory, **options)  # type: ignore[arg-type]
    assert not exists(str(tmp_path / "no"))
    with pytest.raises(StorageError, match=r"cannot write the index .*eng.txt: File exists; choose another --db"):
        Index.create(folder / "eng.txt", model_directory)
    with pytest.raises(DataError, match="there is no index at"):
        Index.open(tmp_path / "no")
    with pytest.raises(DataError, match="a query is empty"):
        index.search(" ")
    with pytest.raises(DataError, match="does not exist"):
        index.add([folder / "absent"])
    with pytest.raises(ConfigError, match="give 1 or more"):
        index.search("x", 0)


def test_files_that_cannot_be_read_are_listed_and_the_rest_is_indexed(index: Index, folder: Path) -> None:
    (folder / "image.bin").write_bytes(b"\x89PNG\0\0")
    (folder / "empty.txt").write_bytes(b" \n")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 no")
    (folder / "good.txt").write_text("good words", encoding="utf-8")
    report = index.add([folder])
    assert report.added == 1
    reasons = {Path(path).name: reason for path, reason in report.skipped}
    assert reasons["image.bin"] == "is binary"
    assert reasons["empty.txt"] == "has no text"
    assert reasons["broken.pdf"].startswith("is no PDF that can be read")
    with pytest.raises(DataError, match="there is no file"):
        index.add([_made(folder.parent / "nothing")])


def test_a_file_that_breaks_keeps_its_passages_and_an_emptied_one_loses_them(index: Index, folder: Path) -> None:
    before = rows(index)
    (folder / "eng.txt").write_bytes(b"\0")
    (folder / "rus.md").write_bytes(b"\n")
    report = index.add([folder])
    assert (report.updated, report.removed) == (0, 1)
    assert dict(report.skipped)[str(folder / "eng.txt")] == "is binary; its passages from before stay"
    assert rows(index) == {name: texts for name, texts in before.items() if name != "rus.md"}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_one_writer_at_a_time(index: Index, folder: Path) -> None:
    with lock(index.db), pytest.raises(StorageError, match="another f2llm index is writing"):
        index.add([folder])


def test_kinds_of_values() -> None:
    assert [kind_of(v) for v in (["1", "-20", ""], [1, 2.5], ["01"], [True, None], [], ["a", 1], ["1e3", ".5"])] == [
        "int64", "double", "string", "bool", "string", "string", "double",
    ]  # fmt: skip
    import pyarrow as pa

    assert cast("7", pa.int64()) == 7
    assert cast("x", pa.float64()) is None
    assert cast(3, pa.string()) == "3"


def test_conditions() -> None:
    assert condition() is None
    sql = condition("a = 'x' or b", ["sw", "deu_Latn"], "it's/*.m?")
    assert sql == (
        "(a = 'x' or b) AND language IN ('swa_Latn', 'deu_Latn') AND regexp_like(path, '(^|/)it''s/.*\\.m.$')"
    )
