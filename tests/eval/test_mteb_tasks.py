"""The family of 430 tasks, the choice of tasks by name, the time budget."""

from __future__ import annotations

import pytest

from f2llm.core.errors import ConfigError
from f2llm.eval import mteb_tasks
from tests.eval import mteb_fakes as fakes


def test_the_family_is_that_of_the_paper() -> None:
    found = mteb_tasks.family()
    sizes = [len(tasks) for tasks in found.members.values()]
    assert sizes == [131, 41, 12, 12, 73, 28, 20, 19, 25, 6, 17, 31, 28, 40, 23, 52, 50]
    assert len(found.benchmarks) == 17
    assert len(found.tasks) == len(set(found.tasks)) == 430
    assert found.as_dict() == {"benchmarks": found.benchmarks, "tasks": found.tasks}


def test_the_installed_mteb_has_the_family_with_the_same_tasks() -> None:
    found = mteb_tasks.family()
    assert mteb_tasks.unknown_to_mteb(found) == []
    for benchmark, tasks in found.members.items():
        assert set(mteb_tasks.benchmark_parts(benchmark)) == set(tasks)


def test_what_mteb_does_not_have_is_told() -> None:
    other = mteb_tasks.Family("other", {"MTEB(Klingon)": ("STS17", "KlingonSTS")})
    assert mteb_tasks.unknown_to_mteb(other) == ["MTEB(Klingon)", "KlingonSTS"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": ["STS71"]}, "no task 'STS71'; did you mean 'STS17'"),
        ({"benchmarks": ["MTEB(eng,v2)"]}, "did you mean 'MTEB(eng, v2)'"),
        ({"family_name": "f2llm-v1"}, "there is f2llm-v2"),
    ],
)
def test_a_wrong_name_is_one_sentence_with_the_nearest(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(").replace(")", r"\)")):
        mteb_tasks.choose_tasks(**options)


def test_a_benchmark_takes_its_own_subsets_and_a_named_task_all() -> None:
    korean, whole = (
        mteb_tasks.choose_tasks(**options)
        for options in ({"benchmarks": ["MTEB(kor, v1)"]}, {"tasks": ["MIRACLRetrieval"]})
    )
    by_name = {task.metadata.name: task for task in korean}
    assert by_name["MIRACLRetrieval"].hf_subsets == ["ko"]
    assert len(whole) == 1
    assert len(whole[0].hf_subsets) > 10
    both = mteb_tasks.choose_tasks(benchmarks=["MTEB(kor, v1)"], tasks=["MIRACLRetrieval"])
    assert len({t.metadata.name: t for t in both}["MIRACLRetrieval"].hf_subsets) > 10


def test_subsets_of_several_benchmarks_are_joined() -> None:
    tasks = mteb_tasks.choose_tasks(benchmarks=["MTEB(deu, v1)", "MTEB(fra, v1)"])
    names = [task.metadata.name for task in tasks]
    assert len(names) == len(set(names))
    assert set(tasks[names.index("STS22")].hf_subsets) >= {"de", "fr"}


def test_local_tasks_go_first_and_are_all_where_nothing_is_named() -> None:
    local = [fakes.Sts(), fakes.Search()]
    assert mteb_tasks.choose_tasks(local=local) == local
    assert mteb_tasks.choose_tasks(tasks=["FakeSearch"], local=local) == [local[1]]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2 d", 172800)])
def test_budget(text: str, seconds: float) -> None:
    assert mteb_tasks.parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "-1m", "0m", "1w", "30m!"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 30m"):
        mteb_tasks.parse_budget(text)


def test_the_cheapest_on_all_models_together_fit_in_the_budget() -> None:
    costs = {"a": [2.0, 3.0], "b": [1.0, 0.0], "c": [0.0, 3.0], "d": [8.0, 1.0]}
    assert mteb_tasks.within_budget(costs, 9.0) == (["b", "c", "a"], ["d"])
    assert mteb_tasks.within_budget(costs, 0.5) == ([], ["b", "c", "a", "d"])


def test_characters_are_mteb_s_statistics_or_counted() -> None:
    known = mteb_tasks.choose_tasks(tasks=["STSBenchmark"])[0]
    assert mteb_tasks.characters(known) == 74107 + 73779
    assert not known.data_loaded
    sts = fakes.Sts()
    rows = sts.make()["test"]
    assert mteb_tasks.characters(sts) == sum(map(len, [*rows["sentence1"], *rows["sentence2"]]))
    search = fakes.Search()
    search.load_data()
    split = [part["test"] for part in search.dataset.values()]
    texts = [t for part in split for t in [*part["corpus"]["text"], *part["corpus"]["title"], *part["queries"]["text"]]]
    assert mteb_tasks.characters(search) == sum(map(len, texts))
