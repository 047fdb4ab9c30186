"""Duplicates: equal to brute force, the same in every order, and found among real lines that were edited."""

from __future__ import annotations

import gzip
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.core.errors import DataError, MissingDependencyError, StorageError
from f2llm.core.types import Example
from f2llm.data.dedup import EXACT, NEAR, Duplicates, find_duplicates, without
from f2llm.data.examples import SCHEMA, read_examples, write_examples
from f2llm.data.fingerprints import band_hashes, grams, jaccard, slices, text_key
from f2llm.data.keys import fold

pytest.importorskip("rensa")
pytest.importorskip("duckdb")

LINE = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep until the next morning comes."
OTHER = "An entirely different sentence about the weather in the mountains, which is as fine as it has ever been."


def example(number: int | str, query: str, positive: str = OTHER, **changes: Any) -> Example:
    fields: dict[str, Any] = {
        "negatives": (), "task_type": "retrieval", "source": "a", "query_lang": "eng_Latn", "doc_lang": "eng_Latn",
    }  # fmt: skip
    return Example(id=str(number), query=query, positive=positive, **fields | changes)


def find(folder: Path, sources: dict[str, list[Example]], **options: Any) -> Duplicates:
    paths = {name: folder / f"{name}.parquet" for name in sources}
    for name, rows in sources.items():
        write_examples(paths[name], rows)
    found = find_duplicates(paths, folder / "out", threads=1, **options)
    for name, counts in found.sources.items():
        assert counts.rows == len(sources[name]) == counts.kept + counts.dropped.total()
        assert counts.dropped.total() == counts.of.total() == len(found.rows(name))
    assert {path.name for path in (folder / "out").iterdir()} == {"duplicates.json", "duplicates.parquet"}
    return found


def lines_of(found: Duplicates) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(found.path).to_pylist()
    return rows


# ---- n-grams, MinHash, Jaccard


def gram_set(text: str, size: int = 5) -> set[str]:
    return {text[place : place + size] for place in range(max(1, len(text) - size + 1))} if text else set()


texts = st.lists(st.text(alphabet=st.sampled_from("ab 中🙂é\ud800\u0301"), max_size=12), max_size=8)


@settings(max_examples=80, deadline=None)
@given(texts, st.integers(1, 6))
def test_grams_stand_for_substrings(some: list[str], size: int) -> None:
    hashes, offsets = grams(some, size)
    assert len(offsets) == len(some) + 1
    meaning: dict[str, int] = {}
    for text, start, stop in zip(some, offsets[:-1], offsets[1:], strict=True):
        pieces = [text[place : place + size] for place in range(max(1, len(text) - size + 1))] if text else []
        assert len(pieces) == stop - start
        for piece, value in zip(pieces, hashes[start:stop].tolist(), strict=True):
            assert meaning.setdefault(piece, value) == value
    assert len(set(meaning.values())) == len(meaning)


@settings(max_examples=60, deadline=None)
@given(texts, texts)
def test_jaccard_is_exact(left: list[str], right: list[str]) -> None:
    pairs = list(zip(left, right, strict=False))
    expected = [len(gram_set(a) & gram_set(b)) / max(len(gram_set(a) | gram_set(b)), 1) for a, b in pairs]
    assert jaccard([a for a, _ in pairs], [b for _, b in pairs]).tolist() == pytest.approx(expected)


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 12))
def test_slices(lengths: list[int], limit: int) -> None:
    runs = list(slices(lengths, limit))
    assert [place for run in runs for place in range(run.start, run.stop)] == list(range(len(lengths)))
    assert all(sum(lengths[run]) <= limit or run.stop - run.start == 1 for run in runs)


def test_bands_depend_on_the_text_alone() -> None:
    some = [LINE, OTHER, "x", LINE.replace("lazy", "hazy"), "中文"]
    bands = band_hashes(some)
    assert bands.shape == (5, 21)
    assert (bands[3] == bands[0]).sum() >= 3
    assert not (bands[1] == bands[0]).any()
    assert (band_hashes(some[::-1])[::-1] == bands).all()
    assert band_hashes([]).shape == (0, 21)
    assert len(np.unique(bands[0])) == 21, "equal rows in two bands must not meet"


# ---- what a duplicate is


def test_reasons_across_sources(tmp_path: Path) -> None:
    near, nearer = LINE.replace("lazy", "hazy"), LINE.replace("fox", "box")
    found = find(
        tmp_path / "it's",
        {
            "a": [example(0, LINE), example(1, f" {LINE.upper()}  "), example(2, near), example(3, OTHER, LINE)],
            "b": [example(0, nearer), example(1, "unique"), example(2, nearer, OTHER.replace("fine", "mine"))],
        },
    )
    assert [tuple(line.values()) for line in lines_of(found)] == [
        ("a", 1, "1", EXACT, "a", "0"), ("a", 2, "2", NEAR, "a", "0"),
        ("b", 0, "0", NEAR, "a", "0"), ("b", 2, "2", NEAR, "a", "0"),
    ]  # fmt: skip
    assert found.sources["b"].of == {"a": 2}
    assert found.to_json()["a"]["dropped"] == {EXACT: 1, NEAR: 1}
    path = tmp_path / "it's" / "a.parquet"
    assert [row.id for row in without(path, found.rows("a"))] == ["0", "3"]
    assert [row.id for row in without(path, found.rows("none"))] == [row.id for row in read_examples(path)]


def test_an_exact_copy_of_a_near_duplicate(tmp_path: Path) -> None:
    near = LINE.replace("lazy", "hazy")
    found = find(tmp_path, {"a": [example(0, LINE), example(1, near), example(2, near)]})
    assert [(line["reason"], line["of_id"]) for line in lines_of(found)] == [(NEAR, "0"), (EXACT, "0")]


def test_both_texts_must_be_alike(tmp_path: Path) -> None:
    rows = [example(0, "What is the capital?", LINE), example(1, "Who lives there?", LINE), example(2, LINE, "x")]
    assert not lines_of(find(tmp_path / "both", {"a": rows}))
    assert find(tmp_path / "positive", {"a": rows}, fields=("positive",)).rows("a").tolist() == [1]
    assert not lines_of(find(tmp_path / "query", {"a": rows}, fields=("query",)))


def test_languages(tmp_path: Path) -> None:
    rows = [example(0, LINE), example(1, LINE, query_lang="deu_Latn"), example(2, LINE, doc_lang="deu_Latn")]
    assert not lines_of(find(tmp_path / "same", {"a": rows}))
    assert find(tmp_path / "any", {"a": rows}, same_language=False).rows("a").tolist() == [1, 2]


def test_empty_texts_and_nulls_are_left_alone(tmp_path: Path) -> None:
    rows = [example(0, ""), example(1, ""), example(2, " \n"), example(3, LINE, ""), example(4, LINE, "")]
    found = find(tmp_path, {"a": rows, "none": []})
    assert (found.sources["a"].not_judged, found.sources["a"].kept, found.sources["none"].rows) == (5, 5, 0)
    columns = {name: [None, LINE, None, LINE] for name in SCHEMA.names}
    table = pa.table({**columns, "negatives": [[]] * 4, "groups": [[]] * 4}, schema=SCHEMA)
    pq.write_table(table, tmp_path / "null.parquet")
    found = find_duplicates({"null": tmp_path / "null.parquet"}, tmp_path / "out")
    assert (found.rows("null").tolist(), found.sources["null"].not_judged) == ([3], 2)
    assert (text_key(""), text_key("x") > 0) == (0, True)


def test_short_texts_are_duplicates_only_when_equal(tmp_path: Path) -> None:
    names = ["Tom", "Tim", "tom", "Toms", "ａ", "a", "İ", "i̇", "🙂", "🙃", "ﬁn", "fin"]
    rows = [example(number, name, "p") for number, name in enumerate(names)]
    assert find(tmp_path, {"a": rows}).rows("a").tolist() == [2, 5, 7, 11]


# ---- brute force, order, determinism


def brute_force(sources: dict[str, list[Example]], threshold: float) -> int:
    """Rows that stay when every pair of texts is compared."""
    rows = [row for some in sources.values() for row in some]
    folded = sorted({fold(text) for row in rows for text in (row.query, row.positive)} - {""})
    root = {text: text for text in folded}

    def top(text: str) -> str:
        while root[text] != text:
            text = root[text]
        return text

    for a, b in combinations(folded, 2):
        if len(gram_set(a) & gram_set(b)) >= threshold * len(gram_set(a) | gram_set(b)):
            root[top(b)] = top(a)
    judged = [(fold(row.query), fold(row.positive)) for row in rows]
    full = [pair for pair in judged if all(pair)]
    return len(judged) - len(full) + len({(top(query), top(positive)) for query, positive in full})


@st.composite
def edited_rows(draw: st.DrawFn) -> dict[str, list[Example]]:
    bases = [LINE, OTHER, LINE + OTHER, "мама мыла раму, " * 6, "今天天气很好我们去公园玩吧" * 5, "short", ""]

    def text() -> str:
        base = draw(st.sampled_from(bases))
        for _ in range(draw(st.integers(0, 2)) if base else 0):
            place = draw(st.integers(0, len(base) - 1))
            base = base[:place] + draw(st.sampled_from(["", "x", "yy"])) + base[place + 1 :]
        return base

    return {name: [example(number, text(), text()) for number in range(draw(st.integers(0, 8)))] for name in ("a", "b")}


@settings(max_examples=12, deadline=None)
@given(sources=edited_rows(), threshold=st.sampled_from([0.85, 0.93]), shuffler=st.randoms())
def test_equals_brute_force_in_every_order(
    sources: dict[str, list[Example]],
    threshold: float,
    shuffler: random.Random,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    kept = brute_force(sources, threshold)
    for _ in range(2):
        found = find(tmp_path_factory.mktemp("dedup"), sources, threshold=threshold)
        assert sum(counts.kept for counts in found.sources.values()) == kept
        for line in lines_of(found):
            assert (line["of_source"], line["of_id"]) not in {(gone["source"], gone["id"]) for gone in lines_of(found)}
        order = shuffler.sample(sorted(sources), len(sources))
        sources = {name: shuffler.sample(sources[name], len(sources[name])) for name in order}


def boilerplate(count: int) -> list[Example]:
    """Texts that all share most of their bands, each with a twin that shares more."""
    notice = (
        "All rights are reserved by the owner and nobody may copy any part of it without a written permission. " * 3
    )
    return [example(f"{number}{twin}", f"{notice}{'abcdefghijkl'[number % 12] * 60}{number:03d}{twin * 2}")
            for number in range(count) for twin in ("", "x")]  # fmt: skip


def test_large_buckets(tmp_path: Path) -> None:
    """Texts of a bucket that is too large for all pairs still fall together; the order of the rows does not matter."""
    rows = boilerplate(60)
    same = find(tmp_path / "1", {"a": rows}, threshold=0.6)
    assert same.sources["a"].kept == 1
    apart = find(tmp_path / "2", {"a": rows}, threshold=0.97)
    backwards = find(tmp_path / "3", {"a": rows[::-1]}, threshold=0.97)
    assert 1 < apart.sources["a"].kept == backwards.sources["a"].kept <= 120 - 55, "twins are found in spite of the cap"


def test_two_runs_write_the_same(tmp_path: Path) -> None:
    rows = {"a": boilerplate(10), "b": boilerplate(30)}
    first, second = find(tmp_path / "1", rows), find(tmp_path / "2", rows, memory_limit="50MB")
    assert lines_of(first) == lines_of(second)
    assert first.path.read_bytes() == second.path.read_bytes()


# ---- refusals


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_examples(tmp_path / "a.parquet", [example(0, LINE)])
    sources = {"a": tmp_path / "a.parquet"}
    with pytest.raises(StorageError, match="raise memory_limit"):
        find_duplicates(sources, tmp_path / "out", memory_limit="1MB")
    with pytest.raises(StorageError, match="choose another"):
        find_duplicates(sources, tmp_path / "a.parquet" / "out")
    with pytest.raises(DataError, match="does not exist"):
        find_duplicates({"a": tmp_path / "absent.parquet"}, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())
    monkeypatch.setitem(sys.modules, "duckdb", None)  # type: ignore[arg-type]
    with pytest.raises(MissingDependencyError, match=r"f2llm\[data\]"):
        find_duplicates(sources, tmp_path / "out")


# ---- real lines


def typo(line: str, dice: random.Random) -> str:
    place = dice.randrange(len(line))
    return line[:place] + dice.choice("aeiou") + line[place + 1 :]


def cut(line: str, dice: random.Random) -> str:
    return line[: -max(1, len(line) // 12)]


def prefix(line: str, dice: random.Random) -> str:
    return f"{dice.choice(['News', 'Update', 'Read'])}: {line}"


def punctuation(line: str, dice: random.Random) -> str:
    return line.replace(",", " -").replace("،", " -").replace("，", "、")


EDITS: Sequence[Callable[[str, random.Random], str]] = (typo, cut, prefix, punctuation)
CODES = ("eng-US", "deu", "fin", "rus", "arb", "hin", "tha", "zho-CN", "jpn", "kor", "swa", "vie", "amh", "khm")


def test_edited_lines_are_found(shared_data: Path, tmp_path: Path) -> None:
    """Of lines of 60 letters and more with a small edit at least 95% are found (Chinese: 80%), and nothing else is."""
    dice = random.Random(5)
    originals, copies = [], []
    for code in CODES:
        path = shared_data / "ntrex-128" / "NTREX-128" / f"newstest2019-ref.{code}.txt.gz"
        lines = list(dict.fromkeys(gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")))
        for number, line in enumerate([line for line in lines if len(line) >= 60][:80]):
            name = f"{code}/{number}"
            originals.append(example(name, line, "p", query_lang=code))
            edit = EDITS[number % len(EDITS)]
            copies.append(example(f"{name}/{edit.__name__}", edit(line, dice), "p", query_lang=code))
    dice.shuffle(copies)
    found = lines_of(find(tmp_path, {"original": originals, "copy": copies}))
    assert {line["source"] for line in found} == {"copy"}
    assert all(line["id"].startswith(line["of_id"] + "/") for line in found), "precision: 100%"
    by_edit = Counter(line["id"].split("/")[2] for line in found)
    made = Counter(row.id.split("/")[2] for row in copies)
    recall = {edit: by_edit[edit] / made[edit] for edit in made}
    assert len(found) >= 0.95 * len(copies), recall
    assert min(recall.values()) > 0.9, recall
    by_code: dict[str, int] = defaultdict(int)
    for line in found:
        by_code[line["id"].split("/")[0]] += 1
    assert min(by_code.values()) >= 0.8 * min(Counter(row.query_lang for row in copies).values()), by_code
