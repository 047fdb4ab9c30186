"""What cleaning does besides splitting: near duplicates, other people's evaluation sets, languages."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from f2llm.core.errors import MissingDependencyError
from f2llm.core.types import Example
from f2llm.data.clean import CleanReport
from f2llm.data.dedup import find_duplicates
from f2llm.data.engine import Engine, LocalEngine
from f2llm.data.examples import read_examples, write_examples
from tests.data.test_clean import IN_GROUP, OUT_GROUP, Rows, example, split

pytest.importorskip("rensa")
pytest.importorskip("duckdb")

LINE = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep until the next morning comes."
OTHER = "An entirely different sentence about the weather in the mountains, which is as fine as it has ever been."
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund, und danach geht er wieder nach Hause."


@pytest.fixture(scope="module")
def two_workers() -> Iterator[LocalEngine]:
    engine = LocalEngine(2)
    yield engine
    engine.close()


def ids(rows: Rows) -> dict[str, list[str]]:
    return {source: [row.id for row in own] for source, own in rows.items()}


def numbered(rows: Sequence[Example]) -> list[Example]:
    """The same rows with their places as ids."""
    return [Example(**{name: getattr(row, name) for name in Example.__slots__} | {"id": str(place)})
            for place, row in enumerate(rows)]  # fmt: skip


def saved(tmp_path: Path, name: str) -> Any:
    return json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"))


# ---- near duplicates

NEAR = LINE.replace("lazy", "hazy")
DUPLICATES: Rows = {
    "a": numbered([
        example(LINE, OTHER), example(LINE.upper(), OTHER), example(NEAR, OTHER), example("x", "y"),
        example("held out", LINE, (OUT_GROUP,)), example(LINE, OTHER, query_lang="deu_Latn"),
    ]),
    "b": numbered([example("x", "y"), example("z", "y"), example(NEAR, OTHER + "!"), example(OTHER, NEAR)]),
}  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("cuts", [(), (0.3, 0.5)])
def test_near_duplicates(tmp_path: Path, two_workers: LocalEngine, workers: int, cuts: Sequence[float]) -> None:
    engine = two_workers if workers == 2 else None
    train, held_out, report = split(tmp_path, DUPLICATES, cuts=cuts, near_duplicates=0.8, engine=engine)
    assert ids(train) == {"a": ["0", "3"], "b": ["1", "3"]}
    assert ids(held_out) == {"a": ["4"], "b": []}, "of the evaluation they say nothing"
    assert report.sources["a"].dropped == {"duplicate": 2, "near duplicate": 1}
    assert report.sources["b"].dropped == {"duplicate of another source": 1, "near duplicate": 1}
    lines = pq.read_table(tmp_path / "out" / "duplicates.parquet").to_pylist()
    assert [(line["source"], line["id"], line["of_source"], line["of_id"]) for line in lines] == [
        ("a", "2", "a", "0"), ("b", "0", "a", "3"), ("b", "2", "a", "0"),
    ]  # fmt: skip
    assert saved(tmp_path, "duplicates.json")["a"]["rows"] == 3, "equal rows of a source take no part"


def test_near_duplicates_are_not_seen_by_the_evaluation(tmp_path: Path) -> None:
    rows = numbered([example(LINE, OTHER), example(NEAR, OTHER), example(NEAR, "new", (OUT_GROUP,))])
    _, held_out, _ = split(tmp_path / "off", {"a": rows}, decontaminate="drop_eval")
    assert ids(held_out) == {"a": []}
    _, held_out, _ = split(tmp_path / "on", {"a": rows}, decontaminate="drop_eval", near_duplicates=0.8)
    assert ids(held_out) == {"a": ["2"]}, "the row with its query is not trained on"


def test_duplicates_over_shards_and_workers(tmp_path: Path, two_workers: LocalEngine) -> None:
    """The same file whatever the shards and the engine; rows that are not kept take no part, but keep their numbers."""
    rows = DUPLICATES["a"] * 3 + DUPLICATES["b"]
    whole = tmp_path / "[whole]" / "a.parquet"
    write_examples(whole, rows)
    parts = [tmp_path / "part*" / f"{number}.parquet" for number in range(5)]
    for number, part in enumerate(parts):
        write_examples(part, rows[5 * number : 5 * number + 5])
    found = find_duplicates({"a": whole}, tmp_path / "1[a]")
    for folder, source in (("2", parts), ("3", tmp_path / "part*")):
        other = find_duplicates({"a": source}, tmp_path / folder, engine=two_workers)
        assert pq.read_table(found.path) == pq.read_table(other.path)
        assert found.to_json() == other.to_json()
    assert find_duplicates({"a": []}, tmp_path / "4").rows("a").tolist() == []


# ---- evaluation sets

QUERY = "seven brown foxes jumped over the lazy dogs while nobody in the quiet village was looking at them"
SETS: Rows = {
    "retrieval": [example(QUERY, LINE)], "classes": [example(OTHER, "a label of some length", task_type="clustering")],
}  # fmt: skip
LEAKING: Rows = {
    "a": numbered([
        example("fine", "row"), example(f"It is said that {QUERY}.", "p"), example("q", LINE.upper()),
        example("q", "p", negatives=("n", OTHER + "?")), example("q", "a label of some length"),
        example("c", LINE, task_type="classification", negatives=("n",)), example("held out", LINE, (OUT_GROUP,)),
    ]),
    "mkqa": numbered([example(LINE, "p"), example("fine", "row"), example("fine", "row", (OUT_GROUP,))]),
}  # fmt: skip


@pytest.mark.parametrize("cuts", [(), (0.4, 0.4)])
def test_evaluation_sets(tmp_path: Path, two_workers: LocalEngine, cuts: Sequence[float]) -> None:
    train, held_out, report = split(tmp_path, LEAKING, cuts=cuts, evaluation_sets=SETS, engine=two_workers)
    assert ids(train) == {"a": ["0", "4", "5"], "mkqa": []}
    assert ids(held_out) == {"a": ["6"], "mkqa": []}
    assert report.sources["a"].dropped == {"leaks retrieval": 2, "leaks classes": 1}
    assert report.sources["mkqa"].dropped == {"excluded source": 3}
    found = saved(tmp_path, "leaks.json")
    assert found["sources"]["a"] == {"rows": 6, "leaking": 3, "dropped": {"leaks retrieval": 2, "leaks classes": 1}}
    assert found["sources"]["mkqa"] == {"rows": 3, "leaking": 1, "dropped": {"excluded source": 3}}
    assert found["sets"]["retrieval"] == {
        "texts": 2, "too_short": 0, "sources": {"a": {"n-gram": 1, "exact": 1}, "mkqa": {"exact": 1}},
    }  # fmt: skip
    assert found["sets"]["classes"]["texts"] == 1, "labels are no texts"
    lines = pq.read_table(tmp_path / "out" / "leaks.parquet").to_pylist()
    assert [(line["source"], line["row"], line["id"], line["set"], line["how"]) for line in lines] == [
        ("a", 1, "1", "retrieval", "n-gram"), ("a", 2, "2", "retrieval", "exact"), ("a", 3, "3", "classes", "bare"),
        ("mkqa", 0, "0", "retrieval", "exact"),
    ]  # fmt: skip


def test_excluded_sources_go_without_evaluation_sets_too(tmp_path: Path) -> None:
    own = numbered([example("a", "b"), example("n", "b", (OUT_GROUP,))])
    rows = {"sib200": [example("a", "b"), example("who"), example("n")], "b": own}
    train, held_out, report = split(tmp_path, rows, near_duplicates=0.8, decontaminate="drop_eval")
    assert (ids(train), ids(held_out)) == ({"sib200": [], "b": ["0"]}, {"sib200": [], "b": ["1"]})
    assert report.sources["sib200"].dropped == {"excluded source": 3}
    assert not (tmp_path / "out" / "leaks.json").exists()
    train, _, _ = split(tmp_path / "in", rows, exclude=())
    assert len(train["sib200"]) == 2, "n is an evaluation query"


def test_other_evaluation_sets_in_the_same_place(tmp_path: Path) -> None:
    """What a process remembers of evaluation sets is not taken for others of the same names."""
    for text in (LINE, OTHER):
        rows = {"a": numbered([example(LINE), example(OTHER)])}
        train, _, _ = split(tmp_path, rows, evaluation_sets={"set": [example(text)]})
        assert [row.query for row in train["a"]] == [other for other in (LINE, OTHER) if other != text]


# ---- languages


def language_rows() -> Rows:
    return {"a": numbered([
        example(LINE, OTHER), example(GERMAN, OTHER), example("short", "q"), example(LINE, GERMAN, doc_lang="deu_Latn"),
        example("x", GERMAN), example(LINE, "print()", doc_lang="python"), example("held out", GERMAN, (OUT_GROUP,)),
        example(LINE, OTHER + ".", query_lang="deu_Latn"),
    ])}  # fmt: skip


def languages(report: CleanReport, tmp_path: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
    assert report.sources["a"].rows == 8
    sidecar = [pq.read_table(path) for path in sorted((tmp_path / "out" / "langid" / "a").iterdir())]
    shards = sorted((tmp_path / "out" / "train" / "a").iterdir())
    assert [len(part) for part in sidecar] == [len(pq.read_table(path)) for path in shards]
    return saved(tmp_path, "langid.json")["verdicts"], [row for part in sidecar for row in part.to_pylist()]


@pytest.mark.parametrize(("cuts", "workers"), [((), 1), ((0.2, 0.6), 2)])
def test_languages(tmp_path: Path, two_workers: LocalEngine, cuts: Sequence[float], workers: int) -> None:
    pytest.importorskip("py3langid")
    engine: Engine | None = two_workers if workers == 2 else None
    train, held_out, report = split(tmp_path / "count", language_rows(), cuts=cuts, languages="count", engine=engine)
    assert len(train["a"]) == 7
    counted, rows = languages(report, tmp_path / "count")
    assert counted == {"agree": 7, "disagree": 3, "too short": 3, "not judged": 1}
    assert [(row["query_found"], row["query_verdict"], row["positive_verdict"]) for row in rows][:3] == [
        ("eng_Latn", "agree", "agree"), ("deu_Latn", "disagree", "agree"), ("und", "too short", "too short"),
    ]  # fmt: skip
    assert rows[1]["query_confidence"] > 0.9
    train, held_out, report = split(tmp_path / "drop", language_rows(), cuts=cuts, languages="drop", engine=engine)
    assert ids(train) == {"a": ["0", "2", "3", "5"]}
    assert ids(held_out) == {"a": ["6"]}
    assert report.sources["a"].dropped == {"in another language than claimed": 3}
    again, rows = languages(report, tmp_path / "drop")
    assert again == counted, "the counts are of all that was judged"
    assert all("disagree" not in row.values() for row in rows)


def test_nobody_is_sure_enough(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    train, _, report = split(tmp_path, language_rows(), languages="drop", language_confidence=1.01)
    assert (len(train["a"]), report.sources["a"].dropped) == (7, {})


def test_all_at_once(tmp_path: Path, two_workers: LocalEngine) -> None:
    pytest.importorskip("py3langid")
    rows = language_rows()["a"] + DUPLICATES["a"] + LEAKING["a"]
    sources = {"a": numbered(rows), "b": DUPLICATES["b"], "mkqa": LEAKING["mkqa"]}
    options: dict[str, Any] = {"near_duplicates": 0.8, "languages": "drop", "evaluation_sets": SETS}
    one, two = (
        split(tmp_path / name, sources, cuts=(0.3, 0.6), engine=engine, **options)
        for name, engine in (("1", None), ("2", two_workers))
    )
    assert one[:2] == two[:2]
    assert one[2].to_json() == two[2].to_json()
    for name in ("leaks.json", "duplicates.json", "langid.json"):
        assert saved(tmp_path / "1", name) == saved(tmp_path / "2", name)
    assert set(one[2].sources["a"].dropped) == {
        "duplicate", "near duplicate", "leaks retrieval", "leaks classes", "in another language than claimed",
    }  # fmt: skip


def test_what_an_earlier_call_wrote_goes(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    rows = {"a": numbered([example(LINE, OTHER)])}
    split(tmp_path, rows, near_duplicates=0.8, languages="count", evaluation_sets=SETS)
    split(tmp_path, rows)
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"drops.json", "eval/a.parquet", "train/a/00000.parquet"}


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)  # type: ignore[arg-type]
    with pytest.raises(MissingDependencyError, match=r"f2llm\[data\]"):
        split(tmp_path, {"a": [example(LINE, OTHER, (IN_GROUP,))]}, near_duplicates=0.8)
    assert [row.query for row in read_examples(tmp_path / "raw" / "a.parquet")] == [LINE]
