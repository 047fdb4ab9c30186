"""`f2llm eval` and `f2llm compare` over their parts: names of models, the table, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from f2llm.core.errors import ConfigError
from f2llm.eval.results import TaskResult
from f2llm.pipeline import evaluating
from f2llm.pipeline.evaluating import _names, evaluate_models, family_listing, results_table


def result(task: str, score: float | None, dims: int | None = None, precision: str = "float32") -> TaskResult:
    return TaskResult(
        model="m", model_digest="d", task=task, task_type="STS", revision="1", split="test", dims=dims,
        precision=precision, main_score=score, error=None if score is not None else "no data",
    )  # fmt: skip


def test_the_family_has_seventeen_benchmarks_and_430_tasks() -> None:
    found = family_listing("f2llm-v2")
    assert (len(found["benchmarks"]), len(found["tasks"]), len(set(found["tasks"]))) == (17, 430, 430)


def test_models_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "a" / "small" / "model", tmp_path / "b" / "small" / "model"
    assert _names([one]) == ["small"]
    assert _names([one, two]) == ["a-small", "b-small"]
    assert _names([one], "int8") == ["small-int8"]
    with pytest.raises(ConfigError, match="same name"):
        _names([one, one])


def test_the_table_shows_the_widest_vectors() -> None:
    table = results_table({
        "a": [result("STSX", 0.5, 8), result("STSX", 0.7), result("STSX", 0.6, None, "binary")],
        "b": [result("STSX", None), result("STSY", 0.25, 16)],
    })  # fmt: skip
    cells = [list(column.cells) for column in table.columns]
    assert cells == [["STSX", "STSY"], ["STS", "STS"], ["0.700", "-"], ["-", "0.250"]]


def test_nothing_to_evaluate_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task is named"):
        evaluate_models([tmp_path], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"did you mean|no task"):
        evaluate_models([tmp_path], tmp_path / "out", tasks=["Bankin77Classification"])


class Slow:
    """A model whose tasks take as long as is said; running one moves the clock on."""

    def __init__(self, clock: list[float], costs: dict[str, float], factor: float) -> None:
        self.clock, self.costs, self.factor = clock, costs, factor

    def __call__(self) -> Slow:
        return self

    def seconds(self) -> dict[str, float]:
        return self.costs

    def results(self, chosen: list[str], deadline: float) -> list[str]:
        done = []
        for name in chosen:
            if self.clock[0] < deadline:
                self.clock[0] += self.factor * self.costs[name]
                done.append(name)
        return done


def test_a_budget_is_for_all_models_and_the_same_tasks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(evaluating.time, "monotonic", lambda: clock[0])
    a, b = Slow(clock, {"x": 4, "y": 1, "z": 9}, 1.0), Slow(clock, {"x": 6, "y": 1, "z": 9}, 1.0)
    plan = evaluating._within_budget({"a": a, "b": b}, 12.0)
    assert plan.tasks == ["y", "x"]
    assert "left out: z" in capsys.readouterr().err
    assert a.results(plan.tasks, plan.deadline("a")) == b.results(plan.tasks, plan.deadline("b")) == ["y", "x"]
    assert clock[0] == 12.0


def test_a_model_slower_than_estimated_leaves_the_next_one_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(evaluating.time, "monotonic", lambda: clock[0])
    a, b = Slow(clock, {"x": 1, "y": 2, "z": 3}, 10.0), Slow(clock, {"x": 1, "y": 2, "z": 3}, 1.0)
    plan = evaluating._within_budget({"a": a, "b": b}, 60.0)
    assert a.results(plan.tasks, plan.deadline("a")) == ["x", "y"]  # 30 s are gone
    assert b.results(plan.tasks, plan.deadline("b")) == ["x", "y", "z"]


def test_what_is_done_already_needs_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [5.0]
    monkeypatch.setattr(evaluating.time, "monotonic", lambda: clock[0])
    done = Slow(clock, {"x": 0.0}, 1.0)
    plan = evaluating._within_budget({"a": done}, 1.0)
    assert done.results(plan.tasks, plan.deadline("a")) == ["x"]
