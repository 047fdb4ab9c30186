"""Cleaning and splitting: every row is accounted for, and no evaluation text is seen in training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.core.types import TASK_TYPES, Example
from f2llm.data.clean import CleanReport, clean, is_held_out
from f2llm.data.convert import convert
from f2llm.data.examples import read_examples, write_examples
from f2llm.data.keys import ALWAYS_TRAIN, bare

SEED = 3
OUT_GROUP = next(f"g{i}" for i in range(100) if is_held_out(f"g{i}", 0.5, SEED))
IN_GROUP = next(f"g{i}" for i in range(100) if not is_held_out(f"g{i}", 0.5, SEED))


def example(query: str, positive: str = "p", groups: tuple[str, ...] = (IN_GROUP,), **changes: Any) -> Example:
    fields: dict[str, Any] = {
        "id": f"{query}>{positive}", "negatives": (), "task_type": "retrieval", "source": "a",
        "query_lang": "eng_Latn", "doc_lang": "eng_Latn",
    }  # fmt: skip
    return Example(query=query, positive=positive, groups=groups, **fields | changes)


def split(
    tmp_path: Path, sources: dict[str, list[Example]], **options: Any
) -> tuple[dict[str, list[Example]], dict[str, list[Example]], CleanReport]:
    paths = {name: tmp_path / "raw" / f"{name}.parquet" for name in sources}
    for name, rows in sources.items():
        write_examples(paths[name], rows)
    settings = {"held_out_fraction": 0.5, "seed": SEED} | options
    report = clean(paths, tmp_path / "out", **settings)
    parts = (
        {name: list(read_examples(tmp_path / "out" / part / f"{name}.parquet")) for name in sources}
        for part in ("train", "eval")
    )
    train, held_out = parts
    return train, held_out, report


def texts_of(rows: list[Example]) -> set[str]:
    return {bare(text) for row in rows for text in (row.query, row.positive, *row.negatives)}


def test_every_reason(tmp_path: Path) -> None:
    out = (OUT_GROUP,)
    rows = [
        example("  kept\t row "), example("kept row"), example(""), example("\x00"), example("x" * 11), example("P"),
        example("a", groups=(IN_GROUP, OUT_GROUP)), example("b", task_type="classification"),
        example("c", "p", out), example("d", "p", out), example("e", "p", out, doc_lang="deu_Latn"),
        example("kept ROW!", "q", out),
        example("z", "q", task_type="classification", negatives=("n", "q", "n ", "y" * 11)),
    ]  # fmt: skip
    train, held_out, report = split(
        tmp_path, {"a": rows}, max_chars=10, eval_per_language=1, evaluated={"a": "eng_Latn"}, decontaminate="drop_eval"
    )
    assert [row.query for row in train["a"]] == ["kept row", "z"]
    assert train["a"][1].negatives == ("n",)
    assert [row.query for row in held_out["a"]] in (["c"], ["d"])
    assert report.sources["a"].dropped == {
        "duplicate": 1, "empty": 2, "too long": 1, "query equals positive": 1, "straddles the split": 1,
        "no negative": 1, "held out, documents in another language": 1, "held out, over the cap per language": 1,
        "evaluation query occurs in training": 1,
    }  # fmt: skip
    drops = json.loads((tmp_path / "out" / "drops.json").read_text(encoding="utf-8"))
    assert drops == report.to_json()
    assert (drops["a"]["rows"], drops["a"]["train"], drops["a"]["eval"]) == (13, 2, 1)


def test_bounds(tmp_path: Path) -> None:
    train, _, report = split(tmp_path, {"a": [example("ab"), example("abc")]}, min_chars=1, max_chars=2)
    assert [row.query for row in train["a"]] == ["ab"]
    train, _, report = split(tmp_path, {"a": [example("ab", "pp"), example("a", "pp")]}, min_chars=2)
    assert report.sources["a"].dropped == {"too short": 1}


def test_drop_train_keeps_the_evaluation_whole(tmp_path: Path) -> None:
    sources = {
        "a": [example("Who, me?", "p", (OUT_GROUP,))],
        "b": [
            example("who me", "x"), example("y", "WHO ME"), example("z", "x", negatives=("n", "who me!")),
            example("fine", "x"), example("t", "who me", task_type="classification", negatives=("n",)),
        ],
    }  # fmt: skip
    train, held_out, report = split(tmp_path, sources)
    assert [row.query for row in held_out["a"]] == ["Who, me?"]
    assert [row.query for row in train["b"]] == ["fine", "t"], "label texts are no leak"
    assert report.sources["b"].dropped == {"training text is an evaluation query": 3}
    train, held_out, report = split(tmp_path / "other", sources, decontaminate="drop_eval")
    assert not held_out["a"]
    assert len(train["b"]) == 5


def test_sources_that_are_not_evaluated(tmp_path: Path) -> None:
    rows = [example("c", "p", (OUT_GROUP,)), example("d")]
    train, held_out, report = split(tmp_path, {"a": rows}, evaluated={})
    assert ([row.query for row in train["a"]], held_out["a"]) == (["d"], [])
    assert report.sources["a"].dropped == {"held out, source not evaluated": 1}


def test_two_languages_may_be_evaluated_on_the_same_words(tmp_path: Path) -> None:
    rows = [example("Tyskland", "Germany", (OUT_GROUP,), query_lang=lang, id=lang) for lang in ("dan_Latn", "swe_Latn")]
    _, held_out, report = split(tmp_path, {"a": [*rows, *rows]})
    assert [row.query_lang for row in held_out["a"]] == ["dan_Latn", "swe_Latn"]
    assert report.sources["a"].dropped == {"duplicate": 2}


def test_rows_without_groups_are_split_by_their_query(tmp_path: Path) -> None:
    rows = [example(f"query {index % 50}", f"p {index}", ()) for index in range(200)]
    train, held_out, _ = split(tmp_path, {"a": rows})
    assert train["a"]
    assert held_out["a"]
    assert not {row.query for row in train["a"]} & {row.query for row in held_out["a"]}


def test_the_split_of_a_group_depends_on_nothing_else(tmp_path: Path) -> None:
    rows = [example(f"q{index}", "p", (f"g{index}",)) for index in range(100)]
    first, _, _ = split(tmp_path / "1", {"a": rows})
    second, _, _ = split(tmp_path / "2", {"b": [example("other", "p", ("h",))], "a": rows[::-1][:50]})
    kept = {row.query for row in first["a"]}
    assert {row.query for row in second["a"]} == kept & {row.query for row in rows[50:]}
    share = sum(is_held_out(f"g{index}", 0.1, 0) for index in range(5000)) / 5000
    assert share == pytest.approx(0.1, abs=0.015)
    assert not any(is_held_out(f"{ALWAYS_TRAIN}{index}", 0.999, 0) for index in range(100))


words = st.sampled_from(["a", "b", "c", "d", "A.", " e ", "", "f f"])
groups = st.lists(st.sampled_from([f"g{index}" for index in range(8)]), max_size=2).map(tuple)
any_row = st.builds(
    example, words, words, groups, negatives=st.lists(words, max_size=2).map(tuple), id=st.uuids().map(str),
    task_type=st.sampled_from(TASK_TYPES), query_lang=st.sampled_from(["eng_Latn", "deu_Latn"]),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    sources=st.dictionaries(st.sampled_from("abc"), st.lists(any_row, max_size=12), min_size=1),
    mode=st.sampled_from(["drop_train", "drop_eval"]),
    cap=st.integers(1, 4),
)
def test_split_invariants(
    sources: dict[str, list[Example]], mode: str, cap: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("split")
    train, held_out, report = split(folder, sources, decontaminate=mode, eval_per_language=cap)
    all_train = [row for rows in train.values() for row in rows]
    all_eval = [row for rows in held_out.values() for row in rows]
    for name, rows in sources.items():
        counts = report.sources[name]
        assert (counts.rows, counts.train, counts.evaluation) == (len(rows), len(train[name]), len(held_out[name]))
        assert counts.rows == counts.train + counts.evaluation + counts.dropped.total()
        assert max(Counter(row.query_lang for row in held_out[name]).values(), default=0) <= cap
    assert not {g for row in all_train for g in row.groups} & {row.groups[0] for row in all_eval if row.groups}
    unlabelled = [row for row in all_train if row.task_type != "classification"]
    labelled = {bare(row.query) for row in all_train if row.task_type == "classification"}
    queries = {bare(row.query) for row in all_eval}
    assert not queries & (texts_of(unlabelled) | labelled)
    if mode == "drop_eval":
        assert not queries & texts_of(all_train)


def test_no_held_out_name_is_seen_in_training(tmp_path: Path) -> None:
    """The promise of the CLDR sources: a name that is evaluated occurs in no training row of any of them."""
    options = {"per_language": 150, "languages": ["en", "de", "da", "sv", "ru", "bg", "ja", "am"]}
    names = ("cldr_translation", "cldr_kind", "cldr_is_place")
    sources = {name: list(convert(name, None, name, options, 0)) for name in names}
    train, held_out, _ = split(tmp_path, sources, held_out_fraction=0.2, decontaminate="drop_eval")
    seen = set[str]().union(*map(texts_of, train.values()))
    for name, rows in held_out.items():
        assert len({row.query_lang for row in rows}) == 7, name
        assert not {bare(row.query) for row in rows} & seen
        assert all(row.query_lang != "eng_Latn" for row in rows)
