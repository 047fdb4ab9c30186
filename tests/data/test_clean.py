"""Cleaning and splitting: every row is accounted for, and no evaluation text is seen in training."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.core.types import TASK_TYPES, Example
from f2llm.data import clean_duplicates
from f2llm.data.clean import CleanReport, CleanRules, SourceCounts, clean
from f2llm.data.clean_duplicates import first_occurrences
from f2llm.data.clean_parts import distinct, occurs
from f2llm.data.clean_split import is_held_out
from f2llm.data.convert import convert
from f2llm.data.engine import Engine, LocalEngine, Task, finished
from f2llm.data.examples import read_examples, write_examples
from f2llm.data.keys import ALWAYS_TRAIN, bare, fold, stable_hash, text_group, tidy

SEED = 3
OUT_GROUP = next(f"g{i}" for i in range(100) if is_held_out(f"g{i}", 0.5, SEED))
IN_GROUP = next(f"g{i}" for i in range(100) if not is_held_out(f"g{i}", 0.5, SEED))


def example(query: str, positive: str = "p", groups: tuple[str, ...] = (IN_GROUP,), **changes: Any) -> Example:
    fields: dict[str, Any] = {
        "id": f"{query}>{positive}", "negatives": (), "task_type": "retrieval", "source": "a",
        "query_lang": "eng_Latn", "doc_lang": "eng_Latn",
    }  # fmt: skip
    return Example(query=query, positive=positive, groups=groups, **fields | changes)


Rows = dict[str, list[Example]]


def write_shards(folder: Path, sources: Rows, cuts: Sequence[float] = ()) -> dict[str, Path]:
    """A file for each source, or a directory of shards that end at these shares of the rows."""
    paths = {}
    for name, rows in sources.items():
        ends = [0, *sorted(int(share * len(rows)) for share in cuts), len(rows)]
        paths[name] = folder / (name if cuts else f"{name}.parquet")
        for number, (start, end) in enumerate(pairwise(ends)):
            write_examples(paths[name] / f"{number:03}.parquet" if cuts else paths[name], rows[start:end])
    return paths


def split(
    tmp_path: Path,
    sources: Rows,
    *,
    cuts: Sequence[float] = (),
    evaluated: Mapping[str, str | None] | None = None,
    evaluation_sets: Rows | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> tuple[Rows, Rows, CleanReport]:
    paths = write_shards(tmp_path / "raw", sources, cuts)
    sets = {name: tmp_path / "sets" / f"{name}.parquet" for name in evaluation_sets or {}}
    for name, path in sets.items():
        write_examples(path, (evaluation_sets or {})[name])
    rules = CleanRules(**{"held_out_fraction": 0.5, "seed": SEED} | options)
    out = tmp_path / "out"
    report = clean(paths, out, rules, evaluated=evaluated, evaluation_sets=sets, engine=engine or LocalEngine(1))
    assert not [path for path in out.iterdir() if path.name.startswith(".")], "no work files are left"
    assert json.loads((out / "drops.json").read_text(encoding="utf-8")) == report.to_json()
    train = {name: list(read_examples(out / "train" / name)) for name in sources}
    held_out = {name: list(read_examples(out / "eval" / f"{name}.parquet")) for name in sources}
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
    counts = report.to_json()["a"]
    assert (counts["rows"], counts["train"], counts["eval"]) == (13, 2, 1)


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


# ---- the same as a simple program


def reference(
    sources: Rows, rules: CleanRules, evaluated: Mapping[str, str | None] | None
) -> tuple[Rows, Rows, dict[str, Any]]:
    """What `clean` does with nothing else switched on, with everything in memory and no care for speed."""
    train: Rows = {}
    held_out: Rows = {}
    counts = {source: SourceCounts(rows=len(rows)) for source, rows in sources.items()}
    for source, rows in sources.items():
        train[source], held_out[source], seen = [], [], set()
        for raw in rows:
            row, dropped = tidied(raw, rules), counts[source].dropped
            groups = row.groups or (text_group(row.query),)
            out = [is_held_out(group, rules.held_out_fraction, rules.seed) for group in groups]
            side = "eval" if out[0] else "neither" if any(out) else "train"
            pair = (fold(row.query), fold(row.positive))
            key = (*pair, row.query_lang if side == "eval" else "")
            if fault := fault_of(row, rules):
                dropped[fault] += 1
            elif pair[0] == pair[1]:
                dropped["query equals positive"] += 1
            elif side == "neither":
                dropped["straddles the split"] += 1
            elif key in seen:
                dropped["duplicate"] += 1
            else:
                seen.add(key)
                (train if side == "train" else held_out)[source].append(row)
    for source, rows in held_out.items():
        lang = (evaluated or {}).get(source)
        if evaluated is not None and source not in evaluated:
            held_out[source], reason = [], "held out, source not evaluated"
        else:
            held_out[source] = [r for r in rows if not lang or r.task_type != "retrieval" or r.doc_lang == lang]
            reason = "held out, documents in another language"
        counts[source].drop({reason: len(rows) - len(held_out[source])})
    if rules.decontaminate == "drop_eval":
        known = set[str]().union(*map(texts_of, train.values()))
        for source, rows in held_out.items():
            held_out[source] = [row for row in rows if bare(row.query) not in known]
            counts[source].drop({"evaluation query occurs in training": len(rows) - len(held_out[source])})
    for source, rows in held_out.items():
        of_language = defaultdict(list)
        for row in rows:
            of_language[row.query_lang].append(row.id)
        chosen = set[str]()
        for ids in of_language.values():
            ids.sort(key=lambda name: stable_hash(rules.seed, "evaluate", name))
            chosen.update(ids[: rules.eval_per_language])
        held_out[source] = [row for row in rows if row.id in chosen]
        counts[source].drop({"held out, over the cap per language": len(rows) - len(held_out[source])})
    if rules.decontaminate == "drop_train":
        queries = {bare(row.query) for rows in held_out.values() for row in rows}
        for source, rows in train.items():
            train[source] = [row for row in rows if not queries & shown(row)]
            counts[source].drop({"training text is an evaluation query": len(rows) - len(train[source])})
    for source, own in counts.items():
        own.train, own.evaluation = len(train[source]), len(held_out[source])
    return train, held_out, {source: own.to_json() for source, own in counts.items()}


def tidied(row: Example, rules: CleanRules) -> Example:
    query, positive = tidy(row.query, row.query_lang), tidy(row.positive, row.doc_lang)
    texts = dict.fromkeys(tidy(text, row.doc_lang) for text in row.negatives)
    negatives = tuple(text for text in texts if text not in ("", positive) and len(text) <= rules.max_chars)
    return replace(row, query=query, positive=positive, negatives=negatives)


def fault_of(row: Example, rules: CleanRules) -> str | None:
    lengths = sorted((len(row.query), len(row.positive)))
    if lengths[0] == 0:
        return "empty"
    if lengths[0] < rules.min_chars:
        return "too short"
    if lengths[1] > rules.max_chars:
        return "too long"
    return "no negative" if row.task_type == "classification" and not row.negatives else None


def shown(row: Example) -> set[str]:
    return {bare(row.query)} if row.task_type == "classification" else texts_of([row])


words = st.sampled_from(["a", "b", "c", "d", "A.", " e ", "", "f f", "x" * 9])
groups = st.lists(st.sampled_from([f"g{index}" for index in range(8)]), max_size=2).map(tuple)
any_row = st.builds(
    example, words, words, groups, negatives=st.lists(words, max_size=2).map(tuple), id=st.uuids().map(str),
    task_type=st.sampled_from(TASK_TYPES), query_lang=st.sampled_from(["eng_Latn", "deu_Latn"]),
)  # fmt: skip


any_sources = st.dictionaries(st.sampled_from("abc"), st.lists(any_row, max_size=12), min_size=1)
any_rules = st.builds(
    CleanRules, st.sampled_from([0.0, 0.3, 0.6]), st.integers(0, 3), min_chars=st.integers(1, 2),
    max_chars=st.just(8), decontaminate=st.sampled_from(["drop_train", "drop_eval"]),
    eval_per_language=st.integers(1, 3), exclude=st.just(()),
)  # fmt: skip
any_evaluated = st.none() | st.dictionaries(st.sampled_from("abc"), st.sampled_from([None, "eng_Latn"]))
some_cuts = st.lists(st.floats(0, 1), max_size=3)


def agrees(
    folder: Path,
    sources: Rows,
    rules: CleanRules,
    evaluated: Mapping[str, str | None] | None,
    cuts: Sequence[float],
    engine: Engine,
) -> None:
    options = {name: getattr(rules, name) for name in rules.__dataclass_fields__}
    train, held_out, report = split(folder, sources, cuts=cuts, evaluated=evaluated, engine=engine, **options)
    assert (train, held_out, report.to_json()) == reference(sources, rules, evaluated)
    queries = {bare(row.query) for rows in held_out.values() for row in rows}
    assert not queries & set[str]().union(*(shown(row) for rows in train.values() for row in rows))
    if rules.decontaminate == "drop_eval":
        assert not queries & set[str]().union(*map(texts_of, train.values()))


@settings(max_examples=30, deadline=None)
@given(any_sources, any_rules, any_evaluated, some_cuts)
def test_equals_the_reference(
    tmp_path_factory: pytest.TempPathFactory,
    sources: Rows,
    rules: CleanRules,
    evaluated: Mapping[str, str | None] | None,
    cuts: list[float],
) -> None:
    agrees(tmp_path_factory.mktemp("clean"), sources, rules, evaluated, cuts, LocalEngine(1))


@pytest.fixture(scope="module")
def two_workers() -> Iterator[LocalEngine]:
    engine = LocalEngine(2)
    yield engine
    engine.close()


@pytest.mark.parametrize("mode", ["drop_train", "drop_eval"])
def test_two_workers_equal_the_reference(tmp_path: Path, two_workers: LocalEngine, mode: Any) -> None:
    dice = random.Random(7)
    texts = [f"{'some words ' * dice.randrange(3)}{number % 150}{'.,!'[number % 3]}" for number in range(400)]
    sources = {
        name: [
            example(
                dice.choice(texts), dice.choice(texts),
                tuple(f"g{dice.randrange(40)}" for _ in range(dice.randrange(3))),
                negatives=tuple(dice.choices(texts, k=dice.randrange(3))), id=str(number),
                task_type=dice.choice(TASK_TYPES), query_lang=dice.choice(["eng_Latn", "deu_Latn", "tha_Thai"]),
            )
            for number in range(700)
        ]
        for name in "abc"
    }  # fmt: skip
    rules = CleanRules(0.3, 1, decontaminate=mode, eval_per_language=9)
    agrees(tmp_path, sources, rules, {"a": "eng_Latn", "b": None}, (0.2, 0.5, 0.5, 0.9), two_workers)


def test_shards_without_rows_have_no_file(tmp_path: Path) -> None:
    rows = [example(""), example("a"), example("b"), example(""), example("c", "p", (OUT_GROUP,))]
    train, held_out, _ = split(tmp_path, {"a": rows, "none": []}, cuts=(0.2, 0.6))
    assert [path.name for path in (tmp_path / "out" / "train" / "a").iterdir()] == ["00001.parquet"]
    assert list((tmp_path / "out" / "train" / "none").iterdir()) == []
    assert ([row.query for row in train["a"]], len(held_out["a"]), held_out["none"]) == (["a", "b"], 1, [])


def test_nothing_is_held_out(tmp_path: Path) -> None:
    rows = [
        example("a", groups=(OUT_GROUP,)),
        example("b", groups=(IN_GROUP, OUT_GROUP)),
        example("a"),
        example("c", "a"),
    ]
    train, held_out, report = split(tmp_path, {"a": rows}, held_out_fraction=0.0)
    assert ([row.query for row in train["a"]], held_out["a"]) == (["a", "b", "c"], [])
    assert report.sources["a"].dropped == {"duplicate": 1}


class Dying(LocalEngine):
    """An engine that dies before a number of tasks is done, and notes which of them were done before."""

    def __init__(self, after: int) -> None:
        super().__init__(1)
        self.left, self.again = after, list[str]()

    def map(self, tasks: Sequence[Task], description: str) -> list[Any]:
        results = []
        for task in tasks:
            if finished(task):
                self.again.append(task.marker.name)
            elif not self.left:
                raise KeyboardInterrupt
            else:
                self.left -= 1
            results += super().map([task], description)
        return results


@pytest.mark.parametrize("mode", ["drop_train", "drop_eval"])
def test_a_killed_run_goes_on(tmp_path: Path, mode: Any) -> None:
    rows = [example(f"q {number}", f"p {number % 7}", (f"g{number % 9}",)) for number in range(40)]
    sources, cuts = {"a": rows, "b": rows[20:]}, (0.5,)
    options: dict[str, Any] = {"decontaminate": mode, "eval_per_language": 3}
    expected = split(tmp_path / "whole", sources, cuts=cuts, **options)
    paths = write_shards(tmp_path / "killed" / "raw", sources, cuts)
    rules = CleanRules(0.5, SEED, **options)
    for after in range(3, 60, 3):
        engine = Dying(3)
        try:
            clean(paths, tmp_path / "killed" / "out", rules, engine=engine)
            break
        except KeyboardInterrupt:
            assert len(engine.again) == after - 3, "no task is done twice"
    else:
        pytest.fail("the run does not come to its end")
    out = tmp_path / "killed" / "out"
    train = {name: list(read_examples(out / "train" / name)) for name in sources}
    held_out = {name: list(read_examples(out / "eval" / f"{name}.parquet")) for name in sources}
    assert (train, held_out) == expected[:2]
    assert json.loads((out / "drops.json").read_text(encoding="utf-8")) == expected[2].to_json()


def test_other_rows_or_rules_begin_anew(tmp_path: Path) -> None:
    rows = [example(f"q {number}") for number in range(8)]
    paths = write_shards(tmp_path / "raw", {"a": rows}, (0.5,))
    with pytest.raises(KeyboardInterrupt):
        clean(paths, tmp_path / "out", CleanRules(0.5, SEED), engine=Dying(5))
    train, _, report = split(tmp_path, {"a": rows[:3]}, max_chars=5)
    assert [row.query for row in train["a"]] == ["q 0", "q 1", "q 2"]
    assert report.sources["a"].rows == 3
    assert [path.name for path in (tmp_path / "out" / "train" / "a").iterdir()] == ["00000.parquet"], (
        "an old shard went"
    )


# ---- arrays


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5).map(lambda number: number << 61 | number), max_size=30), st.integers(1, 9))
def test_first_occurrences(keys: list[int], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean_duplicates, "_AT_ONCE", at_once)
        first = first_occurrences(np.array(keys, np.uint64))
    assert first.tolist() == [keys.index(key) == place for place, key in enumerate(keys)]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_occurs(keys: list[int], known: list[int]) -> None:
    found = occurs(np.array(keys + known, np.uint64), distinct([np.array(known, np.uint64)]))
    assert found.tolist() == [key in known for key in keys + known]


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
