"""Leaks: the four ways, runs of words equal to brute force, and real lines found inside longer texts."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.core.errors import DataError
from f2llm.core.types import Example
from f2llm.data.decontaminate import (
    CHARACTERS,
    DEFAULT_EXCLUDED,
    HOWS,
    WORDS,
    EvaluationIndex,
    Leaks,
    find_leaks,
    runs,
)
from f2llm.data.examples import write_examples
from f2llm.data.keys import bare, fold

pytest.importorskip("rensa")

SENTENCE = "seven brown foxes jumped over the lazy dogs while nobody in the quiet village was looking at them"
CHINESE = "世界卫生组织周三表示由于全球疫情的持续蔓延各国需要加强合作与沟通以便更好地应对未来可能出现的公共卫生危机"


def example(number: int | str, query: str, positive: str = "p", **changes: Any) -> Example:
    fields: dict[str, Any] = {
        "negatives": (), "task_type": "retrieval", "source": "a", "query_lang": "eng_Latn", "doc_lang": "eng_Latn",
    }  # fmt: skip
    return Example(id=str(number), query=query, positive=positive, **fields | changes)


def find(
    folder: Path, sources: dict[str, list[Example]], evaluation: list[tuple[str, str]], **options: Any
) -> tuple[Leaks, list[dict[str, Any]]]:
    paths = {name: folder / f"{name}.parquet" for name in sources}
    for name, rows in sources.items():
        write_examples(paths[name], rows)
    leaks = find_leaks(paths, evaluation, folder / "out", **options)
    lines: list[dict[str, Any]] = pq.read_table(leaks.path).to_pylist()
    for name, counts in leaks.sources.items():
        own = [line for line in lines if line["source"] == name]
        assert counts.rows == len(sources[name])
        assert counts.leaking == len({line["row"] for line in own})
        assert counts.dropped.total() == len(leaks.rows(name))
        assert all(sources[name][line["row"]].id == line["id"] for line in own)
    assert leaks.found.total() == len(lines)
    assert json.loads((folder / "out" / "leaks.json").read_text(encoding="utf-8")) == leaks.to_json()
    return leaks, lines


def ways(index: EvaluationIndex, text: str) -> dict[str, tuple[str, float]]:
    return {index.texts[hit.number]: (hit.how, round(hit.score, 3)) for hit in index.find([text])}


# ---- one text


def test_four_ways() -> None:
    index = EvaluationIndex([("a", SENTENCE), ("a", "Who was there, then?"), ("b", CHINESE)])
    assert ways(index, SENTENCE.upper()) == {SENTENCE: ("exact", 1.0)}
    assert ways(index, SENTENCE.replace(" the ", ", the ")) == {SENTENCE: ("bare", 1.0)}
    assert ways(index, f"It is said that {SENTENCE}. Or so!") == {SENTENCE: ("n-gram", 1.0)}
    assert ways(index, "who WAS there then") == {"Who was there, then?": ("bare", 1.0)}
    assert ways(index, f"他说，{CHINESE[:20]}，{CHINESE[20:]}。他又说" + "好" * 40) == {CHINESE: ("n-gram", 1.0)}
    near = SENTENCE.replace("lazy", "hazy")
    assert ways(EvaluationIndex([("a", SENTENCE)], share=1.1), near) == {
        SENTENCE: ("minhash", pytest.approx(0.8, abs=0.1))
    }
    assert ways(index, "nothing of the kind, at all, in any way, whatever the words that one may choose to use") == {}
    assert index.find([]) == index.find(["", "x"]) == EvaluationIndex([]).find([SENTENCE]) == []


def test_share_of_the_runs() -> None:
    words = [f"word{number}" for number in range(32)]
    index = EvaluationIndex([("a", " ".join(words))], threshold=1.1)
    half = " ".join(words[:22])
    assert ways(index, half + " and more") == {" ".join(words): ("n-gram", 0.5)}
    assert ways(index, " ".join(words[:21]) + " and more " + " ".join(words[20:28])) == {}


@pytest.mark.parametrize(("count", "found"), [(7, False), (8, True), (9, True), (10, True), (12, True), (13, True)])
def test_short_texts_take_shorter_runs(count: int, found: bool) -> None:
    text = " ".join(SENTENCE.split()[:count])
    index = EvaluationIndex([("a", text)])
    assert bool(index.find([f"{'x ' * 20}{text}{' y' * 20}"])) == found
    chinese = CHINESE[: 2 * count + 2]
    index = EvaluationIndex([("a", chinese)])
    assert bool(index.find([f"{'甲乙' * 30}{chinese}{'丙丁' * 30}"])) == (len(chinese) >= CHARACTERS[-1])


def test_templates_are_no_evidence() -> None:
    template = "please answer the following question about the text below in one short and complete sentence"
    index = EvaluationIndex([("a", f"{template} {number}") for number in range(150)])
    assert not index.find([f"{template} of your own: why is the sky blue on a day like this one, and not green?"])
    assert ways(index, f"{template} 7") != {}


def test_texts_of_several_sets(tmp_path: Path) -> None:
    evaluation = [("a", SENTENCE), ("b", SENTENCE), ("a", SENTENCE), ("b", "yes"), ("b", "Yes"), ("c", ""), ("c", "!?")]
    index = EvaluationIndex(evaluation)
    assert (index.texts, index.sets) == ([SENTENCE], [["a", "b"]])
    assert (index.known.texts_of, index.known.too_short) == ({"a": 1, "b": 2, "c": 2}, {"b": 1, "c": 2})
    leaks, lines = find(tmp_path, {"x": [example(0, SENTENCE), example(1, "yes")]}, evaluation)
    assert [(line["row"], line["set"]) for line in lines] == [(0, "a"), (0, "b")]
    assert leaks.sources["x"].dropped == {"leaks a": 1}
    assert leaks.to_json()["sets"]["b"] == {"texts": 2, "too_short": 1, "sources": {"x": {"exact": 1}}}


# ---- runs


def brute_runs(text: str, size: int, spaced: bool) -> list[str]:
    units = text.split() if spaced else list(text.replace(" ", ""))
    return [(" " if spaced else "").join(units[place : place + size]) for place in range(len(units) - size + 1)]


bare_texts = st.lists(st.text(st.sampled_from("ab é中я🙂 "), max_size=24).map(bare), max_size=6)


@settings(max_examples=80, deadline=None)
@given(bare_texts, st.booleans(), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_runs_equal_brute_force(texts: list[str], spaced: bool, sizes: list[int]) -> None:
    meaning: dict[str, int] = {}
    for size, (hashes, owners) in zip(sizes, runs(texts, sizes, spaced), strict=True):
        expected = [(owner, run) for owner, text in enumerate(texts) for run in brute_runs(text, size, spaced)]
        assert owners.tolist() == [owner for owner, _ in expected]
        for (_, run), value in zip(expected, hashes.tolist(), strict=True):
            assert meaning.setdefault(run, value) == value
    assert len(set(meaning.values())) == len(meaning)


word = st.sampled_from(["aa", "bb", "cc"])
long_text = st.lists(word, min_size=8, max_size=30).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(long_text, min_size=1, max_size=4, unique=True),
    st.lists(long_text, max_size=4),
    st.sampled_from([0.3, 1.0]),
)
def test_containment_equals_brute_force(evaluation: list[str], training: list[str], share: float) -> None:
    index = EvaluationIndex([("a", text) for text in evaluation], share=share, threshold=1.1)
    expected = set()
    for place, text in enumerate(training):
        for number, other in enumerate(evaluation):
            size = next(size for size in WORDS if size <= len(other.split()))
            wanted, held = (set(brute_runs(some, size, True)) for some in (other, text))
            if fold(text) == fold(other) or len(wanted & held) >= share * len(wanted):
                expected.add((place, number))
    assert {(hit.place, hit.number) for hit in index.find(training)} == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5), st.lists(st.text(max_size=40), max_size=5))
def test_any_text_goes(evaluation: list[str], training: list[str]) -> None:
    index = EvaluationIndex([("a", text) for text in evaluation], min_chars=1)
    hits = index.find([*training, *index.texts])
    same = {(hit.place - len(training), hit.number) for hit in hits if hit.how == "exact"}
    assert {(number, number) for number in range(len(index.texts))} <= same
    assert all(0 < hit.score <= 1 and hit.how in HOWS for hit in hits)


# ---- files


def test_fields_and_kinds_of_rows(tmp_path: Path) -> None:
    rows = [
        example(0, "fine"), example(1, SENTENCE), example(2, "q", SENTENCE), example(3, "q", negatives=("n", SENTENCE)),
        example(4, "q", SENTENCE, task_type="classification", negatives=(SENTENCE,)),
        example(5, SENTENCE, task_type="classification"), example(6, "q", SENTENCE, task_type="clustering"),
    ]  # fmt: skip
    leaks, lines = find(tmp_path, {"x": rows}, [("a", SENTENCE)])
    assert leaks.rows("x").tolist() == [1, 2, 3, 5, 6]
    assert [line["field"] for line in lines] == ["query", "positive", "negatives", "query", "positive"]
    only, _ = find(tmp_path / "query", {"x": rows}, [("a", SENTENCE)], fields=("query",))
    assert only.rows("x").tolist() == [1, 5]


def test_a_row_counts_under_the_surest_way(tmp_path: Path) -> None:
    rows = [example(0, f"so {SENTENCE} yes", SENTENCE + "!"), example(1, SENTENCE.replace("lazy", "hazy"), SENTENCE)]
    _, lines = find(tmp_path, {"x": rows}, [("a", SENTENCE)])
    assert [(line["how"], line["field"], line["score"]) for line in lines] == [
        ("bare", "positive", 1.0),
        ("exact", "positive", 1.0),
    ]


def test_excluded_sources_are_reported_all_the_same(tmp_path: Path) -> None:
    sources = {"mkqa": [example(0, SENTENCE), example(1, "x")], "other": [example(0, "x"), example(1, SENTENCE)]}
    leaks, lines = find(tmp_path, sources, [("a", SENTENCE)])
    assert DEFAULT_EXCLUDED == ("mkqa", "sib200")
    assert {name: leaks.rows(name).tolist() for name in sources} == {"mkqa": [0, 1], "other": [1]}
    assert leaks.sources["mkqa"].to_json() == {"rows": 2, "leaking": 1, "dropped": {"excluded source": 2}}
    assert {line["source"] for line in lines} == {"mkqa", "other"}
    leaks, _ = find(tmp_path / "in", sources, [("a", SENTENCE)], excluded=())
    assert leaks.rows("mkqa").tolist() == [0]


def test_examples_are_few_and_texts_are_cut(tmp_path: Path) -> None:
    long = " ".join([SENTENCE] * 9)
    leaks, lines = find(tmp_path, {"x": [example(number, long) for number in range(9)]}, [("a", long)], examples=2)
    assert len(lines) == 9
    assert [shown["row"] for shown in leaks.examples] == [0, 1]
    assert len(lines[0]["evaluation"]) == len(lines[0]["training"]) == 200


def test_nothing_to_look_for_and_nothing_to_look_in(tmp_path: Path) -> None:
    leaks, lines = find(tmp_path, {"x": [], "y": [example(0, "")]}, [])
    assert (lines, leaks.rows("x").tolist(), leaks.rows("y").tolist()) == ([], [], [])
    with pytest.raises(DataError, match="does not exist"):
        find_leaks({"x": tmp_path / "absent.parquet"}, [], tmp_path / "none")
    assert not (tmp_path / "none").exists()


CODES = ("eng-US", "deu", "rus", "arb", "hin", "tha", "zho-CN", "jpn", "kor", "swa", "vie", "khm", "mya", "bod")


def test_real_lines_inside_longer_texts(shared_data: Path, tmp_path: Path) -> None:
    """Evaluation lines put between two others are found in every script (97% of those long enough), and no others."""
    dice = random.Random(3)
    evaluation, rows, expected = [], [], set()
    for code in CODES:
        path = shared_data / "ntrex-128" / "NTREX-128" / f"newstest2019-ref.{code}.txt.gz"
        lines = list(dict.fromkeys(gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")))
        held_out = [line for line in lines[:60] if len(line) > 30 and (len(bare(line).split()) >= 8 or len(line) > 60)]
        evaluation += [(code, line) for line in held_out]
        for number, line in enumerate(held_out + lines[100:160]):
            before, after = dice.choice(lines[200:]), dice.choice(lines[200:])
            rows.append(example(f"{code}/{number}", f"{before} {line} {after}"))
            if number < len(held_out):
                expected.add(f"{code}/{number}")
    _, found = find(tmp_path, {"x": rows}, evaluation)
    ids = np.array([line["id"] for line in found])
    assert set(ids.tolist()) <= expected
    for code in CODES:
        count = sum(name.startswith(code + "/") for name in expected)
        assert sum(name.startswith(code + "/") for name in ids.tolist()) >= 0.97 * count, code
    assert {line["how"] for line in found} <= {"n-gram", "minhash"}
