"""Comparisons: the published table itself, common tasks, ranks, languages of a benchmark, flags, files of results."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from f2llm.core.errors import ConfigError, DataError
from f2llm.eval.compare import OWN, TRAINING_SPLIT, Group, _score_in, borda_points, compare
from f2llm.eval.compare_table import tables
from f2llm.eval.mteb_tasks import benchmark_parts, family
from f2llm.eval.published import PublishedTask, published_models, published_tasks
from f2llm.eval.results import NOT_A_NUMBER, TaskResult, group_runs, read_results, widest

CODE = "MTEB(Code, v1)"
PAPER = {  # F2LLM-v2, table 2: English v2, Code v1, Korean v1
    "80M": (64.55, 67.97, 59.98), "330M": (68.86, 75.74, 68.70), "14B": (73.08, 80.75, 74.85),
}  # fmt: skip


def of(benchmark: str) -> list[PublishedTask]:
    return [task for task in published_tasks() if task.benchmark == benchmark]


def result(task: PublishedTask, model: str = "mine", score: float = 0.5, **more: object) -> TaskResult:
    """A result of ours that differs in nothing from how the task is published."""
    made = TaskResult(
        model=model, model_digest=model, task=task.task, task_type=task.task_type, revision=task.revision,
        split=" ".join(task.splits), main_score=score, scores_by_language=dict.fromkeys(task.subsets, score),
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def group(results: list[TaskResult], benchmark: str = CODE, **options: object) -> Group:
    found = compare(results, benchmarks=[benchmark], draws=50, **options)  # type: ignore[arg-type]
    return next(entry for entry in found.groups if entry.benchmark == benchmark)


def test_what_is_published() -> None:
    tasks = published_tasks()
    assert (len(tasks), len({task.task for task in tasks}), len({task.benchmark for task in tasks})) == (730, 513, 26)
    assert len(published_models()) == 29
    paper = {(name, task) for name, members in family("f2llm-v2").members.items() for task in members}
    assert paper <= {(task.benchmark, task.task) for task in tasks}
    assert all(0 <= score <= 1 or task.task_type in ("STS", "Summarization", "InstructionReranking")
               for task in tasks for score in task.scores.values())  # fmt: skip
    assert all(task.splits and task.subsets and task.revision for task in tasks)


@pytest.mark.parametrize("size", PAPER)
def test_published_tasks_give_the_means_of_the_paper(size: str) -> None:
    model = f"codefuse-ai/F2LLM-v2-{size}"
    for name, mean in zip(("MTEB(eng, v2)", CODE, "MTEB(kor, v1)"), PAPER[size], strict=True):
        found = group([result(task, "ours", task.scores[model]) for task in of(name)], name)
        ours, theirs = (next(row for row in found.rows if row.model == who) for who in ("ours", model))
        assert 100 * theirs.mean == pytest.approx(mean, abs=0.006)
        assert (ours.mean, ours.borda_rank) == (pytest.approx(theirs.mean), theirs.borda_rank)


def test_only_tasks_that_all_of_ours_have_are_counted() -> None:
    first, second, third = of(CODE)[:3]
    results = [result(first, "a", 0.9), result(second, "a", 0.1), result(first, "b", 0.3), result(third, "b", 0.2)]
    found = group(results)
    assert [line.task for line in found.lines] == [first.task]
    assert found.left_out == {second.task: "no score by b", third.task: "no score by a"}
    assert found.tasks == 12
    assert {row.model: row.mean for row in found.rows if row.ours} == {"a": 0.9, "b": 0.3}


def test_incomplete_published_rows_have_no_rank_and_stand_last() -> None:
    found = group([result(task) for task in of(CODE)])
    incomplete = [row for row in found.rows if row.missing]
    assert {row.borda_rank for row in incomplete} == {None}
    assert found.rows[-len(incomplete) :] == incomplete
    bge = next(row for row in incomplete if row.model == "BAAI/bge-m3")
    assert len(bge.missing) == 10
    complete = [row for row in found.rows if not row.missing]
    assert [row.borda_rank for row in complete] == sorted(row.borda_rank or 0 for row in complete)


def test_a_task_that_is_published_for_next_to_no_model_is_left_out() -> None:
    found = group([result(task) for task in of("MTEB(Multilingual, v2)")], "MTEB(Multilingual, v2)")
    assert found.left_out == {"FloresBitextMining": "published for 1 of 29 models"}
    assert (len(found.lines), found.tasks) == (130, 131)
    assert sum(not row.missing and not row.ours for row in found.rows) >= 18
    alone = group([result(task) for task in of("MTEB(Multilingual, v2)")], "MTEB(Multilingual, v2)", models=[])
    assert len(alone.lines) == 131


def test_a_wanted_benchmark_without_a_common_task_says_why() -> None:
    first, second = of(CODE)[:2]
    shared = TaskResult(model="a", model_digest="a", task="Ours", task_type="STS", revision="1", split="test",
                        main_score=0.5)  # fmt: skip
    made = [shared, replace(shared, model="b", model_digest="b"), result(first, "a"), result(second, "b")]
    found = group(made)
    assert (list(found.lines), list(found.rows)) == ([], [])
    assert found.left_out == {first.task: "no score by b", second.task: "no score by a"}
    assert tables(compare(made, benchmarks=[CODE], draws=50), per_task=True)


def test_means_by_type_and_mean_of_types() -> None:
    tasks = of("MTEB(kor, v1)")
    scores = {task.task: 0.1 * number for number, task in enumerate(tasks)}
    found = group([result(task, score=scores[task.task]) for task in tasks], "MTEB(kor, v1)")
    mine = next(row for row in found.rows if row.ours)
    by_type: dict[str, list[float]] = {}
    for task in tasks:
        by_type.setdefault(task.task_type, []).append(scores[task.task])
    assert mine.mean_by_type == pytest.approx({kind: np.mean(values) for kind, values in by_type.items()})
    assert mine.mean_of_types == pytest.approx(np.mean([np.mean(values) for values in by_type.values()]))
    assert mine.mean != pytest.approx(mine.mean_of_types)


def test_borda_ranks_equal_those_of_mteb() -> None:
    polars, theirs = pytest.importorskip("polars"), pytest.importorskip("mteb.benchmarks._create_table")
    scores = np.random.default_rng(0).integers(0, 6, (9, 12)) / 10
    frame = polars.DataFrame({f"t{n}": row for n, row in enumerate(scores)})
    expected = frame.select(theirs._get_borda_rank(frame.columns)).to_series().to_list()
    points = borda_points(scores)
    assert [int(sum(other > own for other in points)) + 1 for own in points] == expected


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=8))
def test_borda_points_are_wins_and_half_ties(scores: list[list[int]]) -> None:
    wins = [
        sum((row[m] > other) + (row[m] == other) / 2 for row in scores for n, other in enumerate(row) if n != m)
        for m in range(4)
    ]
    assert borda_points(scores).tolist() == wins


def test_a_benchmark_takes_its_own_languages_of_a_task() -> None:
    narrow, wide = (
        next(t for t in of(name) if t.task == "MassiveIntentClassification")
        for name in ("MTEB(Scandinavian, v1)", "MTEB(Multilingual, v2)")
    )
    assert set(narrow.subsets) < set(wide.subsets)
    scores = {subset: 0.9 if subset in narrow.subsets else 0.4 for subset in wide.subsets}
    ours = [result(wide, score=float(np.mean(list(scores.values()))), scores_by_language=scores)]
    (line,) = group(ours, narrow.benchmark).lines
    assert (line.scores["mine"], line.marks) == (pytest.approx(0.9), ())
    (line,) = group([result(narrow, score=0.7)], wide.benchmark).lines
    assert (line.scores["mine"], line.marks) == (0.7, ("languages",))


def test_a_benchmark_takes_its_own_splits_and_languages_of_a_task_that_ran_for_several() -> None:
    """English v2 takes English on the test split of MassiveIntentClassification, Scandinavian v1 others on both."""
    english, nordic, wide = (
        next(t for t in of(name) if t.task == "MassiveIntentClassification")
        for name in ("MTEB(eng, v2)", "MTEB(Scandinavian, v1)", "MTEB(Multilingual, v2)")
    )
    assert (english.splits, english.subsets, nordic.splits) == (("test",), ("en",), ("validation", "test"))
    scores = {split: dict.fromkeys(wide.subsets, 0.2) for split in ("validation", "test")}
    scores["test"]["en"] = 0.9
    scores["test"] |= dict.fromkeys(nordic.subsets, 0.6)
    mean = {subset: (scores["test"][subset] + scores["validation"][subset]) / 2 for subset in wide.subsets}
    union = float(np.mean(list(mean.values())))
    ours = [result(wide, score=union, scores_by_language=mean, scores_by_split=scores)]
    for task, expected in ((english, 0.9), (nordic, 0.4), (wide, union)):
        (line,) = group(ours, task.benchmark).lines
        assert (line.scores["mine"], line.marks) == (pytest.approx(expected), ())
    (line,) = group([replace(ours[0], scores_by_split={})], english.benchmark).lines
    assert (line.scores["mine"], line.marks) == (pytest.approx(0.55), ("split",))


def test_the_mean_over_splits_and_languages_is_that_of_mteb() -> None:
    results = pytest.importorskip("mteb.results")
    scores = {"validation": {"da": 0.1, "sv": 0.3}, "test": {"da": 0.9}}  # a split without one of the languages
    entries = {
        split: [{"hf_subset": s, "languages": ["dan-Latn"], "main_score": score} for s, score in table.items()]
        for split, table in scores.items()
    }
    theirs = results.TaskResult(
        task_name="X", dataset_revision="1", mteb_version="2", scores=entries, evaluation_time=1.0
    ).get_score()
    task = replace(of(CODE)[0], splits=("validation", "test"), subsets=("da", "sv"))
    found = result(task, score=theirs, scores_by_language={"da": 0.5, "sv": 0.3}, scores_by_split=scores)
    assert _score_in(found, task) == (pytest.approx(theirs), [])


@pytest.mark.parametrize("name", ["MTEB(eng, v2)", "MTEB(Scandinavian, v1)"])
def test_published_parts_are_those_that_are_run(name: str) -> None:
    parts = benchmark_parts(name)
    for task in of(name):
        splits, subsets = parts[task.task]
        assert (set(splits), set(subsets)) == (set(task.splits), set(task.subsets)), task.task


def test_other_splits_and_revisions_are_marked_and_left_out_on_demand() -> None:
    first, second = of(CODE)[:2]
    ours = [result(first, split="validation", revision="0"), result(second, split=f"{second.splits[0]}")]
    assert {line.task: line.marks for line in group(ours).lines} == {first.task: ("split", "revision"), second.task: ()}
    strict = group(ours, exact=True)
    assert [line.task for line in strict.lines] == [second.task]
    assert strict.left_out == {first.task: "another split and revision than published"}


def test_flags_stand_beside_scores_and_have_a_mean_without_them() -> None:
    tasks = of(CODE)
    ours = [result(task, score=0.9 if task.task == "CosQA" else 0.5) for task in tasks]
    found = group(ours, flags={"CosQA": "overlaps the source cosqa"})
    flags = {line.task: line.flag for line in found.lines if line.flag}
    assert flags == {"CosQA": "overlaps the source cosqa", "CodeEditSearchRetrieval": TRAINING_SPLIT}
    mine = next(row for row in found.rows if row.ours)
    assert mine.mean_unflagged == pytest.approx(0.5)
    assert mine.mean > 0.53
    alone = group([result(next(t for t in tasks if t.task == "CosQA"))], flags={"CosQA": "seen"})
    assert alone.rows[0].mean_unflagged is None


def test_ours_are_told_from_a_published_model_of_the_same_name() -> None:
    name = "BAAI/bge-m3"
    found = group([result(task, name, 0.25) for task in of(CODE)])
    assert next(row for row in found.rows if row.ours).model == f"{name} (ours)"
    assert next(row for row in found.rows if row.model == name).mean > 0.4


def test_tasks_that_nobody_published_are_compared_among_ours() -> None:
    own = TaskResult(model="a", model_digest="1", task="Ours", task_type="STS", revision="1", split="test",
                     main_score=0.4)  # fmt: skip
    found = compare([own, replace(own, model="b", main_score=0.6)])
    assert [group.benchmark for group in found.groups] == [OWN]
    assert [(row.model, row.borda_rank) for row in found.groups[0].rows] == [("b", 1), ("a", 2)]


def test_published_models_are_chosen_by_name() -> None:
    found = group([result(of(CODE)[0])], models=["bge-m3", "Qwen/Qwen3-Embedding-0.6B"])
    assert {row.model for row in found.rows if not row.ours} <= {"BAAI/bge-m3", "Qwen/Qwen3-Embedding-0.6B"}
    assert {row.ours for row in group([result(of(CODE)[0])], models=[]).rows} == {True}


def test_the_widest_vectors_stand_for_a_model_unless_variants_are_wanted() -> None:
    task = of(CODE)[0]
    made = [
        result(task, score=0.3, dims=64), result(task, score=0.5), result(task, score=0.49, precision="int8"),
        result(task, score=0.2, dims=64, precision="binary"),
    ]  # fmt: skip
    assert [(run.label, run.dims, run.precision) for run in widest(group_runs(made))] == [("mine", None, "float32")]
    assert {row.model: row.mean for row in group(made, variants=True).rows if row.ours} == {
        "mine": 0.5, "mine @64": 0.3, "mine int8": 0.49, "mine @64 binary": 0.2,
    }  # fmt: skip
    two = [result(task, model_digest="abcdefgh"), result(task, model_digest="ijklmnop", score=0.6)]
    assert [run.label for run in group_runs(two)] == ["mine (abcdefg)", "mine (ijklmno)"]


def test_mistakes_are_told_in_one_sentence() -> None:
    first, second = of(CODE)[:2]
    with pytest.raises(ConfigError, match=r"no benchmark with published scores named 'MTEB\(Klingon\)'"):
        compare([result(first)], benchmarks=["MTEB(Klingon)"])
    with pytest.raises(ConfigError, match="no published model named 'bge-m4'"):
        compare([result(first)], models=["bge-m4"])
    with pytest.raises(DataError, match="no task that all of these have a score for: a, b"):
        compare([result(first, "a"), result(second, "b")])
    with pytest.raises(DataError, match="no result to compare"):
        compare([])
    with pytest.raises(DataError, match=f"mine has two scores for {first.task}: 0.5 .* and 0.6"):
        compare([result(first), result(first, score=0.6)])


def test_failures_are_kept_apart_from_scores() -> None:
    first, second = of(CODE)[:2]
    found = compare([result(first), result(second, score=0.0, main_score=None, error="no data")], draws=50)
    assert found.failures == [("mine", second.task, "no data")]
    assert found.groups[0].left_out == {second.task: "no score by mine"}


def test_files_and_directories_of_results(tmp_path: Path) -> None:
    first, second = (asdict(result(task)) for task in of(CODE)[:2])
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.json").write_text(json.dumps(first | {"mteb_version": "2"}), encoding="utf-8")
    (tmp_path / "index.json").write_text('{"vectors": 3}', encoding="utf-8")
    assert [entry.task for entry in read_results([tmp_path])] == [first["task"]]
    for number, content in enumerate(([first, second], {"results": [first, second]})):
        file = tmp_path.parent / f"{tmp_path.name}-{number}.json"
        file.write_text(json.dumps(content), encoding="utf-8")
        assert [entry.task for entry in read_results([file])] == [first["task"], second["task"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"task": "T", "model": ', "not valid JSON"),
        ('{"task": "T", "model": "m"}', "no result of a task"),
        ('{"vectors": 3}', "holds no results of tasks"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_results([tmp_path])
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"main_score": "high"}, {"scores_by_language": {"a": None}}, {"scores_by_split": {"test": 1}}, {"seconds": True}],
)
def test_a_damaged_value_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "x.json").write_text(json.dumps(asdict(result(of(CODE)[0])) | change), encoding="utf-8")
    with pytest.raises(DataError, match=next(iter(change))):
        read_results([tmp_path])


def test_a_score_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(asdict(result(of(CODE)[0], score=float("nan")))), encoding="utf-8")
    (found,) = read_results([tmp_path])
    assert (found.main_score, found.error) == (None, NOT_A_NUMBER)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_numbers_are_whole_at_any_width(width: int) -> None:
    name = "MTEB(Multilingual, v2)"
    found = compare([result(task, score=0.375) for task in of(name)], benchmarks=[name], draws=50)
    console = Console(record=True, width=width, file=io.StringIO())
    for table in tables(found, width=width):
        console.print(table)
    shown = console.export_text()
    line = next(line for line in shown.splitlines() if line.split()[1:2] == ["mine"])
    assert line.split().count("37.5") >= 5
    assert ("no room for the means of" in shown) == (width < 150)


def test_json_is_strict_and_tables_say_what_to_mind() -> None:
    other, first, second = of(CODE)[:3]
    made = [result(first, "a", 0.6, split="dev"), result(first, "b"), result(second, "b", 0.0, main_score=None)]
    made += [result(other, name) for name in "ab"]
    found = compare(made, benchmarks=[CODE], flags={first.task: "seen [in training]"}, draws=50)
    content = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert [line["marks"] for line in content["groups"][1]["lines"]] == [[], ["split"]]
    console = Console(record=True, width=160, file=io.StringIO())
    for table in tables(found, per_task=True):
        console.print(table)
    shown = console.export_text()
    for words in (f"{CODE}: 2 of 12 tasks", f"not as published: {first.task} (split)", "seen [in training]",
                  "left out:", "no score was written", "rows without a rank", "best published"):  # fmt: skip
        assert words in shown
